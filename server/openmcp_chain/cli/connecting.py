"""The client that a command uses: by the environment, by options, or that of a stack on this machine."""

import inspect
import json
import os
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec

import typer

if TYPE_CHECKING:
    from openmcp_chain.client import Client

P = ParamSpec("P")

TIMEOUT_SECONDS = 10.0
"""For a call with all its tries: somebody waits at a terminal."""


def _options(
    *,
    server: Annotated[
        str, typer.Option(envvar="OPENMCP_SERVER", help="The server, as host:port.", show_default=False)
    ] = "",
    workspace_id: Annotated[
        str, typer.Option(envvar="OPENMCP_WORKSPACE_ID", help="The workspace to sign in to.", show_default=False)
    ] = "",
    secret_file: Annotated[
        str,
        typer.Option(
            envvar="OPENMCP_WORKSPACE_SECRET_FILE",
            help="The file with its secret; or set OPENMCP_WORKSPACE_SECRET.",
            show_default=False,
        ),
    ] = "",
    ca_file: Annotated[
        str,
        typer.Option(
            envvar="OPENMCP_CA_FILE", help="PEM file with the authorities to trust for TLS.", show_default=False
        ),
    ] = "",
    cert_file: Annotated[
        str,
        typer.Option(
            envvar="OPENMCP_CERT_FILE", help="PEM file with the certificate to show the server.", show_default=False
        ),
    ] = "",
    key_file: Annotated[
        str, typer.Option(envvar="OPENMCP_KEY_FILE", help="PEM file with its key.", show_default=False)
    ] = "",
    secure: Annotated[
        bool | None,
        typer.Option(
            "--secure/--plaintext",
            envvar="OPENMCP_SECURE",
            help="Whether to use TLS.",
            show_default="TLS, but not on this machine",
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="Data folder of a running `openmcp dev`, to use its server and its demo workspace.",
            show_default=".openmcp if no server is named",
        ),
    ] = None,
) -> "Client":
    """The client that these options describe. Raises SettingsError."""
    from openmcp_chain.client import Client  # noqa: PLC0415 - see cli.main

    if data_dir is not None or not server:
        return Client(**_of_stack(data_dir or Path(".openmcp")), timeout=TIMEOUT_SECONDS)
    told = {
        "OPENMCP_SERVER": server,
        "OPENMCP_WORKSPACE_ID": workspace_id,
        "OPENMCP_WORKSPACE_SECRET_FILE": secret_file,
        "OPENMCP_CA_FILE": ca_file,
        "OPENMCP_CERT_FILE": cert_file,
        "OPENMCP_KEY_FILE": key_file,
        "OPENMCP_SECURE": "" if secure is None else str(secure),
    }
    return Client.from_environment({**os.environ, **told}, timeout=TIMEOUT_SECONDS)


def connected(command: Callable[Concatenate["Client", P], None]) -> Callable[..., None]:
    """Makes a command of a function that takes a client first.

    The command has the options that say which client besides the function's own. What the service refuses, and what is
    wrong with a setting or a file, ends it with one line and status 1.
    """
    own = [*inspect.signature(command).parameters.values()][1:]
    ours = [*inspect.signature(_options).parameters.values()]
    names = {one.name for one in ours}

    @wraps(command)
    def run(**given: Any) -> None:
        from openmcp_chain.client import Error  # noqa: PLC0415 - see cli.main

        try:
            with _options(**{name: value for name, value in given.items() if name in names}) as client:
                command(client, **{name: value for name, value in given.items() if name not in names})  # type: ignore[call-arg]  # its own options
        except Error as error:
            raise fail(str(error)) from None

    parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*own, *ours)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def fail(message: str) -> typer.Exit:
    """Says in one line why the command can't go on."""
    typer.echo(f"openmcp: {message}", err=True)
    return typer.Exit(1)


def _of_stack(data_dir: Path) -> Mapping[str, Any]:
    """The server and the demo workspace of the stack that is up on this data folder."""
    try:
        told = json.loads((data_dir / "dev.json").read_text())
        return {
            "target": told["grpc_target"],
            "workspace_id": told["workspace_id"],
            "workspace_secret": told["workspace_secret"],
            "ca": told.get("ca_file"),
            "certificate": told.get("cert_file"),
            "key": told.get("key_file"),
        }
    except (OSError, ValueError, LookupError, TypeError):
        raise fail(
            f"no stack is up on {data_dir}: start `openmcp dev`, or set OPENMCP_SERVER, OPENMCP_WORKSPACE_ID and "
            "OPENMCP_WORKSPACE_SECRET_FILE"
        ) from None
