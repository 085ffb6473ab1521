"""Signs in with the right secret, one call at a time, through windows that are quiet and attacked in turns.

Plan: `target`; `workspace`, `secret`; `warm_up`, in calls; `windows`, how many, and `window_seconds`, of each. Tells
how many sign-ins counted in the windows of each kind and what they took; and, of the attacked windows' medians and
means, what multiples of their neighbours' they are: the median pair's. A pair of which one window has none that counts
is left out; that there was such a stall, the longest sign-in tells, of all, counted or not.
"""

import time
from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

import grpc

from bench.load import protocol
from bench.load.windows import Windows, attacked
from openmcp.chain.v1 import auth_pb2

PATH = "/openmcp.chain.v1.AuthService/Authenticate"


async def main(plan: dict[str, Any]) -> None:
    credentials = auth_pb2.AuthRequest(workspace_id=plan["workspace"], workspace_secret=plan["secret"])
    request = credentials.SerializeToString()
    async with grpc.aio.insecure_channel(plan["target"]) as channel:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(PATH)
        for _ in range(plan["warm_up"]):
            await method(request)
        windows = Windows(await protocol.wait_for_go(), plan["window_seconds"], plan["windows"])
        taken: list[list[float]] = [[] for _ in range(windows.count)]
        longest = 0.0
        while (began := time.monotonic()) < windows.end:
            await method(request)
            ended = time.monotonic()
            longest = max(longest, ended - began)
            if (number := windows.counted(began, ended)) is not None:
                taken[number].append(ended - began)
    _tell(windows, taken, longest)


def _tell(windows: Windows, taken: Sequence[Sequence[float]], longest: float) -> None:
    told = {"longest_ms": longest * 1000}
    for kind, wanted in (("quiet", False), ("attacked", True)):
        all_of_kind = [s for number, some in enumerate(taken) if attacked(number) is wanted for s in some]
        told |= {f"{kind}_count": len(all_of_kind), f"{kind}_mean_ms": fmean(all_of_kind) * 1000}
        told |= protocol.percentiles(all_of_kind, f"{kind}_")
    pairs = [pair for pair in zip(taken[::2], taken[1::2], strict=True) if all(pair)]
    told["times_p50"] = median(median(under) / median(quiet) for quiet, under in pairs)
    told["times_mean"] = median(fmean(under) / fmean(quiet) for quiet, under in pairs)
    protocol.tell(sum(map(len, taken)), windows.seconds * windows.count, **told)


if __name__ == "__main__":
    protocol.run(main)
