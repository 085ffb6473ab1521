"""One Envoy for all tests of this folder."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from support.gateway import Gateway, running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    async with running(tmp_path_factory.mktemp("envoy")) as started:
        yield started
