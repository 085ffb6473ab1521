"""Server reflection, by grpcio-reflection's servicer; its streams end when the server does, whatever they wait for."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from grpc_reflection.v1alpha import reflection, reflection_pb2

from openmcp_chain.transport.rpc import Call


class Reflection:
    """Describes services and the messages that they use."""

    def __init__(self, names: Sequence[str]) -> None:
        self._servicer = reflection.aio.ReflectionServicer((*names, reflection.SERVICE_NAME))
        self._draining = asyncio.Event()

    def drain(self) -> None:
        """Ends each stream that is not being answered."""
        self._draining.set()

    async def ServerReflectionInfo(
        self, requests: AsyncIterator[reflection_pb2.ServerReflectionRequest], _: Call
    ) -> AsyncIterator[reflection_pb2.ServerReflectionResponse]:
        """Answers one question after the other."""
        async for answer in self._servicer.ServerReflectionInfo(self._while_serving(requests), None):
            yield answer

    async def _while_serving(
        self, requests: AsyncIterator[reflection_pb2.ServerReflectionRequest]
    ) -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        draining = asyncio.create_task(self._draining.wait())
        try:
            while True:
                asked = asyncio.ensure_future(anext(requests, None))
                try:
                    await asyncio.wait((asked, draining), return_when=asyncio.FIRST_COMPLETED)
                    request = asked.result() if asked.done() else None
                finally:
                    asked.cancel()
                if request is None:
                    return
                yield request
        finally:
            draining.cancel()
