"""`openmcp dev`: the whole stack on this machine, as real processes, for one person."""

import asyncio
import contextlib
import logging
import signal
import time

import openmcp_chain
from openmcp_chain.stack import authority, programs, site
from openmcp_chain.stack.console import Console, print_failure
from openmcp_chain.stack.failure import StackError
from openmcp_chain.stack.parts import Parts
from openmcp_chain.stack.site import Options, Site
from openmcp_chain.stack.state import DataFolder, Info

_END = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(options: Options) -> int:
    """Runs the stack until a signal, or the sample's end, ends it. Returns the exit status."""
    try:
        with DataFolder(options.data_dir) as folder:
            # What the driver or gRPC may have to say is no matter for the person at the terminal.
            logging.basicConfig(filename=folder.logs / "dev.log", filemode="w", level=logging.WARNING, force=True)
            logging.captureWarnings(capture=True)
            return asyncio.run(_supervise(options, folder))
    except StackError as error:
        print_failure(error)
    except OSError as error:  # a full disk, most likely
        print_failure(StackError(str(error)))
    return 1


async def _supervise(options: Options, folder: DataFolder) -> int:
    """Runs the stack, and ends it whatever happens: a signal at any time, a failure, or the sample's end."""
    console = Console()
    parts = Parts(folder, console)
    work = asyncio.create_task(_work(options, site.choose(options, folder), parts, console))
    received: list[signal.Signals] = []

    def end(number: signal.Signals) -> None:
        if received:  # somebody is in a hurry
            parts.kill()
        received.append(number)
        work.cancel()

    for number in _END:
        asyncio.get_running_loop().add_signal_handler(number, end, number)
    try:
        return await work
    except asyncio.CancelledError:
        if not received:
            raise
        # Ctrl-C is how the stack is meant to end; a sample that didn't come to its end has not succeeded.
        return 128 + received[0] if options.once or not folder.dev_json.exists() else 0
    finally:
        console.note("\nEnding …")
        await parts.end()


async def _work(options: Options, place: Site, parts: Parts, console: Console) -> int:
    began = time.monotonic()
    console.heading(f"OpenMCP Chain {openmcp_chain.__version__}")
    started = [place.database.kind] if place.database.program else []
    started += ["the server", "Envoy", *(["a worker"] if options.worker else [])]
    console.note(f"Starting {', '.join(started)} …\n")
    if place.database.program:
        await parts.spawn(place.database.program)
    await parts.spawn(programs.server(place))
    from openmcp_chain.stack import startup  # noqa: PLC0415 - takes longer than those two need to start

    ready = await startup.finish(options, place, parts, console)
    info = ready.info
    _greet(console, options, place, info, time.monotonic() - began)
    if ready.admin_secret:
        console.heading("Administrator")
        console.row("workspace_id", "admin")
        console.row("workspace_secret", ready.admin_secret, "shown this once")
    if options.sample:
        from openmcp_chain.stack import sample  # noqa: PLC0415 - not before all is ready

        succeeded = await parts.unless_lost(sample.run(info, place.folder, console))
        if options.once:
            return 0 if succeeded else 1
    console.note("\nCtrl-C ends everything.")
    renewal = asyncio.create_task(_renew(place))
    try:
        await parts.lost()
    finally:
        renewal.cancel()
    return 1


async def _renew(place: Site) -> None:
    """Issues the certificates anew, long before their end, for as long as the stack is up."""
    while place.certificates is not None:
        await asyncio.sleep(authority.RENEWAL.total_seconds())
        with contextlib.suppress(StackError):
            site.certificates(place.folder)


def _greet(console: Console, options: Options, place: Site, info: Info, seconds: float) -> None:
    database = f"in {place.folder.database}" if place.database.program else "given"
    console.row("REST, SSE", info.rest_url, "Envoy; gRPC and gRPC-Web too")
    console.row("gRPC", info.grpc_target, "the server itself")
    console.row("database", place.database.address, f"{place.database.kind}, {database}")
    if options.worker:
        console.row("worker", "data_pipeline")
    console.row("logs", str(place.folder.logs))
    console.good(f"  ready in {seconds:.1f} s; {place.folder.dev_json} says where everything is")
    console.heading("Demo workspace")
    console.row("workspace_id", info.workspace_id, f"plan {options.plan}")
    console.row("workspace_secret", info.workspace_secret)
    console.row("files", info.files_dir, "what its file:// may touch")
