"""One Envoy for all tests of this folder."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from support.gateway import Gateway, running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    async with running(tmp_path_factory.mktemp("envoy")) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="session")
async def gateway(shared_gateway: Gateway) -> Gateway:
    """Serving: a test that blocks this process stops the server in it too, which Envoy notices."""
    await shared_gateway.until("/v1/tasks/pending", 200)
    return shared_gateway
