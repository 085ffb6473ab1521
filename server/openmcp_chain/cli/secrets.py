"""`openmcp secrets`: what workspaces sign in with."""

import json
from datetime import timedelta
from typing import Annotated

import typer

from openmcp_chain.cli.deployment import Deployment, on_database, show_secret, time
from openmcp_chain.cli.workspaces import WorkspaceId

LONGEST_SECONDS = 30 * 24 * 3600

secrets = typer.Typer(help="Rotate, list and revoke workspaces' secrets.", no_args_is_help=True)


@secrets.command("rotate")
@on_database
def rotate_secret(
    deployment: Deployment,
    workspace_id: WorkspaceId,
    *,
    overlap: Annotated[
        float, typer.Option(min=0, max=LONGEST_SECONDS, help="Seconds that the secrets of before stay valid.")
    ] = 24 * 3600,
) -> None:
    """Make a new secret and show it, this once."""
    kept, told = deployment.run(
        lambda opened, actor: opened.secrets.rotate(actor, workspace_id, timedelta(seconds=round(overlap, 3)))
    )
    show_secret(deployment, workspace_id=workspace_id, secret_id=kept.id, workspace_secret=told)


@secrets.command("list")
@on_database
def list_secrets(deployment: Deployment, workspace_id: WorkspaceId) -> None:
    """List a workspace's valid secrets: their ids and times, never their values."""
    known = deployment.run(lambda opened, _: opened.secrets.list(workspace_id))
    shown = [
        {
            "secret_id": one.id,
            "created_at": time(one.created_at),
            "expires_at": time(one.expires_at) if one.expires_at else None,
        }
        for one in known
    ]
    if deployment.as_json:
        typer.echo(json.dumps(shown, indent=2))
        return
    for one in shown:
        typer.echo(f"{one['secret_id']}  {one['created_at']}  {one['expires_at'] or '-'}")


@secrets.command("revoke")
@on_database
def revoke_secret(
    deployment: Deployment,
    workspace_id: WorkspaceId,
    secret_id: Annotated[str, typer.Argument(metavar="SECRET_ID", show_default=False)],
) -> None:
    """End a secret at once; tokens got with it end within seconds."""
    deployment.run(lambda opened, actor: opened.secrets.revoke(actor, workspace_id, secret_id))
