"""`openmcp workspaces`, `openmcp operators`: who may call. They work on the database itself and need no token."""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from openmcp_chain.domain.workspace import Workspace
    from openmcp_chain.engine.identity import Identity

_T = TypeVar("_T")

workspaces = typer.Typer(help="Make and list workspaces.", no_args_is_help=True)
operators = typer.Typer(help="Make operators, whose workers serve every workspace.", no_args_is_help=True)

DataDir = Annotated[
    Path, typer.Option(help="Data folder of a running `openmcp dev`, used unless --mongodb-uri is given.")
]
MongodbUri = Annotated[
    str, typer.Option(envvar="OPENMCP_MONGODB_URI", help="The deployment's database.", show_default=False)
]
Database = Annotated[str, typer.Option(envvar="OPENMCP_MONGODB_DATABASE", help="Its name.")]
MasterKeyFile = Annotated[
    str,
    typer.Option(
        envvar="OPENMCP_MASTER_KEY_FILE",
        help="The deployment's master key; needed with --mongodb-uri.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@workspaces.command("create")
def create_workspace(
    *,
    plan: Annotated[str, typer.Option(help="free, standard or unlimited.")],
    workspace_id: Annotated[str, typer.Option("--id", help="Its id; by default a new UUID.", show_default=False)] = "",
    data_dir: DataDir = Path(".openmcp"),
    mongodb_uri: MongodbUri = "",
    database: Database = "openmcp",
    master_key_file: MasterKeyFile = "",
    as_json: Json = False,
) -> None:
    """Make a workspace and show its secret, this once."""
    created, secret = _with_identity(
        data_dir, mongodb_uri, database, master_key_file, lambda identity: identity.create_workspace(plan, workspace_id)
    )
    _show_secret(created.id, secret, as_json=as_json)


@workspaces.command("list")
def list_workspaces(
    *,
    data_dir: DataDir = Path(".openmcp"),
    mongodb_uri: MongodbUri = "",
    database: Database = "openmcp",
    master_key_file: MasterKeyFile = "",
    as_json: Json = False,
) -> None:
    """List workspaces and operators."""
    known = _with_identity(
        data_dir, mongodb_uri, database, master_key_file, lambda identity: identity.list_workspaces()
    )
    if as_json:
        typer.echo(json.dumps([_described(one) for one in known], indent=2))
        return
    width = max((len(one.id) for one in known), default=0)
    for one in known:
        notes = " ".join([*sorted(one.worker_types), *([] if one.active else [one.state])])
        typer.echo(f"{one.id:<{width}}  {one.kind:<13}  {one.plan:<9}  {_time(one.created_at)}  {notes}".rstrip())


@operators.command("create")
def create_operator(
    *,
    task_type: Annotated[list[str], typer.Option("--type", help="A task type it may take; may be repeated.")],
    operator_id: Annotated[str, typer.Option("--id", help="Its id; by default a new UUID.", show_default=False)] = "",
    data_dir: DataDir = Path(".openmcp"),
    mongodb_uri: MongodbUri = "",
    database: Database = "openmcp",
    master_key_file: MasterKeyFile = "",
    as_json: Json = False,
) -> None:
    """Make an operator and show its secret, this once."""
    created, secret = _with_identity(
        data_dir,
        mongodb_uri,
        database,
        master_key_file,
        lambda identity: identity.create_operator(task_type, operator_id),
    )
    _show_secret(created.id, secret, as_json=as_json)


def _described(one: "Workspace") -> dict[str, object]:
    return {
        "workspace_id": one.id,
        "kind": one.kind,
        "state": one.state,
        "plan": one.plan,
        "worker_types": sorted(one.worker_types),
        "secrets": len(one.secrets),
        "created_at": _time(one.created_at),
    }


def _time(at: datetime) -> str:
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")


def _show_secret(workspace_id: str, secret: str, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"workspace_id": workspace_id, "workspace_secret": secret}))
        return
    typer.echo(f"workspace_id      {workspace_id}\nworkspace_secret  {secret}")
    typer.echo("Keep the secret now: it can't be shown again.", err=True)


def _with_identity(
    data_dir: Path,
    mongodb_uri: str,
    database: str,
    master_key_file: str,
    use: Callable[["Identity"], Awaitable[_T]],
) -> _T:
    """What `use` returns. Whatever is wrong ends the command with one line and status 1."""
    from openmcp_chain import config  # noqa: PLC0415 - see cli.main
    from openmcp_chain.config import ConfigError  # noqa: PLC0415
    from openmcp_chain.domain import errors  # noqa: PLC0415
    from openmcp_chain.stack import administration  # noqa: PLC0415

    environment = dict(os.environ) | {"OPENMCP_MONGODB_DATABASE": database}
    if master_key_file:
        environment |= {"OPENMCP_MASTER_KEY_FILE": master_key_file}
    if mongodb_uri:
        environment |= {"OPENMCP_MONGODB_URI": mongodb_uri, "OPENMCP_MONGODB_URI_FILE": ""}
    elif not environment.get("OPENMCP_MONGODB_URI_FILE"):  # as a server's container has it
        environment |= _of_stack(data_dir)

    async def run() -> _T:
        async with administration.opened(config.from_environment(environment)) as identity:
            return await use(identity)

    try:
        return asyncio.run(run())
    except (ConfigError, errors.Error, ValueError) as error:
        raise _fail(str(error)) from None


def _of_stack(data_dir: Path) -> dict[str, str]:
    """The settings of the stack that is up on this data folder."""
    try:
        uri = json.loads((data_dir / "dev.json").read_text())["mongodb_uri"]
    except OSError:
        raise _fail(
            f"no stack is up on {data_dir}: start `openmcp dev`, or give --mongodb-uri and --master-key-file"
        ) from None
    return {"OPENMCP_MONGODB_URI": uri, "OPENMCP_MASTER_KEY_FILE": str(data_dir / "master.key")}


def _fail(message: str) -> typer.Exit:
    typer.echo(f"openmcp: {message}", err=True)
    return typer.Exit(1)
