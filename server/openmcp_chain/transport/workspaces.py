"""WorkspaceService."""

from datetime import timedelta

from openmcp.chain.v1 import workspaces_pb2
from openmcp_chain import logs
from openmcp_chain.domain.audit import Actor
from openmcp_chain.domain.workspace import Quotas
from openmcp_chain.engine.administration import Administration
from openmcp_chain.engine.secrets import OVERLAP
from openmcp_chain.engine.workspaces import REASON_CHARACTERS
from openmcp_chain.transport import codec
from openmcp_chain.transport.checks import Checks
from openmcp_chain.transport.rpc import Call

PAGE = 100
LONGEST_PAGE = 1000
LONGEST_OVERLAP = timedelta(days=30)
_MOST = 2**31 - 1


class WorkspaceService:
    """See `workspaces.proto`."""

    def __init__(self, administration: Administration) -> None:
        self._workspaces = administration.workspaces
        self._secrets = administration.secrets
        self._audit = administration.audit

    async def CreateWorkspace(
        self, request: workspaces_pb2.CreateWorkspaceRequest, call: Call
    ) -> workspaces_pb2.CreateWorkspaceResponse:
        """Makes a workspace, or an operator."""
        checks = Checks()
        if not request.worker_types:
            checks.required("plan", request.plan)
        quotas = _quotas(checks, request.quotas)
        checks.done()
        if request.worker_types:
            created, secret = await self._workspaces.create_operator(
                _actor(call), request.worker_types, request.workspace_id, request.plan, quotas
            )
        else:
            created, secret = await self._workspaces.create(_actor(call), request.plan, request.workspace_id, quotas)
        return workspaces_pb2.CreateWorkspaceResponse(
            workspace=codec.workspace(created), workspace_secret=secret, secret_id=created.secrets[-1].id
        )

    async def GetWorkspace(
        self, request: workspaces_pb2.GetWorkspaceRequest, _: Call
    ) -> workspaces_pb2.GetWorkspaceResponse:
        """Reads a workspace."""
        _require(workspace_id=request.workspace_id)
        known = await self._workspaces.get(request.workspace_id)
        return workspaces_pb2.GetWorkspaceResponse(workspace=codec.workspace(known))

    async def ListWorkspaces(
        self, request: workspaces_pb2.ListWorkspacesRequest, _: Call
    ) -> workspaces_pb2.ListWorkspacesResponse:
        """Lists workspaces."""
        listed = await self._workspaces.list(_size(request.page_size), request.page_token)
        return workspaces_pb2.ListWorkspacesResponse(
            workspaces=[codec.workspace(known) for known in listed.workspaces], next_page_token=listed.next_page_token
        )

    async def UpdateWorkspace(
        self, request: workspaces_pb2.UpdateWorkspaceRequest, call: Call
    ) -> workspaces_pb2.UpdateWorkspaceResponse:
        """Changes a workspace's plan or quotas."""
        checks = Checks()
        checks.required("workspace_id", request.workspace_id)
        quotas = _quotas(checks, request.quotas) if request.HasField("quotas") else None
        checks.done()
        updated = await self._workspaces.update(_actor(call), request.workspace_id, request.plan, quotas)
        return workspaces_pb2.UpdateWorkspaceResponse(workspace=codec.workspace(updated))

    async def DisableWorkspace(
        self, request: workspaces_pb2.DisableWorkspaceRequest, call: Call
    ) -> workspaces_pb2.DisableWorkspaceResponse:
        """Shuts a workspace out."""
        checks = Checks()
        checks.required("workspace_id", request.workspace_id)
        checks.at_most("reason", request.reason, REASON_CHARACTERS)
        checks.done()
        disabled = await self._workspaces.disable(_actor(call), request.workspace_id, request.reason)
        return workspaces_pb2.DisableWorkspaceResponse(workspace=codec.workspace(disabled))

    async def EnableWorkspace(
        self, request: workspaces_pb2.EnableWorkspaceRequest, call: Call
    ) -> workspaces_pb2.EnableWorkspaceResponse:
        """Lets a workspace in again."""
        _require(workspace_id=request.workspace_id)
        enabled = await self._workspaces.enable(_actor(call), request.workspace_id)
        return workspaces_pb2.EnableWorkspaceResponse(workspace=codec.workspace(enabled))

    async def DeleteWorkspace(
        self, request: workspaces_pb2.DeleteWorkspaceRequest, call: Call
    ) -> workspaces_pb2.DeleteWorkspaceResponse:
        """Begins to delete a workspace."""
        _require(workspace_id=request.workspace_id)
        deleting = await self._workspaces.delete(_actor(call), request.workspace_id)
        return workspaces_pb2.DeleteWorkspaceResponse(workspace=codec.workspace(deleting))

    async def RotateSecret(
        self, request: workspaces_pb2.RotateSecretRequest, call: Call
    ) -> workspaces_pb2.RotateSecretResponse:
        """Makes a new secret."""
        checks = Checks()
        checks.required("workspace_id", request.workspace_id)
        asked = request.overlap if request.HasField("overlap") else None
        overlap = checks.duration("overlap", asked, 0, LONGEST_OVERLAP.total_seconds())
        checks.done()
        kept, told = await self._secrets.rotate(
            _actor(call), request.workspace_id, OVERLAP if overlap is None else overlap
        )
        return workspaces_pb2.RotateSecretResponse(secret_id=kept.id, workspace_secret=told)

    async def RevokeSecret(
        self, request: workspaces_pb2.RevokeSecretRequest, call: Call
    ) -> workspaces_pb2.RevokeSecretResponse:
        """Ends a secret."""
        checks = Checks()
        checks.required("workspace_id", request.workspace_id)
        checks.secret_id("secret_id", request.secret_id)
        checks.done()
        await self._secrets.revoke(_actor(call), request.workspace_id, request.secret_id)
        return workspaces_pb2.RevokeSecretResponse()

    async def ListSecrets(
        self, request: workspaces_pb2.ListSecretsRequest, _: Call
    ) -> workspaces_pb2.ListSecretsResponse:
        """Lists a workspace's secrets."""
        _require(workspace_id=request.workspace_id)
        kept = await self._secrets.list(request.workspace_id)
        return workspaces_pb2.ListSecretsResponse(secrets=map(codec.secret_info, kept))

    async def ListAuditEvents(
        self, request: workspaces_pb2.ListAuditEventsRequest, _: Call
    ) -> workspaces_pb2.ListAuditEventsResponse:
        """Lists the audit log."""
        logged = await self._audit.list(request.workspace_id, _size(request.page_size), request.page_token)
        return workspaces_pb2.ListAuditEventsResponse(
            events=map(codec.audit_event, logged.events), next_page_token=logged.next_page_token
        )


def _actor(call: Call) -> Actor:
    return Actor(call.caller.workspace, logs.request_id.get())


def _size(asked: int) -> int:
    checks = Checks()
    checks.at_least("page_size", asked, 0, _MOST)
    checks.done()
    return min(asked or PAGE, LONGEST_PAGE)


def _quotas(checks: Checks, quotas: workspaces_pb2.Quotas) -> Quotas:
    checks.at_least("quotas.pending_tasks", quotas.pending_tasks, 0, _MOST)
    checks.at_least("quotas.streams", quotas.streams, 0, _MOST)
    return codec.quotas(quotas)


def _require(**fields: str) -> None:
    checks = Checks()
    for field, value in fields.items():
        checks.required(field, value)
    checks.done()
