"""`openmcp tasks`: submit tasks and follow them.

Exit status: 0; or 1, with one line that says why; or 2, if the task that was waited for or watched did not succeed.
"""

import json
import re
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from openmcp_chain.cli import LARGEST
from openmcp_chain.cli.connecting import connected, fail

if TYPE_CHECKING:
    from openmcp_chain.client import Client, Options, Submitted, Task

FAILED = 2
"""The exit status that says: the task ended FAILED or CANCELLED."""
MANY_SECONDS = 30.0
"""What one call may take that changes many tasks; a server takes no longer."""
LONGEST = timedelta(days=3650)
"""The longest time that an option takes; the service takes no task for as long."""
_UNITS = {"ms": "milliseconds", "s": "seconds", "": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class _Group(TyperGroup):
    """A mistake in the command line ends with 1 here: 2 is what a task that failed ends with."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - Typer's own types are not public
        try:
            return super().invoke(ctx)
        except typer.TyperException as error:
            error.exit_code = 1
            raise


tasks = typer.Typer(
    help="Submit tasks and follow them.\n\n"
    "Exit status: 0 if all went well; 1 with one line that says what did not; 2 if the task that was waited for or "
    "watched ended FAILED or CANCELLED.",
    no_args_is_help=True,
    cls=_Group,
)


def _length(text: str) -> timedelta:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)?", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a length of time, such as 30s, 1.5h or 7d")
    with suppress(OverflowError):
        length = timedelta(**{_UNITS[match[2] or ""]: float(match[1])})
        if length <= LONGEST:
            return length
    raise typer.BadParameter(f"{text!r} is longer than {LONGEST.days}d")


def _moment(text: str) -> datetime:
    try:
        if text.startswith("+"):
            return datetime.now(UTC) + _length(text[1:])
        return datetime.fromisoformat(text).astimezone(UTC)
    except OverflowError:
        raise typer.BadParameter(f"{text!r} is not in the years 1 to 9999") from None
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a time, such as 2030-01-31T08:00Z, nor +10m") from None


def _payload(text: str) -> dict[str, Any]:
    """JSON, or where to read it. Ends the command if it can't be read or is none."""
    try:
        if text == "-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8")
        value = json.loads(text)
    except OSError as error:
        raise fail(f"--payload: cannot read {text[1:]}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise fail(f"--payload: is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise fail("--payload: must be a JSON object")
    return value


def _pairs(option: str, texts: list[str] | None) -> dict[str, str]:
    for text in texts or ():
        if "=" not in text:
            raise fail(f"{option}: {text!r} is not KEY=VALUE")
    return dict(text.split("=", 1) for text in texts or ())


TaskId = Annotated[str, typer.Argument(metavar="TASK_ID", help="The task's id.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Wait = Annotated[
    timedelta | None,
    typer.Option(
        parser=_length, metavar="TIME", help="How long to wait, such as 90s or 2h; by default as long as it takes."
    ),
]
_LENGTH: Any = {"parser": _length, "metavar": "TIME", "show_default": False}


@tasks.command("submit")
@connected
def submit(
    client: "Client",
    *,
    task_type: Annotated[str, typer.Argument(metavar="TYPE", help="What kind of task, such as data_pipeline.")],
    payload: Annotated[str, typer.Option(help="The payload: JSON, @FILE, or - for standard input.")] = "{}",
    label: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="A label; may be repeated.")] = None,
    metadata: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="May be repeated.")] = None,
    priority: Annotated[int, typer.Option(min=0, max=LARGEST, help="1 (first) to 5 (last).", show_default="3")] = 0,
    schedule_time: Annotated[
        datetime | None, typer.Option(parser=_moment, metavar="TIME", help="Not before this time, or +10m.")
    ] = None,
    dedupe_key: Annotated[
        str, typer.Option(help="No second task with this key while one has not ended.", show_default=False)
    ] = "",
    use_existing: Annotated[
        bool, typer.Option("--use-existing", help="If the key is taken, name the task that has it.")
    ] = False,
    maximum_attempts: Annotated[
        int, typer.Option(min=0, max=LARGEST, help="How often it is tried.", show_default="5")
    ] = 0,
    start_to_close_timeout: Annotated[timedelta | None, typer.Option(help="For one attempt.", **_LENGTH)] = None,
    schedule_to_close_timeout: Annotated[timedelta | None, typer.Option(help="For all of it.", **_LENGTH)] = None,
    retention: Annotated[timedelta | None, typer.Option(help="How long to keep it afterwards.", **_LENGTH)] = None,
    request_id: Annotated[
        str, typer.Option(help="A UUID that makes the command safe to repeat.", show_default=False)
    ] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its end and show it, as `wait` does.")] = False,
    timeout: Wait = None,
    as_json: Json = False,
) -> None:
    """Submit a task and print its id."""
    from openmcp_chain.client import RetryPolicy  # noqa: PLC0415 - see cli.main

    options: Options = {
        "labels": _pairs("--label", label),
        "metadata": _pairs("--metadata", metadata),
        "priority": priority,
        "dedupe_key": dedupe_key,
        "request_id": request_id,
        "retry_policy": RetryPolicy(maximum_attempts=maximum_attempts),
    }
    if use_existing:
        options["on_conflict"] = "USE_EXISTING"
    if schedule_time is not None:
        options["schedule_time"] = schedule_time
    if start_to_close_timeout is not None:
        options["start_to_close_timeout"] = start_to_close_timeout
    if schedule_to_close_timeout is not None:
        options["schedule_to_close_timeout"] = schedule_to_close_timeout
    if retention is not None:
        options["retention"] = retention
    task = client.submit(task_type, _payload(payload), **options)
    if wait:
        _end(client, task.task_id, timeout, as_json=as_json)
    elif as_json:
        _print_json(task)
    else:
        typer.echo(task.task_id)


@tasks.command("get")
@connected
def get(
    client: "Client",
    *,
    task_id: TaskId,
    payload: Annotated[bool, typer.Option("--payload", help="With its payload.")] = False,
    as_json: Json = False,
) -> None:
    """Show a task."""
    _show(client.get(task_id, view="FULL" if payload else None), as_json=as_json, payload=payload)


@tasks.command("list")
@connected
def list_tasks(
    client: "Client",
    *,
    query: Annotated[
        str,
        typer.Option(
            "--filter",
            metavar="FILTER",
            help="Which tasks, such as 'status = FAILED AND labels.team = \"search\"'.",
            show_default="all",
        ),
    ] = "",
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    as_json: Json = False,
) -> None:
    """List tasks, the newest first."""
    from openmcp_chain.cli import display  # noqa: PLC0415 - see cli.main

    found = [*client.list(query, limit=limit + 1)]
    if as_json:
        typer.echo(json.dumps([display.plain(task, without=("payload", "result")) for task in found[:limit]], indent=2))
        return
    if found:
        display.Display().table(found[:limit])
    if len(found) > limit:
        typer.echo(f"There are more than these {limit}: see --limit and --filter.", err=True)
    elif not found:
        typer.echo("There are no such tasks." if query else "There are no tasks.", err=True)


@tasks.command("watch")
@connected
def watch(
    client: "Client",
    *,
    task_id: TaskId,
    after: Annotated[int, typer.Option(min=0, max=LARGEST, help="Show only events after this sequence.")] = 0,
    timeout: Wait = None,
    as_json: Json = False,
) -> None:
    """Follow a task's events to its end, with a progress bar on a terminal; then show its result or error.

    With --json, each event is one line, and the task is not shown.
    """
    from openmcp_chain.cli import display  # noqa: PLC0415 - see cli.main

    if as_json:
        for event in client.events(task_id, after=after, timeout=timeout):
            typer.echo(json.dumps(display.plain(event)))
        _exit(client.get(task_id, view="BASIC"))
        return
    out = display.Display()
    with out.watching() as bar:
        for event in client.events(task_id, after=after, timeout=timeout):
            bar.show(event)
            if not (out.terminal and event.progress):
                out.event(event)
    task = client.get(task_id)
    out.outcome(task)
    _exit(task)


@tasks.command("wait")
@connected
def wait_for(client: "Client", *, task_id: TaskId, timeout: Wait = None, as_json: Json = False) -> None:
    """Wait until a task has ended, and show it."""
    _end(client, task_id, timeout, as_json=as_json)


@tasks.command("cancel")
@connected
def cancel(
    client: "Client",
    *,
    task_id: TaskId,
    reason: Annotated[
        str, typer.Option(help="Why; it is kept with the task and told to its worker.", show_default=False)
    ] = "",
    as_json: Json = False,
) -> None:
    """End a task early. One that runs is asked to stop, and may still succeed."""
    _report(client.cancel(task_id, reason=reason), as_json=as_json)


@tasks.command("retry")
@connected
def retry(
    client: "Client",
    *,
    task_id: Annotated[str, typer.Argument(metavar="[TASK_ID]", help="The task's id.", show_default=False)] = "",
    query: Annotated[
        str | None,
        typer.Option("--filter", metavar="FILTER", help="Instead of one: all that this selects.", show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="With --filter: how many at most.")] = 100,
    as_json: Json = False,
) -> None:
    """Try a failed or cancelled task again; or, with --filter, all such tasks, and print their ids."""
    if bool(task_id) == (query is not None):
        raise fail("retry: give a TASK_ID, or else --filter")
    if query is None:
        _report(client.retry(task_id), as_json=as_json)
        return
    retried = client.batch_retry(query, limit=limit, timeout=MANY_SECONDS)
    while retried.more and not retried.task_ids:  # there was none in what could be looked through in time
        retried = client.batch_retry(query, limit=limit, page_token=retried.next_page_token, timeout=MANY_SECONDS)
    if as_json:
        typer.echo(json.dumps({"task_ids": retried.task_ids, "more": retried.more}))
        return
    for one in retried.task_ids:
        typer.echo(one)
    if retried.more:
        typer.echo("There are more: repeat the command.", err=True)
    elif not retried.task_ids:
        typer.echo("There are no such tasks that failed or were cancelled.", err=True)


def _end(client: "Client", task_id: str, timeout: timedelta | None, *, as_json: bool) -> None:
    """Waits for the task's end, shows it, and ends with the status that it gives."""
    from openmcp_chain.cli import display  # noqa: PLC0415 - see cli.main

    with display.Display().waiting(task_id):
        task = client.wait(task_id, timeout=timeout)
    _show(task, as_json=as_json)
    _exit(task)


def _exit(task: "Task") -> None:
    from openmcp_chain.client import Status  # noqa: PLC0415 - see cli.main

    if task.status is not Status.SUCCEEDED:
        raise typer.Exit(FAILED)


def _show(task: "Task", *, as_json: bool, payload: bool = False) -> None:
    from openmcp_chain.cli import display  # noqa: PLC0415 - see cli.main

    if as_json:
        _print_json(task, payload=payload)
    else:
        display.Display().task(task)


def _report(task: "Task", *, as_json: bool) -> None:
    """What has become of a task, in a line."""
    if as_json:
        _print_json(task)
    else:
        asked = task.cancel_requested and not task.status.ended
        typer.echo(f"{task.task_id} {task.status}{', cancel requested' if asked else ''}")


def _print_json(value: "Task | Submitted", *, payload: bool = False) -> None:
    from openmcp_chain.cli import display  # noqa: PLC0415 - see cli.main

    typer.echo(json.dumps(display.plain(value, without=() if payload else ("payload",)), indent=2))
