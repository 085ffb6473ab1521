"""WorkspaceService on the wire: what administrators are answered and refused, and that nobody else is let in."""

from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message_factory import GetMessageClass
from support.methods import METHODS, call
from support.service import LOCAL, PATIENCE, Caller, Service, refusal, refused, serving

from openmcp.chain.v1 import auth_pb2, workspaces_pb2
from openmcp_chain.engine import identity, queues
from openmcp_chain.transport.workspaces import LONGEST_PAGE

PATHS = sorted(path for path in METHODS if "WorkspaceService" in path)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is believed for a while, so nothing has to be waited for."""
    monkeypatch.setattr(identity, "RECALL_SECONDS", 0.0)
    monkeypatch.setattr(queues, "VALID_SECONDS", 0.5)


async def make(service: Service, admin: Caller, **fields: object) -> workspaces_pb2.CreateWorkspaceResponse:
    request = workspaces_pb2.CreateWorkspaceRequest(**{"plan": "free", **fields})  # type: ignore[arg-type]
    return await service.workspaces.CreateWorkspace(request, metadata=admin.metadata, timeout=PATIENCE)


async def signs_in(service: Service, workspace_id: str, secret: str) -> bool:
    request = auth_pb2.AuthRequest(workspace_id=workspace_id, workspace_secret=secret)
    try:
        await service.auth.Authenticate(request, timeout=PATIENCE)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
            raise
        return False
    return True


@pytest.mark.parametrize("path", PATHS)
async def test_only_administrators_are_let_in(path: str) -> None:
    """A tenant's or an operator's token is refused for its scope by every method, before its request is read."""
    async with serving() as service:
        for caller in (await service.workspace(), await service.operator("echo")):
            told = await call(service, path, b"\xff", caller.metadata)
            assert told
            assert told.code == "SCOPE_MISSING"


async def test_an_administrator_has_no_tasks() -> None:
    """Its token opens none of the methods of tenants and workers."""
    async with serving() as service:
        admin = await service.administrator()
        for path in METHODS:
            if "TaskService" in path or "WorkerService" in path or path.endswith("ServeTaskEvents"):
                told = await call(service, path, b"", admin.metadata)
                assert told
                assert told.code == "SCOPE_MISSING"


async def test_a_workspace_is_made_and_its_secret_told_once() -> None:
    """The answer has all of it; later answers have no secret; and the secret signs in."""
    async with serving() as service:
        admin = await service.administrator()
        quotas = workspaces_pb2.Quotas(pending_tasks=5)
        made = await make(service, admin, workspace_id="ws-1", plan="standard", quotas=quotas)
        assert (made.workspace.workspace_id, made.workspace.plan) == ("ws-1", "standard")
        assert made.workspace.kind == workspaces_pb2.WORKSPACE_KIND_TENANT
        assert made.workspace.state == workspaces_pb2.WORKSPACE_STATE_ACTIVE
        assert made.workspace.quotas == quotas
        assert made.workspace_secret.startswith(f"omcp_{made.secret_id}_")
        read = await service.workspaces.GetWorkspace(
            workspaces_pb2.GetWorkspaceRequest(workspace_id="ws-1"), metadata=admin.metadata, timeout=PATIENCE
        )
        assert read.workspace == made.workspace
        secrets = await service.workspaces.ListSecrets(
            workspaces_pb2.ListSecretsRequest(workspace_id="ws-1"), metadata=admin.metadata, timeout=PATIENCE
        )
        assert [info.secret_id for info in secrets.secrets] == [made.secret_id]
        assert await signs_in(service, "ws-1", made.workspace_secret)


async def test_an_operator_is_one_with_types() -> None:
    """It gets the largest plan unless one is named."""
    async with serving() as service:
        admin = await service.administrator()
        made = await make(service, admin, plan="", worker_types=["b", "a"])
        assert made.workspace.kind == workspaces_pb2.WORKSPACE_KIND_OPERATOR
        assert (list(made.workspace.worker_types), made.workspace.plan) == (["a", "b"], "unlimited")
        named = await make(service, admin, worker_types=["a"])
        assert named.workspace.plan == "free"


async def test_what_cannot_be_made_is_refused_by_the_field() -> None:
    """All faults at once where they are the request's own; a taken id by its code."""
    async with serving() as service:
        admin = await service.administrator()
        await make(service, admin, workspace_id="ws-1")

        async def fields(**wrong: object) -> list[str]:
            return (await refused(make(service, admin, **wrong))).fields

        negative = workspaces_pb2.Quotas(pending_tasks=-1, streams=-1)
        assert await fields(plan="") == ["plan"]
        assert await fields(plan="gold") == ["plan"]
        assert await fields(workspace_id="No Good") == ["workspace_id"]
        assert await fields(quotas=negative) == ["quotas.pending_tasks", "quotas.streams"]
        assert await fields(worker_types=["ok", "1 bad"]) == ["worker_types[1]"]
        assert await fields(worker_types=["t"] * 65) == ["worker_types"]
        assert await fields(worker_types=["t" * 128] * 17) == ["worker_types"]
        assert (await refused(make(service, admin, workspace_id="ws-1"))).code == "WORKSPACE_EXISTS"


@pytest.mark.parametrize(
    "path", [path for path in PATHS if "Create" not in path and not path.endswith(("Workspaces", "AuditEvents"))]
)
async def test_a_workspace_that_is_not_there_is_named(path: str) -> None:
    """Every method that names one says so with NOT_FOUND, and that it is required if it is empty."""
    async with serving() as service:
        admin = await service.administrator()
        request = GetMessageClass(METHODS[path].input_type)
        more = {"secret_id": "01234567"} if path.endswith("RevokeSecret") else {}
        for name in ("nobody", "../x", "é"):
            named = request(workspace_id=name, **more).SerializeToString()
            told = await call(service, path, named, admin.metadata)
            assert told
            assert (told.status, told.code) == (grpc.StatusCode.NOT_FOUND, "WORKSPACE_NOT_FOUND")
        told = await call(service, path, b"", admin.metadata)
        assert told
        assert told.fields[0] == "workspace_id"


async def test_pages_go_on_where_they_ended() -> None:
    """Of workspaces by id, of the log from the newest on; each once, and the last page has no token."""
    async with serving() as service:
        admin = await service.administrator()
        names = sorted(f"ws-{number}" for number in range(5))
        for name in names:
            await make(service, admin, workspace_id=name)
        listed: list[str] = []
        sizes: list[int] = []
        token = ""
        while not sizes or token:
            request = workspaces_pb2.ListWorkspacesRequest(page_size=4, page_token=token)
            page = await service.workspaces.ListWorkspaces(request, metadata=admin.metadata, timeout=PATIENCE)
            listed += [known.workspace_id for known in page.workspaces]
            sizes.append(len(page.workspaces))
            token = page.next_page_token
        assert (sorted([*names, admin.workspace_id]), sizes) == (listed, [4, 2])
        events: list[workspaces_pb2.AuditEvent] = []
        token = "first"
        while token:
            asked = workspaces_pb2.ListAuditEventsRequest(page_size=4, page_token=token.replace("first", ""))
            log = await service.workspaces.ListAuditEvents(asked, metadata=admin.metadata, timeout=PATIENCE)
            events += log.events
            token = log.next_page_token
        assert [event.workspace_id for event in events] == [*reversed(names), admin.workspace_id]
        assert [event.event_id for event in events] == sorted((event.event_id for event in events), reverse=True)
        assert {event.actor for event in events[:-1]} == {admin.workspace_id}
        assert all(event.request_id for event in events[:-1])


async def test_page_tokens_are_of_their_list() -> None:
    """One of another list, or of the same with other arguments, or none at all, is refused; so is a negative size."""
    async with serving() as service:
        admin = await service.administrator()
        await make(service, admin, workspace_id="ws-1")
        workspaces, events = service.workspaces.ListWorkspaces, service.workspaces.ListAuditEvents
        first = await workspaces(
            workspaces_pb2.ListWorkspacesRequest(page_size=1), metadata=admin.metadata, timeout=PATIENCE
        )
        log = await events(
            workspaces_pb2.ListAuditEventsRequest(page_size=1), metadata=admin.metadata, timeout=PATIENCE
        )
        assert first.next_page_token
        assert log.next_page_token
        lists: list[Any] = [
            workspaces(workspaces_pb2.ListWorkspacesRequest(page_token=token), metadata=admin.metadata)
            for token in (log.next_page_token, "x", "é", "e30", "W10", first.next_page_token[:-2])
        ]
        lists += [
            events(workspaces_pb2.ListAuditEventsRequest(page_token=token, workspace_id=of), metadata=admin.metadata)
            for token, of in ((first.next_page_token, ""), (log.next_page_token, "ws-1"))
        ]
        assert [(await refused(call)).fields for call in lists] == [["page_token"]] * 8
        sizes: list[Any] = [
            workspaces(workspaces_pb2.ListWorkspacesRequest(page_size=-1), metadata=admin.metadata),
            events(workspaces_pb2.ListAuditEventsRequest(page_size=-1), metadata=admin.metadata),
        ]
        assert [(await refused(call)).fields for call in sizes] == [["page_size"]] * 2
        big = workspaces_pb2.ListWorkspacesRequest(page_size=LONGEST_PAGE + 1)
        await workspaces(big, metadata=admin.metadata, timeout=PATIENCE)


async def test_an_update_changes_what_it_names() -> None:
    """A plan alone, quotas alone; nothing named changes nothing and is not logged."""
    async with serving() as service:
        admin = await service.administrator()
        await make(service, admin, workspace_id="ws-1")

        async def update(**fields: object) -> workspaces_pb2.Workspace:
            request = workspaces_pb2.UpdateWorkspaceRequest(workspace_id="ws-1", **fields)  # type: ignore[arg-type]
            told = await service.workspaces.UpdateWorkspace(request, metadata=admin.metadata, timeout=PATIENCE)
            return told.workspace

        planned = await update(plan="standard")
        assert (planned.plan, planned.quotas) == ("standard", workspaces_pb2.Quotas())
        limited = await update(quotas=workspaces_pb2.Quotas(streams=3))
        assert (limited.plan, limited.quotas) == ("standard", workspaces_pb2.Quotas(streams=3))
        assert await update() == limited
        assert await update(plan="standard") == limited
        assert (await refused(update(plan="gold"))).fields == ["plan"]
        assert (await update(quotas=workspaces_pb2.Quotas())).quotas == workspaces_pb2.Quotas()
        request = workspaces_pb2.ListAuditEventsRequest(workspace_id="ws-1")
        log = await service.workspaces.ListAuditEvents(request, metadata=admin.metadata, timeout=PATIENCE)
        assert [dict(event.details) for event in log.events][:-1] == [
            {"pending_tasks": "0", "streams": "0"},
            {"pending_tasks": "0", "streams": "3"},
            {"plan": "standard"},
        ]


async def test_a_secret_is_rotated_with_an_overlap_and_revoked() -> None:
    """The one before goes on until its end; without an overlap it ends at once; a revoked one is not found again."""
    async with serving() as service:
        admin = await service.administrator()
        made = await make(service, admin, workspace_id="ws-1")

        async def rotate(overlap: Duration | None = None) -> workspaces_pb2.RotateSecretResponse:
            request = workspaces_pb2.RotateSecretRequest(workspace_id="ws-1", overlap=overlap)
            return await service.workspaces.RotateSecret(request, metadata=admin.metadata, timeout=PATIENCE)

        async def secrets() -> list[workspaces_pb2.SecretInfo]:
            request = workspaces_pb2.ListSecretsRequest(workspace_id="ws-1")
            told = await service.workspaces.ListSecrets(request, metadata=admin.metadata, timeout=PATIENCE)
            return list(told.secrets)

        second = await rotate()
        assert await signs_in(service, "ws-1", made.workspace_secret)
        assert await signs_in(service, "ws-1", second.workspace_secret)
        old, new = await secrets()
        assert (old.secret_id, new.secret_id) == (made.secret_id, second.secret_id)
        assert old.expires_at.seconds - new.created_at.seconds == 24 * 3600
        assert not new.HasField("expires_at")
        third = await rotate(Duration(seconds=0))
        assert not await signs_in(service, "ws-1", second.workspace_secret)
        assert [info.secret_id for info in await secrets()] == [third.secret_id]
        for wrong in (Duration(seconds=-1), Duration(seconds=30 * 24 * 3600 + 1)):
            assert (await refused(rotate(wrong))).fields == ["overlap"]
        revoke = workspaces_pb2.RevokeSecretRequest(workspace_id="ws-1", secret_id=third.secret_id)
        await service.workspaces.RevokeSecret(revoke, metadata=admin.metadata, timeout=PATIENCE)
        assert not await signs_in(service, "ws-1", third.workspace_secret)
        assert await secrets() == []
        told = await refused(service.workspaces.RevokeSecret(revoke, metadata=admin.metadata, timeout=PATIENCE))
        assert (told.status, told.code) == (grpc.StatusCode.NOT_FOUND, "SECRET_NOT_FOUND")


async def test_a_secret_in_the_place_of_its_id_is_not_repeated() -> None:
    """The slip of whoever has found one: it is told what is wanted, and nothing else."""
    async with serving() as service:
        admin = await service.administrator()
        made = await make(service, admin, workspace_id="ws-1")
        for wrong in (made.workspace_secret, made.workspace_secret[:14], f"{made.secret_id} ", made.secret_id.upper()):
            if wrong == made.secret_id:
                continue  # digits only
            revoke = workspaces_pb2.RevokeSecretRequest(workspace_id="ws-1", secret_id=wrong)
            told = await refused(service.workspaces.RevokeSecret(revoke, metadata=admin.metadata, timeout=PATIENCE))
            assert (told.code, told.fields) == ("INVALID_ARGUMENT", ["secret_id"])
            assert made.secret_id not in told.text
        assert await signs_in(service, "ws-1", made.workspace_secret)


PROTECTED = (grpc.StatusCode.PERMISSION_DENIED, "ADMINISTRATOR_PROTECTED")
OWN = (grpc.StatusCode.FAILED_PRECONDITION, "OWN_WORKSPACE")


async def test_a_token_makes_nothing_of_administrators_that_outlives_it() -> None:
    """No secret and no way back in, neither its own nor another's; another one it can shut out, but not itself."""
    async with serving() as service:
        admin, other = await service.administrator(), await service.administrator()

        async def told(method: str, of: Caller, **fields: object) -> object:
            request = GetMessageClass(METHODS[f"/openmcp.chain.v1.WorkspaceService/{method}"].input_type)
            call = getattr(service.workspaces, method)
            try:
                await call(request(workspace_id=of.workspace_id, **fields), metadata=admin.metadata, timeout=PATIENCE)
            except grpc.aio.AioRpcError as error:
                return error.code(), refusal(error).code
            return None

        for one in (admin, other):
            assert await told("RotateSecret", one) == PROTECTED
            assert await told("RotateSecret", one, overlap=Duration()) == PROTECTED
            assert await told("UpdateWorkspace", one, plan="free") == PROTECTED
            assert await told("EnableWorkspace", one) == PROTECTED
            assert await told("DeleteWorkspace", one) == PROTECTED
        assert await told("DisableWorkspace", admin) == OWN
        for secret in (admin.secret, await another_secret(service, admin)):
            assert await told("RevokeSecret", admin, secret_id=secret.split("_")[1]) == OWN
            assert await signs_in(service, admin.workspace_id, secret)

        second = await another_secret(service, other)
        assert await told("RevokeSecret", other, secret_id=other.secret.split("_")[1]) is None
        assert not await signs_in(service, other.workspace_id, other.secret)
        assert await signs_in(service, other.workspace_id, second)
        assert await told("DisableWorkspace", other) is None
        assert await told("EnableWorkspace", other) == PROTECTED
        assert not await signs_in(service, other.workspace_id, second)
        await service.app.administration.workspaces.enable(LOCAL, other.workspace_id)
        assert await signs_in(service, other.workspace_id, second)


async def another_secret(service: Service, caller: Caller) -> str:
    """One more, made by a command."""
    return (await service.app.administration.secrets.rotate(LOCAL, caller.workspace_id))[1]


async def test_a_deleted_workspace_is_told_so_until_it_is_gone() -> None:
    """It is DELETING and takes no change; the same delete again is answered alike."""
    async with serving() as service:
        admin = await service.administrator()
        await make(service, admin, workspace_id="ws-1")
        delete = workspaces_pb2.DeleteWorkspaceRequest(workspace_id="ws-1")
        told = await service.workspaces.DeleteWorkspace(delete, metadata=admin.metadata, timeout=PATIENCE)
        assert told.workspace.state == workspaces_pb2.WORKSPACE_STATE_DELETING
        assert await service.workspaces.DeleteWorkspace(delete, metadata=admin.metadata, timeout=PATIENCE) == told
        calls = [
            service.workspaces.EnableWorkspace(
                workspaces_pb2.EnableWorkspaceRequest(workspace_id="ws-1"), metadata=admin.metadata
            ),
            service.workspaces.RotateSecret(
                workspaces_pb2.RotateSecretRequest(workspace_id="ws-1"), metadata=admin.metadata
            ),
            service.workspaces.UpdateWorkspace(
                workspaces_pb2.UpdateWorkspaceRequest(workspace_id="ws-1", plan="standard"), metadata=admin.metadata
            ),
        ]
        for refusal in [await refused(call) for call in calls]:
            assert (refusal.status, refusal.code) == (grpc.StatusCode.FAILED_PRECONDITION, "WORKSPACE_DELETING")


async def test_a_reason_has_its_limit() -> None:
    """It goes into the log, so it is bounded."""
    async with serving() as service:
        admin = await service.administrator()
        request = workspaces_pb2.DisableWorkspaceRequest(reason="x" * 513)
        told = await refused(service.workspaces.DisableWorkspace(request, metadata=admin.metadata))
        assert told.fields == ["workspace_id", "reason"]
