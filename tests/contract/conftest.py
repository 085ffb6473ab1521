"""One stack for all of the contract's tests: real Envoy, server, database and worker, as `openmcp dev` runs them."""

from collections.abc import Callable, Iterator

import grpc
import pytest
from security.access import NEEDS
from support import workspaces
from support.echo import running_echo
from support.logscan import CANARY
from support.rest import Rest
from support.stack import StackInfo, running_stack
from support.workspaces import Credentials


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackInfo]:
    """The stack. When all tests are done, its logs tell of no fault of ours, and of no secret."""
    folder = tmp_path_factory.mktemp("stack")
    with running_stack(folder / "data", "--no-sample", "--plan", "unlimited") as running:
        pids = dict(running.pids)
        yield running
        assert running.pids == pids, f"a part died and was started again:\n{running.output}"
    for log in (folder / "data" / "logs").iterdir():
        text = log.read_text(errors="replace")
        assert "unforeseen" not in text, f"{log.name}:\n{text}"
        assert "Traceback" not in text, f"{log.name}:\n{text}"
        assert running.workspace_secret not in text, log.name


@pytest.fixture(scope="package")
def demo(stack: StackInfo) -> Iterator[Rest]:
    """The demo workspace, whose files the stack's worker may touch."""
    with Rest(stack.rest_url, Credentials(stack.workspace_id, stack.workspace_secret)) as rest:
        yield rest


@pytest.fixture(scope="package")
def credentials(stack: StackInfo) -> Credentials:
    """The specification's own workspace."""
    return workspaces.create(stack, workspace_id="ws-1234")


@pytest.fixture(scope="package")
def rest(stack: StackInfo, credentials: Credentials) -> Iterator[Rest]:
    """The specification's workspace over REST, with a worker that takes its `echo`, `fail` and `hold` tasks."""
    with running_echo(stack, credentials), Rest(stack.rest_url, credentials) as client:
        yield client


@pytest.fixture(scope="package")
def admin(stack: StackInfo) -> Iterator[Rest]:
    """An administrator over REST."""
    with Rest(stack.rest_url, workspaces.create_administrator(stack)) as client:
        yield client


@pytest.fixture(scope="package")
def idle(stack: StackInfo) -> Iterator[Rest]:
    """A workspace without tasks: what is asked of it over and over costs next to nothing."""
    with Rest(stack.rest_url, workspaces.create(stack)) as client:
        yield client


@pytest.fixture(scope="module")
def known(rest: Rest) -> Iterator[str]:
    """A task that has ended. After the module's tests it is told as before, and another one is taken and run.

    Asked after each test it would cost more than the test, of which there are hundreds, and each of them is answered.
    """
    ended = rest.submit("echo", {"still": CANARY})
    rest.ended(ended)
    yield ended
    assert rest.get(ended)["result"] == {"still": CANARY}
    assert rest.ended(rest.submit("echo", {"still": CANARY}))["result"] == {"still": CANARY}


@pytest.fixture(scope="package", params=["direct", "envoy"])
def channel(stack: StackInfo, request: pytest.FixtureRequest) -> Iterator[grpc.Channel]:
    """gRPC, to the server itself and through Envoy."""
    target = stack.grpc_target if request.param == "direct" else stack.envoy_grpc_target
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(target, options) as opened:
        yield opened


@pytest.fixture(scope="package")
def token_for(rest: Rest, admin: Rest) -> Callable[[str], str]:
    """A token for a method, by its full name: an administrator's for those that need one, else the workspace's."""
    return lambda method: (admin if NEEDS[f"/{method}"] == "admin" else rest).token


@pytest.fixture(scope="package")
def bearer(rest: Rest) -> tuple[tuple[str, str | bytes], ...]:
    """The workspace's token, as gRPC metadata."""
    return (("authorization", f"Bearer {rest.token}"),)
