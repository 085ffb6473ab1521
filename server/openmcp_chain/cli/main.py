"""The `openmcp` command. Each subcommand imports what it needs when it runs, so that `--help` answers at once."""

from typing import Annotated

import typer

import openmcp_chain
from openmcp_chain.cli import audit, envoy, keys, processes, secrets, tasks, workspaces

app = typer.Typer(
    name="openmcp",
    help="OpenMCP Chain, a multi-tenant task service. `openmcp dev` starts all of it on this machine.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,  # they would show local variables, and so secrets
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"openmcp {openmcp_chain.__version__}")
        raise typer.Exit


@app.callback()
def _openmcp(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None: ...


app.command()(processes.dev)
app.command()(processes.server)
app.command()(processes.worker)
app.command()(envoy.envoy_config)
app.add_typer(tasks.tasks, name="tasks")
app.add_typer(workspaces.workspaces, name="workspaces")
app.add_typer(workspaces.operators, name="operators")
app.add_typer(workspaces.admins, name="admins")
app.add_typer(secrets.secrets, name="secrets")
app.add_typer(keys.keys, name="keys")
app.add_typer(audit.audit, name="audit")
