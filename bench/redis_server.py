"""A Redis that has on disk what it acknowledges: each command is in its log, and the log synced, before the answer."""

from bench import environment
from bench.lab import Lab
from openmcp_chain.stack import ports, probes


def program() -> str:
    """Its path."""
    return environment.find("redis-server")


async def start(lab: Lab) -> str:
    """Starts one on an empty folder; returns its URL when it takes connections."""
    folder = lab.folder / "redis"
    folder.mkdir()
    (port,) = ports.choose({"Redis's port": 0})
    durable = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
    place = ["--bind", ports.HOST, "--port", str(port), "--dir", str(folder)]
    lab.start("database", [program(), *place, *durable], {})
    await lab.until("database", probes.accepts(f"{ports.HOST}:{port}"))
    return f"redis://{ports.HOST}:{port}/0"
