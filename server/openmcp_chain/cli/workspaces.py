"""`openmcp workspaces`, `openmcp operators`, `openmcp admins`: who may call."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from openmcp_chain.cli import LARGEST
from openmcp_chain.cli.deployment import Deployment, on_database, show_secret, time

if TYPE_CHECKING:
    from openmcp_chain.domain.audit import Actor
    from openmcp_chain.domain.workspace import Workspace
    from openmcp_chain.engine.administration import Administration

PAGE = 1000

workspaces = typer.Typer(help="Make, list, change and delete workspaces.", no_args_is_help=True)
operators = typer.Typer(help="Make operators, whose workers serve every workspace.", no_args_is_help=True)
admins = typer.Typer(help="Make administrators, who manage workspaces through the API.", no_args_is_help=True)

WorkspaceId = Annotated[str, typer.Argument(metavar="WORKSPACE_ID", show_default=False)]
NewId = Annotated[str, typer.Option("--id", help="Its id; by default a new UUID.", show_default=False)]
PendingTasks = Annotated[
    int | None,
    typer.Option(min=0, max=LARGEST, help="How many tasks may wait; 0: as many as its plan says.", show_default=False),
]
Streams = Annotated[
    int | None,
    typer.Option(
        min=0, max=LARGEST, help="How many streams a server keeps open for it; 0: as its plan says.", show_default=False
    ),
]


@workspaces.command("create")
@on_database
def create_workspace(
    deployment: Deployment,
    *,
    plan: Annotated[str, typer.Option(help="free, standard or unlimited.")],
    workspace_id: NewId = "",
    pending_tasks: PendingTasks = None,
    streams: Streams = None,
) -> None:
    """Make a workspace and show its secret, this once."""
    from openmcp_chain.domain.workspace import Quotas  # noqa: PLC0415 - see cli.main

    quotas = Quotas(pending_tasks or 0, streams or 0)
    created, secret = deployment.run(lambda opened, actor: opened.workspaces.create(actor, plan, workspace_id, quotas))
    show_secret(deployment, workspace_id=created.id, workspace_secret=secret)


@workspaces.command("list")
@on_database
def list_workspaces(deployment: Deployment) -> None:
    """List workspaces, operators and administrators."""
    known = deployment.run(lambda opened, _: _all(opened))
    if deployment.as_json:
        typer.echo(json.dumps([_described(one) for one in known], indent=2))
        return
    width = max((len(one.id) for one in known), default=0)
    for one in known:
        notes = " ".join([*sorted(one.worker_types), *([] if one.active else [one.state])])
        typer.echo(f"{one.id:<{width}}  {one.kind:<13}  {one.plan:<9}  {time(one.created_at)}  {notes}".rstrip())


@workspaces.command("get")
@on_database
def get_workspace(deployment: Deployment, workspace_id: WorkspaceId) -> None:
    """Show a workspace."""
    _show(deployment, deployment.run(lambda opened, _: opened.workspaces.get(workspace_id)))


@workspaces.command("update")
@on_database
def update_workspace(
    deployment: Deployment,
    workspace_id: WorkspaceId,
    *,
    plan: Annotated[str, typer.Option(help="Another plan.", show_default=False)] = "",
    pending_tasks: PendingTasks = None,
    streams: Streams = None,
) -> None:
    """Change a workspace's plan or quotas; what is not named stays."""

    async def update(opened: "Administration", actor: "Actor") -> "Workspace":
        from openmcp_chain.domain.workspace import Quotas  # noqa: PLC0415 - see cli.main

        if pending_tasks is None and streams is None:
            return await opened.workspaces.update(actor, workspace_id, plan)
        now = (await opened.workspaces.get(workspace_id)).quotas
        quotas = Quotas(
            now.pending_tasks if pending_tasks is None else pending_tasks, now.streams if streams is None else streams
        )
        return await opened.workspaces.update(actor, workspace_id, plan, quotas)

    _show(deployment, deployment.run(update))


@workspaces.command("disable")
@on_database
def disable_workspace(
    deployment: Deployment,
    workspace_id: WorkspaceId,
    *,
    reason: Annotated[str, typer.Option(help="Why, for the audit log.", show_default=False)] = "",
) -> None:
    """Shut a workspace out: its tokens end, its waiting tasks stay where they are."""
    _show(deployment, deployment.run(lambda opened, actor: opened.workspaces.disable(actor, workspace_id, reason)))


@workspaces.command("enable")
@on_database
def enable_workspace(deployment: Deployment, workspace_id: WorkspaceId) -> None:
    """Let a disabled workspace in again."""
    _show(deployment, deployment.run(lambda opened, actor: opened.workspaces.enable(actor, workspace_id)))


@workspaces.command("delete")
@on_database
def delete_workspace(
    deployment: Deployment,
    workspace_id: WorkspaceId,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
) -> None:
    """Delete a workspace with all its tasks; the servers do it in the background. Nothing undoes it."""
    if not yes:
        typer.confirm(f"Delete {workspace_id} with all its tasks?", abort=True)
    _show(deployment, deployment.run(lambda opened, actor: opened.workspaces.delete(actor, workspace_id)))


@operators.command("create")
@on_database
def create_operator(
    deployment: Deployment,
    *,
    task_type: Annotated[list[str], typer.Option("--type", help="A task type it may take; may be repeated.")],
    operator_id: NewId = "",
) -> None:
    """Make an operator and show its secret, this once."""
    created, secret = deployment.run(
        lambda opened, actor: opened.workspaces.create_operator(actor, task_type, operator_id)
    )
    show_secret(deployment, workspace_id=created.id, workspace_secret=secret)


@admins.command("create")
@on_database
def create_administrator(deployment: Deployment, *, administrator_id: NewId = "") -> None:
    """Make an administrator and show its secret, this once."""
    created, secret = deployment.run(
        lambda opened, actor: opened.workspaces.create_administrator(actor, administrator_id)
    )
    show_secret(deployment, workspace_id=created.id, workspace_secret=secret)


async def _all(opened: "Administration") -> list["Workspace"]:
    known: list[Workspace] = []
    token = ""
    while True:
        page = await opened.workspaces.list(PAGE, token)
        known += page.workspaces
        token = page.next_page_token
        if not token:
            return known


def _described(one: "Workspace") -> dict[str, object]:
    return {
        "workspace_id": one.id,
        "kind": one.kind,
        "state": one.state,
        "plan": one.plan,
        "quotas": {"pending_tasks": one.quotas.pending_tasks, "streams": one.quotas.streams},
        "worker_types": sorted(one.worker_types),
        "secrets": len(one.secrets),
        "created_at": time(one.created_at),
        "updated_at": time(one.updated_at),
    }


def _show(deployment: Deployment, one: "Workspace") -> None:
    if deployment.as_json:
        typer.echo(json.dumps(_described(one)))
        return
    quotas = {"pending_tasks": one.quotas.pending_tasks, "streams": one.quotas.streams}
    for name, value in (_described(one) | quotas).items():
        if name != "quotas":
            shown = " ".join(value) if isinstance(value, list) else value
            typer.echo(f"{name:<13}  {shown}".rstrip())
