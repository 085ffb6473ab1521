"""Results as Markdown."""

import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from statistics import median

import psutil

from bench.case import Case, Ratio, Table
from bench.meter import OTHERS_CORES
from bench.rounds import Results
from bench.sample import Sample

PACKAGES = ("grpcio", "protobuf", "motor", "pymongo", "uvloop", "SecantusDB", "fastapi", "uvicorn", "httptools")


def markdown(table: Table, results: Results) -> str:
    """The table's page."""
    size = results.size
    rounds = len(results.samples[table.cases[0].name])
    lines = [
        f"# {table.title}",
        "",
        f"![CPU time and throughput]({table.name}.svg)",
        "",
        "| | ops/s | server CPU ms | database CPU ms | load CPU ms | p50 ms | p99 ms |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(_row(case, results) for case in table.cases),
        "",
    ]
    if table.ratios:
        lines += ["| ratio | measured | wanted |", "| --- | --- | --- |"]
        lines += [f"| {ratio.title} | {results.ratio(ratio):.2f} × | {_wanted(ratio)} |" for ratio in table.ratios]
        lines += [""]
    operations = {sample.operations for samples in results.samples.values() for sample in samples}
    many = " or ".join(f"{number:,}" for number in sorted(operations))
    method = (
        f"Medians of {rounds} rounds, least and most in brackets; ratios are taken within a round. In each run {many} "
        f"operations on a fresh database, by {size.callers} callers at a time where a case says no other number. CPU "
        "times are for one operation. How to read this: [../README.md](../README.md)."
    )
    lines += [
        method,
        "",
        *_doubts(table, results),
        f"{datetime.now(UTC):%Y-%m-%d}, {_machine()}; {', '.join(f'{name} {version(name)}' for name in PACKAGES)}.",
        "",
    ]
    return "\n".join(lines)


def _row(case: Case, results: Results) -> str:
    samples = results.of(case)
    p50 = [sample.p50_ms for sample in samples if sample.p50_ms is not None]
    p99 = [sample.p99_ms for sample in samples if sample.p99_ms is not None]
    cells = [
        case.title,
        _spread([sample.rate for sample in samples], "{:,.0f}"),
        *(_cpu(samples, process) for process in ("server", "database", "load")),
        _spread(p50, "{:.1f}"),
        _spread(p99, "{:.1f}"),
    ]
    return f"| {' | '.join(cells)} |"


def _cpu(samples: Sequence[Sample], process: str) -> str:
    return _spread([sample.cpu_ms(process) for sample in samples if process in sample.usage.cpu], "{:.2f}")


def _spread(values: Sequence[float], form: str) -> str:
    if not values:
        return "–"
    show: Callable[[float], str] = form.format
    return f"**{show(median(values))}** ({show(min(values))}–{show(max(values))})"


def _wanted(ratio: Ratio) -> str:
    if ratio.at_least is not None:
        return f"≥ {ratio.at_least:.3g} ×"
    return f"≤ {ratio.at_most:.3g} ×" if ratio.at_most is not None else ""


def _doubts(table: Table, results: Results) -> Sequence[str]:
    doubts = {case.title: results.disbelieved(case) for case in table.cases}
    named = ", ".join(f"{count} of “{title}”" for title, count in doubts.items() if count)
    if not named:
        return ()
    doubt = (
        f"**Disbelieved:** in {named}, other programs used more than {OTHERS_CORES} cores. They are left out; "
        "where a case has no others, its figures are of these and say little."
    )
    return doubt, ""


def _machine() -> str:
    return f"{psutil.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
