"""What was measured and what follows, as tables: for bench/results/scale.md, and for the places in docs/scale.md."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bench import markdown
from bench.markdown import DOCS, RESULTS
from bench.scale import model, shards
from bench.scale.model import Load, Prices

KEPT = RESULTS / "scale.json"
PAGE = DOCS / "scale.md"
RATES = (1_000, 10_000, 100_000, 1_000_000)
FOLLOWED = 0.1
KEPT_DAYS = 7
TAKES = 10_000
"""Writes a second of a shard's primary: an example, to be replaced by what yours take."""
CELL = 5_000
"""Tasks a second of servers that hear only each other, at most."""

Measured = Mapping[str, Any]


def write() -> None:
    """Writes both pages anew, of what is kept and of what the bench's own pages say now."""
    measured: Measured = json.loads(KEPT.read_text())
    (RESULTS / "scale.md").write_text(results(measured))
    PAGE.write_text(filled(PAGE.read_text(), measured))


def results(measured: Measured) -> str:
    """The page of the figures."""
    lines = ["# What grows with servers, shards, workspaces and tasks", ""]
    for title, table in tables(measured).values():
        lines += [f"## {title}", "", *(line.replace("../bench/results/", "") for line in table), ""]
    told = ", ".join(f"{name} {part['at']} (load {part['load']:.0f})" for name, part in sorted(measured.items()))
    told_of = (
        "CPU time by `/proc`, on 2 cores, one run each; of `spread`, `busy`, `follow` and `hearing` the middle one "
        "of three. The machine's load average then is in brackets, of which these runs themselves are some 2; more "
        "stretches CPU times, by half and more. `python -m bench.scale PART` measures a part again. "
        f"Measured: {told}. What it means: [docs/scale.md](../../docs/scale.md)."
    )
    return "\n".join([*lines, told_of, ""])


def filled(text: str, measured: Measured) -> str:
    """The text of docs/scale.md with its tables."""
    return markdown.filled(text, {name: table for name, (_, table) in tables(measured).items()})


def prices(measured: Measured) -> Prices:
    """Envoy's is the bench's own."""
    hearing, runs = measured["hearing"], measured["spread"]["runs"]
    return Prices(
        busy=[(run["rate"], run["server_ms"]) for run in _alone(measured)],
        follow=measured["follow"]["server_ms"],
        envoy=_of_page("rest", "OpenMCP Chain, POST /v1/tasks through Envoy", "Envoy CPU ms"),
        signal=hearing["signal"],
        changed=hearing["changed"],
        waiting=hearing["waiting"],
        idle=measured["idle"]["server_ms"],
        document=runs[0]["document"],
    )


def tables(measured: Measured) -> Mapping[str, tuple[str, Sequence[str]]]:
    """Each by its name, with its title."""
    return {
        "prices": ("Prices", _prices(measured)),
        "capacity": ("What a rate of tasks takes", _capacity(prices(measured))),
        "busy": ("More tasks at one server", _busy(measured)),
        "spread": ("The same rate over more servers", _spread(measured)),
        "shards": ("The busiest shard's load, as a multiple of the mean", _shards(measured)),
    }


def _prices(measured: Measured) -> Sequence[str]:
    p, idle, memory, edge = prices(measured), measured["idle"], measured["memory"], measured["edge"]
    rate = _alone(measured)[-1]["rate"]
    submit = _of_page("submit", "OpenMCP Chain, SubmitTask")
    run = _of_page("drain", "OpenMCP Chain, one worker, 100 tasks at a time")
    stream = _of_page("streams", "2,000, StreamTaskEvents", "server memory each, KiB")
    page, part = "[{0}](../bench/results/{0}.md)".format, "`{}`".format
    rows = [
        (f"a task, where one server does {rate:.0f} a second", "server CPU", f"{p.task(rate):.2f} ms", part("busy")),
        ("a submit alone, where 64 callers share writes", "server CPU", f"{submit:.2f} ms", page("submit")),
        ("a claim and an end, of 100 tasks at a time", "server CPU", f"{run:.2f} ms", page("drain")),
        ("to follow a task to its end, at another server", "server CPU", f"{p.follow:.1f} ms", part("follow")),
        ("a submit by REST", "Envoy CPU", f"{p.envoy:.2f} ms", page("rest")),
        ("a signal of another server, heard", "CPU of each other server", f"{p.signal:.2f} ms", part("hearing")),
        ("… a new task named in it", "the same", f"{p.waiting * 1000:.1f} µs", part("hearing")),
        ("… a task that was claimed or has ended", "the same", f"{p.changed * 1000:.1f} µs", part("hearing")),
        ("an idle server", "its CPU, a second", f"{p.idle:.0f} ms", part("idle")),
        ("… asks every shard", "queries a second", f"{idle['tasks_queries']:.1f}", part("idle")),
        ("… asks one shard", "queries a second", f"{idle['other_queries']:.1f}", part("idle")),
        ("a type of a workspace, known", "memory of every server", f"{memory['queue'] / 1024:.1f} KiB", part("memory")),
        ("… of which a worker takes", "more", f"{memory['looked_at'] / 1024:.1f} KiB", part("memory")),
        ("a waiting task, known", "memory", f"{memory['hint'] / 1024:.1f} KiB", part("memory")),
        ("an open event stream", "memory", f"{stream:.0f} KiB", page("streams")),
        ("a workspace that calls by Envoy", "memory of Envoy", f"{edge['workspace_kib']:.1f} KiB", part("edge")),
        ("a task that has ended", "document", f"{p.document:,.0f} bytes", part("spread")),
    ]
    return markdown.table(("what", "of", "measured", "by"), rows)


def _capacity(p: Prices) -> Sequence[str]:
    rows = []
    for rate in RATES:
        load = Load(rate, FOLLOWED)
        cells = -(-rate // CELL)
        heard = (model.BUSY * 1000 - p.idle - model.left(p, rate)) / 1000
        count = model.servers(p, load)
        each = model.servers(p, Load(rate / cells, FOLLOWED))
        assert each, "a cell is small enough"
        rows.append(
            (
                f"{rate:,}",
                f"{model.alone(p, load):,}",
                f"{heard:.2f} of a core",
                f"{count:,}" if count else "none are enough",
                f"{cells:,} × {each:,}",
                f"{model.WRITES * rate:,}",
                f"{model.shards(load, TAKES):,}",
                f"{rate * shards.shares()[0]:,.0f}",
                f"{model.envoys(p, rate):,}",
                f"{model.kept(p, load, KEPT_DAYS) / 1e12:,.1f} TB",
            )
        )
    heads = (
        "tasks a second",
        "servers, if none heard others",
        "hearing others, each",
        "servers",
        f"cells of {CELL:,} × servers",
        "documents written a second",
        f"shards, if one takes {TAKES:,} at most",
        "the largest workspace's tasks",
        "Envoys, if all is REST",
        f"kept {KEPT_DAYS} days",
    )
    return markdown.table(heads, rows)


def _alone(measured: Measured) -> Sequence[Mapping[str, Any]]:
    """One server: the least rate first."""
    return [measured["spread"]["runs"][0], *measured["busy"]["runs"]]


def _busy(measured: Measured) -> Sequence[str]:
    rows = [(f"{run['rate']:.0f}", f"{run['server_ms']:.1f}", f"{run['database_ms']:.1f}") for run in _alone(measured)]
    return markdown.table(("tasks a second", "server CPU ms a task", "database CPU ms a task"), rows)


def _spread(measured: Measured) -> Sequence[str]:
    rows = [
        (
            f"{run['servers']}",
            f"{run['server_ms']:.1f}",
            f"{run['database_ms']:.1f}",
            f"{run['signals']:.2f}",
            f"{run['named']:.2f}",
            f"{run['idle_ms']:.0f}",
            f"{run['idle_database_ms']:.0f}",
        )
        for run in measured["spread"]["runs"]
    ]
    heads = (
        "servers",
        "CPU ms a task, all servers",
        "database CPU ms a task",
        "signals a task",
        "named a task",
        "idle CPU ms a second, each",
        "… of the database",
    )
    return markdown.table(heads, rows)


def _shards(measured: Measured) -> Sequence[str]:
    rows = [
        (f"{run['shards']}", *(f"{run[kind]:.2f}" for kind in ("by_chance", "balanced", "hashed")))
        for run in measured["shards"]["runs"]
    ]
    return markdown.table(("shards", "ranges placed by chance", "ranges balanced by load", "hashed keys"), rows)


def _of_page(name: str, title: str, column: str = "server CPU ms") -> float:
    """A figure of a case, on its page."""
    rows = [line.split(" | ") for line in (RESULTS / f"{name}.md").read_text().splitlines() if line.startswith("| ")]
    (row,) = (row for row in rows if row[0] == f"| {title}")
    return float(row[rows[0].index(column)].split("**")[1])
