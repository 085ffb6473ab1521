"""`openmcp audit`: who did what."""

import json
import re
from typing import TYPE_CHECKING, Annotated

import typer

from openmcp_chain.cli.deployment import Deployment, on_database, time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openmcp_chain.domain.audit import Event
    from openmcp_chain.engine.administration import Administration

PAGE = 1000
_PLAIN = re.compile(r"[\w.:+-]+")

audit = typer.Typer(help="Show who did what to workspaces, secrets and signing keys.", no_args_is_help=True)


@audit.command("list")
@on_database
def list_events(
    deployment: Deployment,
    *,
    workspace_id: Annotated[
        str, typer.Option("--workspace", help="Only what was done to this one.", show_default=False)
    ] = "",
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 100,
) -> None:
    """List the audit log, the newest first."""
    events = deployment.run(lambda opened, _: _newest(opened, workspace_id, limit))
    if deployment.as_json:
        typer.echo(json.dumps([_described(event) for event in events], indent=2))
        return
    for event in events:
        details = " ".join(f"{name}={_shown(value)}" for name, value in event.details.items())
        typer.echo(f"{time(event.at)}  {event.actor.name}  {event.action}  {event.workspace}  {details}".rstrip())


async def _newest(opened: "Administration", workspace_id: str, limit: int) -> "Sequence[Event]":
    events: list[Event] = []
    token = ""
    while len(events) < limit:
        page = await opened.audit.list(workspace_id, min(PAGE, limit - len(events)), token)
        events += page.events
        token = page.next_page_token
        if not token:
            break
    return events


def _shown(value: str) -> str:
    """Bare if it is one word, else quoted, on one line: no reason is taken for other details, or for another event."""
    from openmcp_chain.cli import display  # noqa: PLC0415 - see cli.main

    return value if _PLAIN.fullmatch(value) else display.shown(json.dumps(value, ensure_ascii=False))


def _described(event: "Event") -> dict[str, object]:
    return {
        "event_id": event.id,
        "occurred_at": time(event.at),
        "actor": event.actor.name,
        "action": event.action,
        "workspace_id": event.workspace,
        "details": dict(event.details),
        "request_id": event.actor.request_id,
    }
