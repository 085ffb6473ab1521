"""The composition root: makes the parts of a server process, gives each what it needs, runs it until told to stop.

The only file that knows every room.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys

# gRPC tells in its own lines of every connection that fails. Its errors are enough; read when grpc is imported.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import uvloop

from openmcp_chain import config, logs, telemetry
from openmcp_chain.config import Config, ConfigError
from openmcp_chain.domain import errors
from openmcp_chain.engine import clock, workspaces
from openmcp_chain.engine.administration import Administration, local_actor
from openmcp_chain.engine.bearers import Bearers
from openmcp_chain.engine.dispatch import Dispatcher
from openmcp_chain.engine.events import EventHub
from openmcp_chain.engine.eviction import Eviction
from openmcp_chain.engine.identity import Identity
from openmcp_chain.engine.leases import Leases
from openmcp_chain.engine.leasing import Leasing
from openmcp_chain.engine.ledger import Ledger
from openmcp_chain.engine.moments import Moments
from openmcp_chain.engine.neighbours import Neighbours
from openmcp_chain.engine.pace import Pace
from openmcp_chain.engine.queues import Queues
from openmcp_chain.engine.quotas import Pending, Streams
from openmcp_chain.engine.retention import Retention
from openmcp_chain.engine.signals import Signals
from openmcp_chain.engine.submission import Submission
from openmcp_chain.engine.sweep import Sweep
from openmcp_chain.engine.tasks import Tasks
from openmcp_chain.engine.tokens import Tokens
from openmcp_chain.engine.volume import Volume
from openmcp_chain.store.base import Store
from openmcp_chain.store.mongo.store import connect
from openmcp_chain.transport.auth import AuthService
from openmcp_chain.transport.dues import Dues
from openmcp_chain.transport.large import Large
from openmcp_chain.transport.rest import RestService
from openmcp_chain.transport.rpc import Rpc
from openmcp_chain.transport.server import Server
from openmcp_chain.transport.tasks import TaskService
from openmcp_chain.transport.tls import Certificates
from openmcp_chain.transport.workers import WorkerService
from openmcp_chain.transport.workspaces import WorkspaceService

log = logging.getLogger(__name__)

SETTLE_SECONDS = 3.0
"""How long writes that nobody waits for may go on when all calls have ended."""
CONNECT_SECONDS = 0.2
"""How long to wait before the database is tried again."""
ADMIT_SECONDS = 1.0
"""How long to wait before a first administrator that is being deleted is looked at again."""


class StartError(Exception):
    """The server can't start. The message is for whoever starts it."""


class App:
    """One server process's parts, put together over a store."""

    def __init__(self, settings: Config, store: Store, now: clock.Clock = clock.system) -> None:
        self._settings = settings
        self._store = store
        self.tokens = Tokens(store, settings.master, now)
        self.keys = self.tokens.keys
        self.identity = Identity(store, settings.master, self.tokens, settings.plans, now)
        self.bearers = Bearers(self.identity)
        self.ledger = Ledger(store)
        self.streams = Streams()
        unread = Volume()
        self.events = EventHub(self.ledger, self.streams, unread)
        self.queues = Queues(store, now)
        self.pending = Pending(store, self.ledger, self.queues, self.identity.quotas)
        self.administration = Administration(store, settings.master, settings.plans, self.queues, now)
        self.dispatcher = Dispatcher(
            self.ledger,
            self.queues,
            clock=now,
            lease_duration=settings.lease_duration,
            weight=self.identity.weight,
        )
        pace, dues = Pace(self.identity.plan), Dues(self.identity.plan)
        self.leases = Leases(store, self.ledger, self.dispatcher, pace, clock=now, retention=settings.retention)
        self.leasing = Leasing(store, self.ledger, self.dispatcher, self.leases, self.streams, unread, now)
        self.sweep = Sweep(store, self.queues, self.dispatcher, self.leases, now)
        self.dispatcher.look = self.sweep.want
        self.retention = Retention(store, self.ledger, now)
        self.eviction = Eviction(store, self.queues)
        moments = Moments()
        for part in (self.identity, self.pending, self.events, moments, pace, dues):
            self.eviction.follow(part.forget)
        self.submission = Submission(store, self.ledger, self.queues, self.dispatcher, self.pending, moments, now)
        self.tasks = Tasks(store, self.ledger, self.leases, self.pending)
        self.signals = Signals(store, self.ledger, now)
        self.dispatcher.turn = self.signals.turn
        neighbours = Neighbours(self.events, self.leases, self.dispatcher, self.sweep)
        self.signals.heard, self.signals.missed = neighbours.heard, neighbours.missed
        self.signals.concerned = neighbours.concerned
        self.dispatcher.came = self.events.came = self.signals.listen
        self.large = Large(unread)
        self.workers = WorkerService(
            self.leases, self.leasing, self.dispatcher, self.identity, self.streams, dues, self.large
        )
        self.server = Server(
            Rpc(self.identity, self.bearers, self.large, dues, self.streams),
            auth=AuthService(self.identity),
            tasks=TaskService(self.submission, self.tasks, self.queues, self.events, self.identity, now),
            rest=RestService(self.events, self.identity, self.keys),
            workers=self.workers,
            workspaces=WorkspaceService(self.administration),
            store=store,
        )
        self._loops: list[asyncio.Task[None]] = []

    async def start(self) -> int:
        """Serves; returns the port. Raises StartError, or Unavailable."""
        try:
            await self.keys.load()
            await self.queues.refresh()
            admitted = await self._admitted()
            settings, tls = self._settings, self._settings.tls
            credentials = Certificates(tls.certificate, tls.key, tls.client_ca).credentials() if tls else None
            port = await self.server.start(settings.listen, credentials, settings.health_listen)
        except (OSError, ValueError) as error:
            # No port, no certificate, or another master key: our own words.
            raise StartError(str(error)) from None
        parts = (self.keys, self.bearers, self.queues, self.pending, self.sweep, self.retention, self.eviction)
        loops = (*(part.run() for part in (*parts, self.signals)), self.server.watch_health())
        self._loops = [asyncio.create_task(loop) for loop in loops]
        if not admitted:
            log.warning("the first administrator is being deleted; when that is done, it is made anew")
            self._loops.append(asyncio.create_task(self._admit_later()))
        return port

    async def _admitted(self) -> bool:
        """Sees to it that the first administrator has the secret that was given for it, if one was.

        False: not yet, it is being deleted. That is for servers to do, so none waits for it before it serves. Raises
        ValueError if nobody could be given the secret.
        """
        if self._settings.admin_secret:
            admit = self.administration.workspaces.admit_administrator
            try:
                await admit(local_actor(), workspaces.FIRST, self._settings.admin_secret)
            except errors.WorkspaceDeleting:
                return False
            except ValueError as error:
                raise ValueError(f"OPENMCP_ADMIN_SECRET: {error}") from None
        return True

    async def _admit_later(self) -> None:
        """Returns when the first administrator that was being deleted is there again."""
        admitted = False
        while not admitted:
            await asyncio.sleep(ADMIT_SECONDS)
            with contextlib.suppress(errors.Error):  # what keeps it from the database is told by all others
                admitted = await self._admitted()

    async def stop(self) -> None:
        """Drains, in an order that loses no call.

        Says so, but goes on serving until nobody sends more (a server that stopped at once would refuse what a balancer
        sends before it has heard); then ends the streams with what is known, answers what is under way, and lets go.
        """
        await self.server.announce_shutdown()
        self.workers.drain()
        await self.server.quiet(self._settings.lame_duck)
        self.events.drain()
        await self.server.stop(self._settings.drain)
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        # Nobody waits for what this takes longer for.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_SECONDS):
                for part in (self.leasing, self.submission, self.dispatcher, self.ledger):
                    await part.settle()
        await self._store.close()


async def serve(settings: Config) -> None:
    """Runs a server until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    logs.guard(loop)
    stopping = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopping.set)
    store = await _connected(settings, stopping)
    if store is None:
        return
    app = App(settings, store)
    try:
        port = await app.start()
        _settle_garbage_collector()
        log.info("serving", extra={"port": port})
        await stopping.wait()
        log.info("draining")
    finally:
        await app.stop()
    log.info("stopped")


async def _connected(settings: Config, stopping: asyncio.Event) -> Store | None:
    """The store, once its database answers (a server may start before it does); None if told to stop first.

    Raises StartError for a URI that is none.
    """
    while not stopping.is_set():
        try:
            return await connect(settings.mongodb_uri, settings.mongodb_database, settings.mongodb_driver)
        except errors.Unavailable:
            log.warning("waiting for the database")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CONNECT_SECONDS):
                    await stopping.wait()
        except ValueError as error:
            raise StartError(f"OPENMCP_MONGODB_URI: {error}") from None
    return None


def _settle_garbage_collector() -> None:
    """Keeps the collector from walking, again and again, what lives as long as the process.

    Its defaults cost a quarter of a submit's CPU (docs/performance.md): a call makes many objects and no cycles
    but a small one of gRPC's own.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def main() -> None:
    """`openmcp server`: exit status 0 after a signal, 1 with one line on standard error if it can't start."""
    try:
        settings = config.from_environment()
    except ConfigError as error:
        sys.exit(f"openmcp server: {error}")
    logs.configure(settings.log_level)
    telemetry.configure("openmcp-server")
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings))
    except (StartError, errors.Unavailable) as error:
        sys.exit(f"openmcp server: {error}")
    finally:
        telemetry.flush()
