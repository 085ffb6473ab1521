"""One task at a time on an idle system: from the submit to its start in a worker, and to its result in the client.

Client, server, database and worker are processes of their own, as they would be.
"""

import sys

from bench import openmcp, task
from bench.case import Case, Size
from bench.lab import Lab
from bench.sample import Sample
from openmcp_chain.stack import probes

CALLS = 1000
"""At most: they are made one by one, with pauses."""


def calls(size: Size) -> dict[str, int]:
    """How many, of all that are made so."""
    return {"calls": min(CALLS, size.calls), "warm_up": min(CALLS // 10, size.warm_up)}


async def run(lab: Lab, size: Size) -> Sample:
    served = await openmcp.serve(lab)
    ready = lab.folder / "worker.ready"
    environment = {
        "OPENMCP_SERVER": served.target,
        "OPENMCP_WORKSPACE_ID": served.workspace,
        "OPENMCP_WORKSPACE_SECRET": served.secret,
        "OPENMCP_WORKER_READY_FILE": str(ready),
    }
    lab.start("worker", [sys.executable, "-m", "bench.load.stamping_worker"], environment)
    await lab.until("worker", probes.exists(ready))
    return await lab.measure(
        "bench.load.round_trips",
        {
            "target": served.target,
            "workspace": served.workspace,
            "secret": served.secret,
            "payload": task.as_json(served.workspace)["payload"],
            **calls(size),
        },
    )


CASE = Case("latency", "OpenMCP Chain, the Python client and worker", run)
