"""Whether each part is ready, found out by using it."""

import asyncio
import http.client
import json
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Self

from pymongo import AsyncMongoClient
from pymongo.errors import OperationFailure, PyMongoError

from openmcp_chain.stack.database import REPLICA_SET, Database

_TIMEOUT = 1.0
"""Seconds that one question may take."""
_LISTENING = "0A"  # TCP_LISTEN of linux/tcp_states.h, as /proc has it
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


def listens(pid: Callable[[], int], port: int) -> bool:
    """Is it the process with this id that listens on the port?

    Before it is known, no secret goes there: another may have taken the port since it was found free. Only Linux tells
    who listens; elsewhere two can't listen on one port, and a child that can't ends.
    """
    if sys.platform != "linux":
        return True
    process = Path("/proc", str(pid()))
    try:
        lines = [
            line.split() for table in ("tcp", "tcp6") for line in (process / "net" / table).read_text().splitlines()
        ]
        sockets = {
            f"socket:[{line[9]}]"
            for line in lines
            if line[3] == _LISTENING and int(line[1].rpartition(":")[2], 16) == port
        }
        return any(str(held.readlink()) in sockets for held in (process / "fd").iterdir())
    except OSError:  # it is about to end, or a descriptor was closed meanwhile
        return False


def accepts(address: str) -> Callable[[], Awaitable[bool]]:
    """Does anybody take connections at `host:port`?"""
    return lambda: _accepts(address)


def accepts_token(
    rest_url: str, workspace_id: str, workspace_secret: str, ca: str | None
) -> Callable[[], Awaitable[bool]]:
    """Does a REST call with a real token get through Envoy and the server to the database?

    It asks for a task that isn't there: only the database can know that. `ca` is the file of the authorities to trust,
    if `rest_url` is one of HTTPS.
    """
    # Not by httpx, which takes as long to import as Envoy to start; and by no proxy, whatever the environment says.
    tls = [urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=ca))] if ca else []
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), *tls)
    credentials = json.dumps({"workspace_id": workspace_id, "workspace_secret": workspace_secret}).encode()
    token = ""

    def call(path: str, headers: Mapping[str, str], body: bytes | None = None) -> tuple[int, Any]:
        request = urllib.request.Request(rest_url + path, body, dict(headers))  # noqa: S310 - to our own Envoy
        try:
            with opener.open(request, timeout=_TIMEOUT) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, json.load(refusal)

    def ask() -> bool:
        nonlocal token
        try:
            if not token:
                # Before anybody could answer, a sign-in would fail, and still count: an address has only so many.
                if call("/healthz", {})[0] != http.HTTPStatus.OK:
                    return False
                status, body = call("/v1/auth/token", {"content-type": "application/json"}, credentials)
                if status != http.HTTPStatus.OK:
                    return False
                token = body["access_token"]
            return call("/v1/tasks/none", {"authorization": f"Bearer {token}"})[0] == http.HTTPStatus.NOT_FOUND
        except (OSError, ValueError, http.client.HTTPException):
            return False

    return lambda: asyncio.to_thread(ask)


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
