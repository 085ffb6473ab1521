"""`openmcp audit`: who did what."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from openmcp_chain.cli.deployment import Deployment, on_database, time

if TYPE_CHECKING:
    from openmcp_chain.domain.audit import Event

MOST = 1000

audit = typer.Typer(help="Show who did what to workspaces, secrets and signing keys.", no_args_is_help=True)


@audit.command("list")
@on_database
def list_events(
    deployment: Deployment,
    *,
    workspace_id: Annotated[
        str, typer.Option("--workspace", help="Only what was done to this one.", show_default=False)
    ] = "",
    limit: Annotated[int, typer.Option(min=1, max=MOST, help="How many at most.")] = 100,
) -> None:
    """List the audit log, the newest first."""
    page = deployment.run(lambda opened, _: opened.audit.list(workspace_id, limit))
    if deployment.as_json:
        typer.echo(json.dumps([_described(event) for event in page.events], indent=2))
        return
    for event in page.events:
        details = " ".join(f"{name}={value}" for name, value in event.details.items())
        typer.echo(f"{time(event.at)}  {event.actor.name}  {event.action}  {event.workspace}  {details}".rstrip())


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
