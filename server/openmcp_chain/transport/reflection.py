"""Server reflection, by grpcio-reflection's servicer; its streams end when the server does, whatever they wait for.

Whoever has a token may ask, and no plan counts what: so streams are few, and questions small, since each is part of its
answer, which stays here until it is read.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import jwt
from grpc_reflection.v1alpha import reflection, reflection_pb2

from openmcp_chain.domain import errors
from openmcp_chain.transport.rpc import Call

STREAMS, OWN_STREAMS = 100, 10
"""Open at a time, of all callers; of one workspace."""
QUESTIONS = 1000
"""On a stream. Clients that walk through all there is ask some dozens."""
QUESTION_BYTES = 4096
"""The largest that makes sense is the name of a symbol."""


class Reflection:
    """Describes services and the messages that they use."""

    def __init__(self, names: Sequence[str]) -> None:
        self._servicer = reflection.aio.ReflectionServicer((*names, reflection.SERVICE_NAME))
        self._draining = asyncio.Event()
        self._open = Counter[str]()

    def drain(self) -> None:
        """Ends each stream that is not being answered."""
        self._draining.set()

    async def ServerReflectionInfo(
        self, requests: AsyncIterator[bytes], call: Call
    ) -> AsyncIterator[reflection_pb2.ServerReflectionResponse]:
        """Answers one question after the other."""
        workspace = _named(call)
        if self._open.total() >= STREAMS or self._open[workspace] >= OWN_STREAMS:
            raise errors.Overloaded
        self._open[workspace] += 1
        try:
            questions = self._while_serving(self._decoded(requests, call))
            async for answer in self._servicer.ServerReflectionInfo(questions, None):
                yield answer
        finally:
            self._open[workspace] -= 1
            if not self._open[workspace]:
                del self._open[workspace]

    async def _decoded(
        self, requests: AsyncIterator[bytes], call: Call
    ) -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        count = 0
        async for data in requests:
            count += 1
            if count > QUESTIONS:
                raise errors.RateLimited
            if len(data) > QUESTION_BYTES:
                raise errors.RequestTooLarge("message_request", len(data), QUESTION_BYTES)
            yield call.decode(data)

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


def _named(call: Call) -> str:
    """The workspace that the caller's token names; empty if it has none. Envoy has verified it; nothing hangs on it."""
    _, _, token = call.metadata.get("authorization", "").partition(" ")
    try:
        return str(jwt.decode(token, options={"verify_signature": False}).get("workspace_id", ""))
    except jwt.InvalidTokenError:
        return ""
