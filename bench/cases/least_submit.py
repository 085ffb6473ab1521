"""The least of our own parts that accepts a task: our checks and durable batches, and nothing else."""

from functools import partial
from itertools import cycle

from bench import task
from bench.case import Case, Size
from bench.lab import Lab
from bench.sample import Sample
from openmcp_chain.stack import ports


async def run(
    lab: Lab, size: Size, *, servers: int = 1, times: int = 1, databases: int = 1, tells: bool = False
) -> Sample:
    """`times` as many callers, spread evenly over the servers.

    These know nothing of each other but their database, unless each `tells` the others of its tasks.
    """
    uris = [await lab.start_database(number) for number in range(databases)]
    targets = [f"{ports.HOST}:{port}" for port in ports.choose({f"server {n}": 0 for n in range(servers)})]
    for target, uri in zip(targets, cycle(uris), strict=False):
        await lab.start_module("server", "bench.peers.least", target, uri, *(["tells"] if tells else []))
    return await lab.measure(
        "bench.load.grpc_calls",
        {
            "target": f"ipv4:{','.join(targets)}",
            "path": "/openmcp.chain.v1.TaskService/SubmitTask",
            # Of a real token's length.
            "token": "x" * 600,
            "requests": [task.as_base64("bench")],
            "calls": size.calls,
            "callers": times * size.callers,
            "warm_up": size.warm_up,
        },
    )


CASE = Case("least", "the least that checks a task and stores it", run)
TWO = Case("least-two", "2 of the least that stores a task, 64 callers each", partial(run, servers=2, times=2))
TWO_TOLD = Case("least-told", "the same, each told of the other's tasks", partial(run, servers=2, times=2, tells=True))
TWO_SHARED = Case("least-shared", "2 of the least, 64 callers in all", partial(run, servers=2))
TWO_APART = Case(
    "least-apart", "the same 64, each server with a database of its own", partial(run, servers=2, databases=2)
)
