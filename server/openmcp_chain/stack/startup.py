"""What happens between the start of the database and the server, and the moment when all is ready.

What is imported here takes longer than those two need to start, so `dev` imports this module when they are on
their way.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from openmcp_chain import config
from openmcp_chain.config import Config, ConfigError
from openmcp_chain.domain import errors
from openmcp_chain.engine.administration import Administration
from openmcp_chain.stack import administration, demo, enrolment, ports, probes, programs
from openmcp_chain.stack.children import Program
from openmcp_chain.stack.console import Console
from openmcp_chain.stack.failure import ChildDied, StackError
from openmcp_chain.stack.parts import Parts
from openmcp_chain.stack.site import Options, Site
from openmcp_chain.stack.state import Info, Memory


@dataclass(frozen=True, slots=True)
class Ready:
    """A stack that is ready."""

    info: Info
    admin_secret: str = field(repr=False)
    """Of the first administrator, if it was made just now; it is told this once, and kept nowhere."""


async def finish(options: Options, site: Site, parts: Parts, console: Console) -> Ready:
    """Starts the other parts and returns when all are ready. Raises StackError if one of them doesn't get there."""
    try:
        settings = config.from_environment({**os.environ, **programs.server_environment(site)})
    except ConfigError as error:
        raise StackError(str(error)) from None
    memory, admin_secret = await _enrol(options, site, settings, parts, console)
    if options.worker:  # before Envoy: it takes longer
        await parts.spawn(programs.worker(site, memory))
    await parts.spawn(_envoy(site, settings))
    ours = site.certificates
    ca = str(ours.authority.file) if ours else None
    signs_in = probes.accepts_token(site.rest_url, demo.WORKSPACE, memory.workspace_secret, ca)
    steps = [_own_port(parts, "envoy", "--rest-port", site.rest_port, signs_in)]
    if options.worker:
        steps.append(parts.until_ready("worker", probes.exists(programs.worker_ready_file(site))))
    await _all(*steps)

    def info() -> Info:
        return Info(
            rest_url=site.rest_url,
            grpc_target=site.grpc_target,
            envoy_grpc_target=site.envoy_target,
            mongodb_uri=site.database.uri,
            workspace_id=demo.WORKSPACE,
            workspace_secret=memory.workspace_secret,
            ca_file=ca,
            cert_file=str(ours.client.certificate) if ours else None,
            key_file=str(ours.client.key) if ours else None,
            files_dir=str(site.folder.files),
            pids=parts.pids,
        )

    parts.on_restart = lambda: site.folder.publish(info())
    parts.on_restart()
    return Ready(info(), admin_secret)


async def _until_served(opened: Administration, site: Site, parts: Parts) -> None:
    """Waits for the server. Raises StackError if it can't serve this database."""
    try:
        await _own_port(parts, "server", "--grpc-port", site.grpc_port, probes.accepts(site.grpc_target))
    except ChildDied:
        try:
            await opened.keys.load()
        except ValueError:
            raise StackError(
                f"the database at {site.database.address} has another master key than {site.master_key}: "
                "give its own with --master-key-file, or use another database"
            ) from None
        raise


async def _own_port(parts: Parts, name: str, flag: str, port: int, probe: Callable[[], Awaitable[bool]]) -> None:
    """Waits until this part has the port, and then until `probe` says yes. Raises StackError.

    The port was free when it was chosen, but that is seconds ago.
    """

    async def ready() -> bool:
        return probes.listens(lambda: parts.pids[name], port) and await probe()

    try:
        await parts.until_ready(name, ready)
    except ChildDied:
        ports.choose({flag: port})  # if somebody else has it now, that is the reason, and told
        raise


def _envoy(site: Site, settings: Config) -> Program:
    """Renders its configuration, and returns how to run it."""
    from openmcp_chain.stack import envoy  # noqa: PLC0415 - the worker starts while these are imported
    from openmcp_chain.stack.envoy import cors  # noqa: PLC0415 - as above
    from openmcp_chain.stack.envoy.collector import Collector  # noqa: PLC0415 - as above
    from openmcp_chain.stack.envoy.tls import Identity, Servers  # noqa: PLC0415 - as above

    ours = site.certificates
    client = Identity(ours.client.certificate, ours.client.key) if ours else None
    try:
        wanted = envoy.Settings(
            listen=envoy.Address(ports.HOST, site.rest_port),
            server=envoy.Address(ports.HOST, site.grpc_port),
            plans=settings.plans,
            identity=Identity(ours.envoy.certificate, ours.envoy.key) if ours else None,
            server_tls=Servers(ours.authority.file, "localhost", client) if client and ours else None,
            otlp=Collector.from_environment(os.environ),
            origins=cors.from_environment(os.environ),
        )
    except ValueError as error:
        raise StackError(str(error)) from None
    path = envoy.write(wanted, site.folder.envoy)
    return Program("envoy", [site.envoy, *envoy.command(path)[1:]], cwd=site.folder.envoy)


async def _enrol(options: Options, site: Site, settings: Config, parts: Parts, console: Console) -> tuple[Memory, str]:
    """Waits for the database, and makes in it the demo workspace, the worker's operator and the first administrator."""
    async with probes.DatabaseProbe(site.database) as takes_writes:
        if site.database.program:
            await parts.until_ready("database", takes_writes)
    remembered = site.folder.recall()
    try:
        async with administration.opened(settings) as opened:
            # First: what the server can't read is not ours to change.
            await _until_served(opened, site, parts)
            memory = await enrolment.credentials(opened, remembered, options.plan, console.note)
            # With a secret in the environment, the server itself makes it.
            admin_secret = "" if settings.admin_secret else await enrolment.first_administrator(opened)
    except errors.Unavailable:
        raise StackError(f"no MongoDB takes writes at {site.database.address}") from None
    except (errors.Error, ValueError) as error:
        raise StackError(str(error)) from None
    site.folder.remember(memory)
    return memory, admin_secret


async def _all(*steps: Coroutine[Any, Any, None]) -> None:
    """Takes the steps side by side; the first failure stops the others and is raised as it is."""
    tasks = [asyncio.create_task(step) for step in steps]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
