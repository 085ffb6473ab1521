"""What commands share that work on a deployment's database itself, and so need no token."""

import asyncio
import inspect
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from openmcp_chain.domain.audit import Actor
    from openmcp_chain.engine.administration import Administration

_T = TypeVar("_T")
Command = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Deployment:
    """Which deployment a command works on, and how it shows what it has done."""

    data_dir: Path
    mongodb_uri: str
    database: str
    master_key_file: str
    as_json: bool

    def run(self, use: Callable[["Administration", "Actor"], Awaitable[_T]]) -> _T:
        """What `use` returns. Whatever is wrong ends the command with one line and status 1."""
        from openmcp_chain import config  # noqa: PLC0415 - see cli.main
        from openmcp_chain.config import ConfigError  # noqa: PLC0415 - as above
        from openmcp_chain.domain import errors  # noqa: PLC0415 - as above
        from openmcp_chain.engine.administration import local_actor  # noqa: PLC0415 - as above
        from openmcp_chain.stack import administration  # noqa: PLC0415 - as above

        async def run() -> _T:
            async with administration.opened(config.from_environment(self._environment())) as opened:
                return await use(opened, local_actor())

        try:
            return asyncio.run(run())
        except (ConfigError, errors.Error, ValueError) as error:
            raise _fail(str(error)) from None

    def _environment(self) -> dict[str, str]:
        """The settings of its servers, as far as they are known."""
        environment = dict(os.environ) | {"OPENMCP_MONGODB_DATABASE": self.database}
        if self.mongodb_uri:
            environment |= {"OPENMCP_MONGODB_URI": self.mongodb_uri, "OPENMCP_MONGODB_URI_FILE": ""}
        elif not environment.get("OPENMCP_MONGODB_URI_FILE"):  # as a server's container has it
            environment |= _of_stack(self.data_dir)
        if self.master_key_file:
            environment |= {"OPENMCP_MASTER_KEY_FILE": self.master_key_file}
        return environment


def _options(
    *,
    data_dir: Annotated[
        Path, typer.Option(help="Data folder of a running `openmcp dev`, used unless --mongodb-uri is given.")
    ] = Path(".openmcp"),
    mongodb_uri: Annotated[
        str, typer.Option(envvar="OPENMCP_MONGODB_URI", help="The deployment's database.", show_default=False)
    ] = "",
    database: Annotated[str, typer.Option(envvar="OPENMCP_MONGODB_DATABASE", help="Its name.")] = "openmcp",
    master_key_file: Annotated[
        str,
        typer.Option(
            envvar="OPENMCP_MASTER_KEY_FILE",
            help="The deployment's master key; needed with --mongodb-uri.",
            show_default=False,
        ),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> Deployment:
    return Deployment(data_dir, mongodb_uri, database, master_key_file, as_json)


def on_database(command: Command) -> Command:
    """Gives a command, beside its own, the options that say which deployment it is for: it gets that as its first."""
    own = list(inspect.signature(command).parameters.values())[1:]
    shared = inspect.signature(_options).parameters

    @wraps(command)
    def run(**arguments: object) -> None:
        chosen = {name: arguments.pop(name) for name in shared}
        command(_options(**chosen), **arguments)  # type: ignore[arg-type]  # the options of that function

    parameters = [*own, *shared.values()]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def time(at: datetime) -> str:
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")


def show_secret(deployment: Deployment, **shown: str) -> None:
    """Shows what has just been made, its secret among it."""
    if deployment.as_json:
        typer.echo(json.dumps(shown))
        return
    for name, value in shown.items():
        typer.echo(f"{name:<16}  {value}")
    typer.echo("Keep the secret now: it can't be shown again.", err=True)


def _of_stack(data_dir: Path) -> dict[str, str]:
    """The settings of the stack that is up on this data folder."""
    try:
        uri = json.loads((data_dir / "dev.json").read_text())["mongodb_uri"]
    except (OSError, ValueError, LookupError, TypeError):
        raise _fail(
            f"no stack is up on {data_dir}: start `openmcp dev`, or give --mongodb-uri and --master-key-file"
        ) from None
    return {"OPENMCP_MONGODB_URI": uri, "OPENMCP_MASTER_KEY_FILE": str(data_dir / "master.key")}


def _fail(message: str) -> typer.Exit:
    typer.echo(f"openmcp: {message}", err=True)
    return typer.Exit(1)
