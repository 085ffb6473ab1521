"""Results as Markdown."""

import platform
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from statistics import median

import psutil

from bench import environment, postgresql, redis_server
from bench.case import Case, Goal, Ratio, Table
from bench.figures import Column
from bench.meter import OTHERS_CORES
from bench.rounds import Results

PACKAGES = ("grpcio", "protobuf", "motor", "pymongo", "uvloop", "SecantusDB", "fastapi", "uvicorn", "httptools")
DOUBT = "**Disbelieved:**"
"""On the page of a table of which a run was not believed."""


def markdown(table: Table, results: Results) -> str:
    """The table's page."""
    rounds = len(results.samples[table.cases[0].name])
    lines = [
        f"# {table.title}",
        "",
        f"![{table.plot.title}]({table.name}.svg)",
        "",
        f"| | {' | '.join(column.title for column in table.columns)} |",
        f"| --- |{' --- |' * len(table.columns)}",
        *(_row(case, table.columns, results) for case in table.cases),
        "",
    ]
    if table.goals:
        lines += ["| figure | measured | wanted |", "| --- | --- | --- |"]
        lines += [f"| {goal.title} | {results.goal(goal):.2f} {goal.unit} | {_reach(goal)} |" for goal in table.goals]
        lines += [""]
    if table.ratios:
        lines += ["| ratio | measured | wanted |", "| --- | --- | --- |"]
        lines += [f"| {ratio.title} | {results.ratio(ratio):.2f} × | {_wanted(ratio)} |" for ratio in table.ratios]
        lines += [""]
    method = (
        f"Medians of {rounds} rounds, least and most in brackets; ratios and differences are taken within a round. "
        f"{table.method or _method(table, results)} How to read this: [../README.md](../README.md)."
    )
    lines += [
        method,
        "",
        *_doubts(table, results),
        f"{datetime.now(UTC):%Y-%m-%d}, {_machine()}; {', '.join(_versions(table))}.",
        "",
    ]
    return "\n".join(lines)


def _reach(goal: Goal) -> str:
    return f"≤ {goal.at_most:g} {goal.unit}" if goal.at_most is not None else ""


def _method(table: Table, results: Results) -> str:
    operations = {sample.operations for case in table.cases for sample in results.samples[case.name]}
    return (
        f"In each run {' or '.join(f'{number:,}' for number in sorted(operations))} operations on a fresh database, by "
        f"{results.size.callers} callers at a time where a case says no other number. CPU times are for one operation."
    )


def _row(case: Case, columns: Sequence[Column], results: Results) -> str:
    samples = results.of(case)
    cells = [_spread((column.figure(sample) for sample in samples), column.form) for column in columns]
    return f"| {' | '.join([case.title, *cells])} |"


def _spread(figures: Iterable[float | None], form: str) -> str:
    values = [value for value in figures if value is not None]
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
        f"{DOUBT} in {named}, other programs used more than {OTHERS_CORES} cores. They are left out; "
        "where a case has no others, its figures are of these and say little."
    )
    return doubt, ""


def _versions(table: Table) -> Sequence[str]:
    told = [f"{name} {version(name)}" for name in PACKAGES]
    if table.has_peers:
        told += [one.versions() for one in environment.ALL]
        told += [environment.version(program) for program in (redis_server.program(), postgresql.program())]
    return told


def _machine() -> str:
    return f"{psutil.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
