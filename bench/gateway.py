"""Envoy before our server, on the configuration that `openmcp dev` gives it."""

from bench.lab import Lab
from bench.openmcp import Served
from openmcp_chain import config
from openmcp_chain.stack import database, envoy, ports, probes


async def start(lab: Lab, served: Served) -> int:
    """Starts one; returns its port when a call with a token gets through it to the database."""
    (port,) = ports.choose({"Envoy's port": 0})
    settings = envoy.Settings(
        listen=envoy.Address(ports.HOST, port),
        server=envoy.Address.parse(served.target),
        plans=config.load_plans(served.environment),
    )
    command = database.find("envoy")
    assert command, "the stack extra is not installed"
    lab.start("envoy", [command, *envoy.command(envoy.write(settings, lab.folder))[1:]], {})
    url = f"http://{ports.HOST}:{port}"
    await lab.until("envoy", probes.accepts_token(url, served.workspace, served.secret, None))
    return port
