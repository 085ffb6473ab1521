"""`make bench`: measures every case in interleaved rounds and writes a table and a chart of them to `bench/results`."""

import argparse
import asyncio
from pathlib import Path

from bench import chart, environment, report, rounds, summary
from bench.case import Size
from bench.cases import TABLES
from bench.markdown import RESULTS
from bench.scale import pages


def main() -> None:
    """Measures what the command line asks for."""
    names = [table.name for table in TABLES]
    parser = argparse.ArgumentParser(prog="make bench ARGS=…", description=__doc__)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(names)}; all by default")
    parser.add_argument("--rounds", type=rounds.at_least_one, default=5)
    parser.add_argument("--calls", type=rounds.at_least_one, default=6000, help="measured operations in a run")
    parser.add_argument("--warm-up", type=rounds.at_least_one, default=1000, help="operations before them")
    parser.add_argument("--callers", type=rounds.at_least_one, default=64, help="operations under way at a time")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    options = parser.parse_args()
    if unknown := set(options.tables) - set(names):
        parser.error(f"no such table: {', '.join(sorted(unknown))}")

    tables = [table for table in TABLES if table.name in (options.tables or names)]
    peers = {case.name for table in tables for case in table.cases if case.peer}
    if peers and (missing := environment.missing()):
        print(f"left out: {', '.join(sorted(peers))}; they need {' and '.join(missing)}, which `make bench` makes")
        tables = [table.without_peers() for table in tables]
    # A case that is in two tables is measured once.
    cases = list({case.name: case for table in tables for case in table.cases}.values())
    size = Size(calls=options.calls, warm_up=options.warm_up, callers=options.callers)
    results = asyncio.run(rounds.run(cases, size, options.rounds))
    options.results.mkdir(parents=True, exist_ok=True)
    for table in tables:
        (options.results / f"{table.name}.md").write_text(report.markdown(table, results))
        (options.results / f"{table.name}.svg").write_text(chart.svg(table, results))
        print(options.results / f"{table.name}.md")
    if options.results == RESULTS:
        pages.write()  # prices are among them
        summary.write()


if __name__ == "__main__":
    main()
