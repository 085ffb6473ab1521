"""The engine's tests run in virtual time, but for those that use threads."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
from support.virtual import VirtualLoop

_WITH_THREADS = ("test_identity.py",)


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.path.name in _WITH_THREADS:
        return {"real": asyncio.new_event_loop}
    return {"virtual": VirtualLoop}
