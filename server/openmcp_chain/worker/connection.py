"""A worker's connection: signs in, keeps its token fresh, and opens streams."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TypeAlias

import grpc

from openmcp.chain.v1 import auth_pb2_grpc, workers_pb2, workers_pb2_grpc
from openmcp_chain.client.connection import Credentials, Server
from openmcp_chain.client.errors import SettingsError

FRESH_SECONDS = 120.0
USED = 0.8
"""A token is replaced FRESH_SECONDS before it expires, or when this part of its life is over, if that is later."""
LEAST_SECONDS = 10.0
"""So long a new token is used whatever this machine's clock makes of when it expires: one that is fast would otherwise
sign in all the time."""
SIGN_IN_SECONDS = 10.0

# The stubs know it as generic, the runtime does not.
Stream: TypeAlias = "grpc.aio.StreamStreamCall[workers_pb2.WorkRequest, workers_pb2.WorkResponse]"


class Connection:
    """The channel to the server, and who we are on it."""

    def __init__(self, server: Server, credentials: Credentials) -> None:
        """Raises SettingsError. Connects with the first call."""
        self._server = server
        self._files = server.files()
        self._channel = server.channel()
        self._credentials = credentials.request()
        self._token = ""
        self._good_until = 0.0
        """By the loop's clock."""

    async def token(self) -> str:
        """A token that is good for a while yet. Raises grpc.aio.AioRpcError."""
        clock = asyncio.get_running_loop().time
        if clock() >= self._good_until:
            stub: auth_pb2_grpc.AuthServiceAsyncStub = auth_pb2_grpc.AuthServiceStub(self._channel)
            answer = await stub.Authenticate(self._credentials, timeout=SIGN_IN_SECONDS)
            self._token = answer.token
            life = (answer.expires_at.ToDatetime(UTC) - datetime.now(UTC)).total_seconds()
            self._good_until = clock() + max(life - FRESH_SECONDS, life * USED, LEAST_SECONDS)
        return self._token

    def forget_token(self) -> None:
        """The token was refused: the next call signs in anew."""
        self._good_until = 0.0

    async def work(self, requests: AsyncIterator[workers_pb2.WorkRequest]) -> Stream:
        """Opens a stream that sends `requests`, with the certificates of now. Raises grpc.aio.AioRpcError."""
        await self._renew()
        stub: workers_pb2_grpc.WorkerServiceAsyncStub = workers_pb2_grpc.WorkerServiceStub(self._channel)
        return stub.Work(requests, metadata=(("authorization", f"Bearer {await self.token()}"),))

    async def _renew(self) -> None:
        """Connects anew if the certificates' files have changed; what can't be read is left for the next time."""
        if (now := self._server.files()) == self._files:
            return
        with contextlib.suppress(SettingsError):
            renewed = self._server.channel()
            await self._channel.close()
            self._channel, self._files = renewed, now

    async def until_stale(self) -> None:
        """Returns when the token wants replacing."""
        await asyncio.sleep(max(self._good_until - asyncio.get_running_loop().time(), 1.0))

    async def close(self) -> None:
        """Closes the channel."""
        await self._channel.close()
