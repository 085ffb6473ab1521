"""grpc.health.v1 over grpcio-health-checking's servicer, fitted to how our methods are called.

That servicer writes to its caller while it holds the lock under which a status is set, so a watcher that reads nothing
could hold up everybody's health. Here a watcher is left the newest status, to be fetched when it reads.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence

import grpc
from grpc_health.v1 import health, health_pb2

from openmcp_chain.domain import errors
from openmcp_chain.transport.rpc import Call

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

LIVENESS = "liveness"
"""A name that says no more than that this process answers. Who restarts dead processes asks it: to restart every server
because the database is away would only make things worse."""


class Health:
    """The health of the server as a whole (the name "") and of each service: always the same, there is one database.

    LIVENESS alone does not hang on the database.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = ("", *names)
        self._servicer = health.aio.HealthServicer()
        self._shut_down = False

    async def set(self, *, serving: bool) -> None:
        """Says whether calls can be served; nothing after `shut_down`."""
        for name in self._names:
            await self._servicer.set(name, _SERVING if serving else _NOT_SERVING)
        await self._servicer.set(LIVENESS, _SERVING)

    async def shut_down(self) -> None:
        """NOT_SERVING from here on; watches end with it."""
        self._shut_down = True
        await self._servicer.enter_graceful_shutdown()

    async def Check(self, request: health_pb2.HealthCheckRequest, _: Call) -> health_pb2.HealthCheckResponse:
        """The health of one service."""
        answer: health_pb2.HealthCheckResponse = await self._servicer.Check(request, _Caller())
        return answer

    async def List(self, _: health_pb2.HealthListRequest, call: Call) -> health_pb2.HealthListResponse:
        """The health of all."""
        answer = health_pb2.HealthListResponse()
        for name in (*self._names, LIVENESS):
            answer.statuses[name].CopyFrom(await self.Check(health_pb2.HealthCheckRequest(service=name), call))
        return answer

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, _: Call
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The health of one service, now and whenever it changes."""
        caller = _Caller()
        watching = asyncio.create_task(self._servicer.Watch(request, caller))
        try:
            while not self._shut_down:
                yield await caller.news()
            # An open watch would hold up the shutdown that it has just told of.
        finally:
            watching.cancel()


class _Caller:
    """Stands where the servicer expects gRPC's context."""

    def __init__(self) -> None:
        self._newest: health_pb2.HealthCheckResponse | None = None
        self._written = asyncio.Event()

    async def abort(self, _: grpc.StatusCode) -> None:
        raise errors.ServiceUnknown

    async def write(self, answer: health_pb2.HealthCheckResponse) -> None:
        self._newest = answer
        self._written.set()

    async def news(self) -> health_pb2.HealthCheckResponse:
        await self._written.wait()
        self._written.clear()
        return self._newest
