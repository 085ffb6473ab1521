"""How tasks look: coloured and fitted to the window on a terminal, plain whole lines elsewhere, and as JSON.

What is shown comes from whoever submitted the task and whoever ran it: characters that a terminal would obey are
written out.
"""

import dataclasses
import json
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

from rich import progress
from rich.console import Console
from rich.text import Text

from openmcp_chain.client import Event, Progress, Status, Submitted, Task

_STYLES = {
    Status.PENDING: "yellow",
    Status.RUNNING: "cyan",
    Status.SUCCEEDED: "green",
    Status.FAILED: "red",
    Status.CANCELLED: "magenta",
    Status.UNKNOWN: "dim",
}
_HEADS = ("TASK", "TYPE", "STATUS", "TRY", "AGE", "NOTE")
_LABEL = 17


def plain(value: Task | Submitted | Event, without: Collection[str] = ()) -> dict[str, Any]:
    """As JSON, by the contract's names; `without` those of what was not asked for and looks as if it were not there."""
    names = [one.name for one in dataclasses.fields(value) if one.name not in without]
    return {name: _plain(getattr(value, name)) for name in names}


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


class Display:
    """Writes to standard output."""

    def __init__(self) -> None:
        self._out = Console(highlight=False, markup=False, emoji=False)
        self._now = datetime.now(UTC)
        self.terminal = self._out.is_terminal
        """Whether somebody is looking."""

    def table(self, tasks: Iterable[Task]) -> None:
        """One line for each; on a terminal it is cut at the window's edge."""
        rows = [
            (task.task_id, shown(task.type), str(task.status), str(task.attempt), self._age(task), self._note(task))
            for task in tasks
        ]
        widths = [max(len(row[column]) for row in (_HEADS, *rows)) for column in range(len(_HEADS) - 1)]
        lines = [_row(_HEADS, widths, ["dim"] * len(_HEADS))]
        lines += [_row(row, widths, ["", "", _STYLES[Status(row[2])], "", "", "dim"]) for row in rows]
        for line in lines:
            self._out.print(line, soft_wrap=not self.terminal, no_wrap=True, overflow="ellipsis")

    def task(self, task: Task) -> None:
        """All that is known of it."""
        for name, value in (
            ("task_id", task.task_id),
            ("type", task.type),
            ("status", Text(task.status, _STYLES[task.status])),
            ("error", Text(shown(task.error or ""), "red")),
            ("progress", _progress(task.progress)),
            ("cancel_requested", "yes" if task.cancel_requested and not task.status.ended else ""),
            ("attempt", str(task.attempt)),
            ("priority", str(task.priority)),
            ("labels", _pairs(task.labels)),
            ("metadata", _pairs(task.metadata)),
            ("dedupe_key", task.dedupe_key),
            ("submitted_at", self._time(task.submitted_at)),
            ("updated_at", self._time(task.updated_at)),
            ("schedule_time", self._time(task.schedule_time) if task.status is Status.PENDING else ""),
            ("expire_time", self._time(task.expire_time)),
        ):
            if str(value):
                self._line(_labelled(name, value if isinstance(value, Text) else Text(shown(value))))
        for name, values in (("payload", task.payload), ("result", task.result)):
            if values is not None:
                self._line(_labelled(name, Text(_json(values).replace("\n", "\n" + " " * _LABEL))))

    def event(self, event: Event) -> None:
        """One line."""
        line = Text().append(f"{event.occurred_at.astimezone():%H:%M:%S}  ", "dim")
        line.append(f"{event.status:<9}", _STYLES[event.status])
        line.append(f"  {_told(event)}")
        line.rstrip()
        self._line(line)

    def outcome(self, task: Task) -> None:
        """How it ended, below its events."""
        if task.error:
            self._line(Text(shown(task.error), "red"))
        if task.result is not None:
            self._line(Text(_json(task.result)))

    def watching(self) -> "Bar":
        """A bar below the lines; there is none if nobody is looking."""
        return Bar(self._out)

    def waiting(self, task_id: str) -> AbstractContextManager[object]:
        """Shows that something is waited for, to who is looking."""
        if not self.terminal:
            return nullcontext()
        return self._out.status(Text(f"waiting for {task_id}", "dim"))

    def _line(self, text: Text) -> None:
        """Never broken nor cut: people paste what they see."""
        self._out.print(text, soft_wrap=True)

    def _age(self, task: Task) -> str:
        return _length(self._now - task.submitted_at)

    def _note(self, task: Task) -> str:
        if task.error:
            return shown(task.error.removeprefix(f"{task.status}: "))
        if task.cancel_requested and not task.status.ended:
            return "cancel requested"
        if task.status is Status.PENDING and task.schedule_time is not None and task.schedule_time > self._now:
            return f"in {_length(task.schedule_time - self._now)}"
        return _progress(task.progress) if task.status is Status.RUNNING else ""

    def _time(self, at: datetime | None) -> str:
        if at is None:
            return ""
        ago = self._now - at
        relative = f"{_length(ago)} ago" if ago >= timedelta() else f"in {_length(-ago)}"
        return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ} ({relative})"


class Bar:
    """Progress of one task, as its events tell of it."""

    def __init__(self, console: Console) -> None:
        self._progress = progress.Progress(
            progress.SpinnerColumn(),
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TaskProgressColumn(),
            progress.TimeElapsedColumn(),
            progress.TextColumn("{task.fields[message]}", style="dim", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._bar = self._progress.add_task("", total=None, message="")
        self._status = Status.UNKNOWN

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, event: Event) -> None:
        """Takes over what the event says; where the status changes, all begins anew."""
        if told := event.progress:
            self._progress.update(self._bar, total=1.0, completed=told.fraction, message=shown(told.message))
        elif event.status is not self._status and not event.status.ended:
            self._status = event.status
            self._progress.reset(self._bar, total=None, message="", description=str(event.status))
            ago = (datetime.now(UTC) - event.occurred_at).total_seconds()
            self._progress.tasks[0].start_time = self._progress.get_time() - max(ago, 0.0)


def shown(text: str) -> str:
    """A text fit for one line of a terminal: what is not printable is written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _row(cells: tuple[str, ...], widths: list[int], styles: list[str]) -> Text:
    line = Text()
    for cell, width, style in zip(cells, widths, styles[:-1], strict=False):
        line.append(f"{cell:<{width}}  ", style)
    line.append(cells[-1], styles[-1])
    line.rstrip()
    return line


def _labelled(name: str, value: Text) -> Text:
    return Text().append(f"{name:<{_LABEL}}", "dim").append(value)


def _progress(progress: Progress | None) -> str:
    return f"{progress.fraction:.0%} {shown(progress.message)}".rstrip() if progress else ""


def _pairs(values: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in values.items())


def _told(event: Event) -> str:
    if event.progress:
        return _progress(event.progress)
    if "log" in event.context:
        return _word(event.context["log"])
    return ", ".join(f"{name} {_word(value)}" for name, value in event.context.items())


def _word(value: object) -> str:
    return shown(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _json(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, indent=2, ensure_ascii=False, sort_keys=True)
    return "\n".join(shown(line) for line in text.split("\n"))


def _length(length: timedelta) -> str:
    """The largest unit that fits: `5s`, `3m`, `2h`, `4d`."""
    seconds = max(int(length.total_seconds()), 0)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
