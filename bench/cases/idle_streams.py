"""Open event streams on which nothing happens: what each takes of the server's memory, and all of its time.

Of two kinds: gRPC's, which are silent, and those that Envoy makes Server-Sent Events of, which are pinged.
"""

import base64
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from bench import openmcp
from bench.case import Case, Size
from bench.lab import Lab
from bench.sample import Sample
from openmcp.chain.v1 import rest_pb2, tasks_pb2
from openmcp_chain.transport.rest import PING_SECONDS

STREAMS = 2000
"""At most, as many as `Size.calls`."""
SECONDS = PING_SECONDS
"""How long they are idle: each is pinged once meanwhile."""

Request = Callable[[str], bytes]


async def run(method: str, request: Request | None, lab: Lab, size: Size) -> Sample:
    served = await openmcp.serve(lab)
    ids: Sequence[str] = await openmcp.submit(served, min(STREAMS, size.calls))
    requests = [request(task_id) for task_id in ids] if request else []
    before = lab.memory("server")
    sample = await lab.measure(
        "bench.load.idle_streams",
        {
            "target": served.target,
            "path": f"/openmcp.chain.v1.{method}",
            "token": served.token,
            "requests": [base64.b64encode(one).decode() for one in requests],
            "seconds": SECONDS,
        },
    )
    if not requests:
        return sample
    return replace(sample, more={"kib": (lab.memory("server") - before) / len(requests) / 1024})


def _typed(task_id: str) -> bytes:
    return tasks_pb2.StreamTaskEventsRequest(task_id=task_id).SerializeToString()


def _served(task_id: str) -> bytes:
    return rest_pb2.ServeTaskEventsRequest(task_id=task_id).SerializeToString()


NONE = Case("streams-none", "none", partial(run, "", None))
TYPED = Case("streams", f"{STREAMS:,}, StreamTaskEvents", partial(run, "TaskService/StreamTaskEvents", _typed))
SERVED = Case(
    "streams-sse", f"{STREAMS:,}, Server-Sent Events, pinged", partial(run, "RestService/ServeTaskEvents", _served)
)
