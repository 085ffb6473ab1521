"""`openmcp keys`: what tokens are signed with."""

import json
from typing import Annotated

import typer

from openmcp_chain.cli.deployment import Deployment, on_database, time

keys = typer.Typer(help="Rotate, list and revoke the keys that tokens are signed with.", no_args_is_help=True)


@keys.command("rotate")
@on_database
def rotate(deployment: Deployment) -> None:
    """Publish a new key, which signs as soon as every server and Envoy knows it. Tokens of the old one stay good."""
    key = deployment.run(lambda opened, actor: opened.keys.rotate(actor))
    if deployment.as_json:
        typer.echo(json.dumps({"kid": key.kid, "signs_from": time(key.signs_from)}))
        return
    typer.echo(f"{key.kid} is published, and signs from {time(key.signs_from)}")


@keys.command("list")
@on_database
def list_keys(deployment: Deployment) -> None:
    """List the keys, the oldest first, and what each does: next, signing, verifying, retired."""
    known = deployment.run(lambda opened, _: opened.keys.list())
    shown = [
        {
            "kid": one.kid,
            "phase": one.phase.value,
            "signs_from": time(one.signs_from),
            "retires_at": time(one.retires_at) if one.retires_at else None,
        }
        for one in known
    ]
    if deployment.as_json:
        typer.echo(json.dumps(shown, indent=2))
        return
    for one in shown:
        typer.echo(f"{one['kid']}  {one['phase']:<9}  {one['signs_from']}  {one['retires_at'] or '-'}")


@keys.command("revoke")
@on_database
def revoke(
    deployment: Deployment,
    kid: Annotated[str, typer.Argument(metavar="KID", help="As `openmcp keys list` shows it.", show_default=False)],
) -> None:
    """End a key that has leaked, and with it all of its tokens, within seconds. If it signs, another takes over."""
    new = deployment.run(lambda opened, actor: opened.keys.revoke(kid, actor))
    if deployment.as_json:
        replaced = {"replaced_by": new.kid, "signs_from": time(new.signs_from)} if new else {}
        typer.echo(json.dumps({"kid": kid, **replaced}))
        return
    typer.echo(f"{kid} is revoked")
    if new is not None:
        typer.echo(f"{new.kid} takes its place, and signs from {time(new.signs_from)}")
