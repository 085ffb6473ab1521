"""Whether each part is ready, found out by using it.

What is imported here takes longer than the children need to start, so `dev` imports this module when they are on
their way.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self

import grpc
import grpc.aio
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pymongo import AsyncMongoClient
from pymongo.errors import OperationFailure, PyMongoError

from openmcp_chain.stack.database import REPLICA_SET, Database

_TIMEOUT = 1.0
"""Seconds that one question may take."""
_NOT_YET_INITIALIZED = 94  # MongoDB's error code


class DatabaseProbe:
    """Does the database take writes? Makes a `mongod` of our own a replica set of one on the way."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._client: AsyncMongoClient[dict[str, Any]] | None = None

    async def __call__(self) -> bool:
        if self._client is None:
            # A driver that finds nobody waits half a second before it looks again; a bare connection needn't.
            if self._database.program is not None and not await _accepts(self._database.address):
                return False
            milliseconds = int(_TIMEOUT * 1000)
            self._client = AsyncMongoClient(
                self._database.uri, serverSelectionTimeoutMS=milliseconds, connectTimeoutMS=milliseconds
            )
        try:
            if (await self._client.admin.command("hello")).get("isWritablePrimary"):
                return True
            if self._database.kind == "mongod":
                await self._make_replica_set(self._client)
        except PyMongoError:
            return False
        return False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.close()

    async def _make_replica_set(self, client: AsyncMongoClient[dict[str, Any]]) -> None:
        """Starts the replica set; or, if it exists, gives its only member the port of this run."""
        member = {"_id": 0, "host": self._database.address}
        try:
            config = (await client.admin.command("replSetGetConfig"))["config"]
        except OperationFailure as error:
            if error.code != _NOT_YET_INITIALIZED:
                raise
            await client.admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": [member]})
            return
        if config["members"][0]["host"] != member["host"]:
            config |= {"members": [member], "version": config["version"] + 1}
            await client.admin.command("replSetReconfig", config, force=True)


async def serving(target: str) -> bool:
    """Does the gRPC server at `target` say that it serves?"""
    async with grpc.aio.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=_TIMEOUT, wait_for_ready=False
            )
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


class RestProbe:
    """Does a REST call with a real token get through Envoy to the server? It asks for a task that isn't there."""

    def __init__(self, rest_url: str, workspace_id: str, workspace_secret: str) -> None:
        self._credentials = {"workspace_id": workspace_id, "workspace_secret": workspace_secret}
        self._client = httpx.AsyncClient(base_url=rest_url, timeout=_TIMEOUT, trust_env=False)
        self._token = ""

    async def __call__(self) -> bool:
        try:
            if not self._token:
                answer = await self._client.post("/v1/auth/token", json=self._credentials)
                if answer.status_code != httpx.codes.OK:
                    return False
                self._token = answer.json()["access_token"]
            answer = await self._client.get("/v1/tasks/none", headers={"authorization": f"Bearer {self._token}"})
        except httpx.HTTPError:
            return False
        return answer.status_code == httpx.codes.NOT_FOUND

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()


def exists(path: Path) -> Callable[[], Awaitable[bool]]:
    """Is the file there?"""

    async def probe() -> bool:
        return path.exists()  # noqa: ASYNC240 - a look at the file's name

    return probe


async def _accepts(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(_TIMEOUT):
            _, writer = await asyncio.open_connection(host, int(port))
    except OSError:  # TimeoutError is one
        return False
    writer.close()
    return True
