"""What waits for the servers' work runs in virtual time; the rest, with its real processes, in real time."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
from support.virtual import VirtualLoop

_VIRTUAL = ("test_enrolment.py",)


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.path.name in _VIRTUAL:
        return {"virtual": VirtualLoop}
    return {"real": asyncio.new_event_loop}
