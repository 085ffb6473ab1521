"""One stack for all tests of this folder, the ways into it, and somebody of each kind who can sign in."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
import pytest
from support.doors import Door, Grpc, Rest
from support.forgery import Forger
from support.stack import StackInfo, running_stack
from support.workspaces import settings, signer

from openmcp_chain.domain.audit import Action
from openmcp_chain.domain.workspace import Kind, State, Workspace
from openmcp_chain.engine.administration import local_actor
from openmcp_chain.stack import administration

AUTHENTICATE = "/openmcp.chain.v1.AuthService/Authenticate"
OPERATED = "operated"
"""The task type that the operator works on, in every workspace."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who has signed in."""

    workspace_id: str
    kind: Kind
    secret: str = field(repr=False)
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class People:
    """Who there is."""

    owner: Caller
    """Has the tasks that the others would like to have."""
    stranger: Caller
    """Another tenant."""
    operator: Caller
    administrator: Caller
    small: Caller
    """A tenant of the smallest plan."""
    busy: Caller
    """Another, whose calls a test uses up."""
    looping: Caller
    """Another one of that kind."""
    disabled: Caller
    """Shut out; its token is of before."""

    @property
    def all(self) -> list[Caller]:
        """One of each kind, and another tenant."""
        return [self.owner, self.stranger, self.operator, self.administrator]

    @property
    def others(self) -> list[Caller]:
        return self.all[1:]


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackInfo]:
    """Real Envoy, server, database and worker. When all tests are done, no part has died."""
    folder: Path = tmp_path_factory.mktemp("security")
    with running_stack(folder / "data", "--no-sample", "--plan", "unlimited") as running:
        pids = dict(running.pids)
        yield running
        assert running.pids == pids, f"a part died and was started again:\n{running.output}"


@pytest.fixture(scope="package")
def native(stack: StackInfo) -> Iterator[Grpc]:
    """GRPC to the server itself."""
    with grpc.insecure_channel(stack.grpc_target, [("grpc.enable_http_proxy", 0)]) as channel:
        yield Grpc("native", channel)


@pytest.fixture(scope="package")
def rest(stack: StackInfo) -> Iterator[Rest]:
    """REST through Envoy; what has no route, as gRPC through Envoy."""
    with grpc.insecure_channel(stack.envoy_grpc_target, [("grpc.enable_http_proxy", 0)]) as channel:
        door = Rest(stack.rest_url, channel)
        with door.http:
            yield door


@pytest.fixture(params=["envoy", "native"])
def door(request: pytest.FixtureRequest, native: Grpc, rest: Rest) -> Door:
    """Each way in."""
    return rest if request.param == "envoy" else native


@pytest.fixture(scope="package")
def people(stack: StackInfo, native: Grpc) -> People:
    """Tenants, an operator and an administrator, signed in."""

    async def make() -> list[Workspace]:
        async with administration.opened(settings(stack)) as opened:
            here, workspaces = local_actor(), opened.workspaces
            made = [
                await workspaces.create(here, "unlimited"),
                await workspaces.create(here, "unlimited"),
                await workspaces.create_operator(here, [OPERATED]),
                await workspaces.create_administrator(here),
                *[await workspaces.create(here, "free") for _ in range(4)],
            ]
        secrets.extend(secret for _, secret in made)
        return [workspace for workspace, _ in made]

    async def disable(workspace_id: str) -> None:
        def shut_out(known: Workspace) -> Workspace:
            return replace(known, state=State.DISABLED)

        # What `disable` does besides takes seconds, and matters to workers only.
        async with administration.opened(settings(stack)) as opened:
            await opened.workspaces._registry.change(local_actor(), Action.WORKSPACE_DISABLE, workspace_id, shut_out)

    secrets: list[str] = []
    found = People(
        *(
            Caller(one.id, one.kind, secret, sign_in(native, one.id, secret))
            for one, secret in zip(asyncio.run(make()), secrets, strict=True)
        )
    )
    asyncio.run(disable(found.disabled.workspace_id))
    return found


@pytest.fixture(scope="package")
def forger(stack: StackInfo, people: People) -> Forger:
    """Can make any token, true or false, for the owner."""
    return Forger(people.owner.token, *signer(stack))


def sign_in(door: Door, workspace_id: str, secret: str, *scopes: str) -> str:
    """A token; with these scopes, or all that there are for the workspace."""
    answer = door.ask(AUTHENTICATE, workspace_id=workspace_id, workspace_secret=secret, scopes=scopes)
    return str(answer.body.get("token") or answer.body["access_token"])
