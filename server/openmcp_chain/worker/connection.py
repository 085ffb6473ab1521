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
"""A token is replaced this long before it expires."""
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
        self._expires_at = datetime.min.replace(tzinfo=UTC)

    async def token(self) -> str:
        """A token that is good for a while yet. Raises grpc.aio.AioRpcError."""
        if (self._expires_at - datetime.now(UTC)).total_seconds() < FRESH_SECONDS:
            stub: auth_pb2_grpc.AuthServiceAsyncStub = auth_pb2_grpc.AuthServiceStub(self._channel)
            answer = await stub.Authenticate(self._credentials, timeout=SIGN_IN_SECONDS)
            self._token = answer.token
            self._expires_at = answer.expires_at.ToDatetime(UTC)
        return self._token

    def forget_token(self) -> None:
        """The token was refused: the next call signs in anew."""
        self._expires_at = datetime.min.replace(tzinfo=UTC)

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
        left = (self._expires_at - datetime.now(UTC)).total_seconds() - FRESH_SECONDS
        await asyncio.sleep(max(left, 1.0))

    async def close(self) -> None:
        """Closes the channel."""
        await self._channel.close()
