"""grpc.health.v1 (https://github.com/grpc/grpc/blob/master/doc/health-checking.md), fitted to how methods are called.

Not by grpcio-health-checking's servicer, whose messages we use: it writes to its caller while it holds the lock under
which a status is set, so a watcher that reads nothing holds up everybody's health, and it never ends a watch. Here a
watcher is woken, and takes the newest status when it reads.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence

from grpc_health.v1 import health_pb2

from openmcp_chain.domain import errors
from openmcp_chain.transport.rpc import Call

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

LIVENESS = "liveness"
"""A name that says no more than that this process answers. Who restarts dead processes asks it: to restart every server
because the database is away would only make things worse."""


class Health:
    """The health of the server as a whole (the name "") and of each service: always the same, there is one database.

    LIVENESS alone does not hang on the database.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._statuses = {**dict.fromkeys(("", *names), _NOT_SERVING), LIVENESS: _SERVING}
        self._changed = asyncio.Event()
        self._shut_down = False

    def set(self, *, serving: bool) -> None:
        """Says whether calls can be served; nothing after `shut_down`."""
        if self._shut_down:
            return
        for name in self._statuses.keys() - {LIVENESS}:
            self._statuses[name] = _SERVING if serving else _NOT_SERVING
        self._wake()

    def shut_down(self) -> None:
        """NOT_SERVING from here on; watches end with it, as an open one would hold up the shutdown it has told of."""
        self._shut_down = True
        self._statuses = dict.fromkeys(self._statuses, _NOT_SERVING)
        self._wake()

    async def Check(self, request: health_pb2.HealthCheckRequest, _: Call) -> health_pb2.HealthCheckResponse:
        """The health of one service."""
        status = self._statuses.get(request.service)
        if status is None:
            raise errors.ServiceUnknown
        return health_pb2.HealthCheckResponse(status=status)

    async def List(self, _: health_pb2.HealthListRequest, __: Call) -> health_pb2.HealthListResponse:
        """The health of all."""
        answer = health_pb2.HealthListResponse()
        for name, status in self._statuses.items():
            answer.statuses[name].status = status
        return answer

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, _: Call
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The health of one service, now and whenever it changes."""
        told = None
        while True:
            # Taken before the status is: a change while this waits for its reader is not missed.
            changed = self._changed
            status = self._statuses.get(request.service, _SERVICE_UNKNOWN)
            if status != told:
                told = status
                yield health_pb2.HealthCheckResponse(status=status)
            elif self._shut_down:
                return
            else:
                await changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
