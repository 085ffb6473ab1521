"""Both clients behind one face, so that a test of what they do runs with each."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

from openmcp_chain.client import AsyncClient, Client

Kind = Literal["sync", "async"]
KINDS: tuple[Kind, ...] = ("sync", "async")
_END = object()


class Either:
    """A client of one kind. The sync one is called on threads, so that the server in this process can answer."""

    def __init__(self, client: Client | AsyncClient) -> None:
        self.client = client

    async def call(self, method: str, *args: Any, **options: Any) -> Any:
        """What the method returns."""
        function = getattr(self.client, method)
        if isinstance(self.client, AsyncClient):
            return await function(*args, **options)
        return await asyncio.to_thread(function, *args, **options)

    async def each(self, method: str, *args: Any, **options: Any) -> AsyncIterator[Any]:
        """What the method iterates over."""
        values = getattr(self.client, method)(*args, **options)
        if isinstance(self.client, AsyncClient):
            async for value in values:
                yield value
            return
        try:
            while (value := await asyncio.to_thread(next, values, _END)) is not _END:
                yield value
        finally:
            await asyncio.to_thread(values.close)


@asynccontextmanager
async def connected(kind: Kind, target: str, **options: Any) -> AsyncIterator[Either]:
    """A client of the kind; `ws-1` unless the options say who."""
    options = {"workspace_id": "ws-1", "workspace_secret": "S3CRET", **options}
    if kind == "async":
        async with AsyncClient(target, **options) as client:
            yield Either(client)
    else:
        with Client(target, **options) as client:
            yield Either(client)
