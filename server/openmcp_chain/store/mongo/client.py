"""The one file that chooses the driver.

PyMongo's AsyncMongoClient and motor, which came before it, have the same methods; only making a client, closing it, and
what has to be awaited (`ready`) differ. So the rest of the store is written, and typed, against PyMongo's.
"""

import asyncio
import inspect
import ssl
from dataclasses import dataclass
from datetime import UTC
from typing import Any, Literal, TypeAlias, cast

from bson.codec_options import CodecOptions
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient, ReadPreference, WriteConcern
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import ConfigurationError
from pymongo.read_concern import ReadConcern

Driver: TypeAlias = Literal["motor", "pymongo"]
Database: TypeAlias = AsyncDatabase[dict[str, Any]]
_Client: TypeAlias = AsyncMongoClient[dict[str, Any]]

CONNECTIONS = 6
"""At most, for each process. Writes go out in batches, one of a kind at a time or two, so more would wait for each
other in the database; on the embedded server, 50 did a third of the inserts that one did. Reads need not wait for a
long batch either, and one is nearly always taken by the change stream."""

SELECTION_MS = 3000
"""How long to look for a primary before that counts as a failure. Longer than the restart of the embedded server (under
1 s)."""

CONNECT_MS = 2000


@dataclass(frozen=True, slots=True)
class Connection:
    """A client, and the database that it is used for."""

    client: _Client
    database: Database

    async def embedded(self) -> bool:
        """Whether the server is SecantusDB."""
        return "secantusVersion" in await self.client.admin.command("buildInfo")

    async def close(self) -> None:
        await _close(self.client)


async def connect(uri: str, database: str, driver: Driver) -> Connection:
    """A client for the servers at `uri`.

    Raises ValueError for a URI that is none, and the driver's errors if no server answers.
    """
    options: dict[str, Any] = {}
    if "retrywrites=" not in uri.lower() and await _embedded(uri, driver):
        # SecantusDB scans the list of all recent retryable writes at each, so that a write grows from 0.7 to 10 ms
        # within 8,000. The store repeats writes itself.
        options["retryWrites"] = False
    client = _client(uri, driver, options)
    return Connection(
        client,
        client.get_database(
            database,
            codec_options=CodecOptions(tz_aware=True, tzinfo=UTC),
            # What is promised doesn't hang on options that a URI may carry. A read never shows what a failover could
            # take back.
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern("majority"),
            write_concern=WriteConcern(w="majority", j=True),
        ),
    )


async def _embedded(uri: str, driver: Driver) -> bool:
    """Whether SecantusDB answers there. A client's options are fixed when it is made, so this takes one of its own."""
    client = _client(uri, driver, {})
    try:
        return "secantusVersion" in await client.admin.command("buildInfo")
    finally:
        await _close(client)


def _client(uri: str, driver: Driver, options: dict[str, Any]) -> _Client:
    kind = cast("type[_Client]", AsyncIOMotorClient) if driver == "motor" else AsyncMongoClient
    try:
        return kind(
            uri,
            appname="openmcp-chain",
            maxPoolSize=CONNECTIONS,
            serverSelectionTimeoutMS=SELECTION_MS,
            connectTimeoutMS=CONNECT_MS,
            **options,
        )
    except ssl.SSLError:
        wrong = "names a file for TLS that holds no certificate, or not the kind that is needed"
    except OSError as error:
        wrong = f"names a file for TLS that can't be read: {error.strerror}"
    except (ConfigurationError, ValueError):
        # Without the driver's reason: it may quote a part of the password that it took for something else.
        wrong = "is not a valid connection string"
    raise ValueError(f"the MongoDB URI {wrong}")


async def _close(client: _Client) -> None:
    close: Any = client.close
    if inspect.iscoroutinefunction(close):
        await close()
    else:  # motor's takes leave of the server, and would hold up the loop meanwhile
        await asyncio.to_thread(close)


async def ready(answer: Any) -> Any:  # noqa: ANN401 - either driver's
    """What a method gave that has to be awaited with PyMongo, and not with motor: `aggregate`, `watch`."""
    return await answer if inspect.isawaitable(answer) else answer
