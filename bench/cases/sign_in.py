"""Right sign-ins, one after the other; with nobody else, and while others try wrong secrets for the same workspace."""

import base64
from functools import partial

from bench import openmcp
from bench.case import Case, Size
from bench.lab import Lab
from bench.sample import Sample
from openmcp.chain.v1 import auth_pb2

WRONG = 10_000
"""Wrong secrets that arrive, at least, in the measured stretch."""
RATE = 250
"""Wrong secrets a second. Envoy lets none through at such a rate from one address: this is somebody who is inside."""
CALLS = 16_000
"""Right ones that take so long as that, one at a time."""


async def run(rate: int, lab: Lab, size: Size) -> Sample:
    served = await openmcp.serve(lab)
    if rate:
        await lab.start_module("attack", "bench.load.wrong_secrets", served.target, served.workspace, str(rate))
    request = auth_pb2.AuthRequest(workspace_id=served.workspace, workspace_secret=served.secret)
    sample = await lab.measure(
        "bench.load.grpc_calls",
        {
            "target": served.target,
            "path": "/openmcp.chain.v1.AuthService/Authenticate",
            "token": served.token,
            "requests": [base64.b64encode(request.SerializeToString()).decode()],
            "calls": CALLS,
            "callers": 1,
            "warm_up": size.warm_up,
        },
    )
    if rate and rate * sample.seconds < WRONG:
        raise RuntimeError(f"only {rate * sample.seconds:,.0f} wrong secrets arrived: CALLS is too small here")
    return sample


CASE = Case("sign-in", "Authenticate, one call at a time", partial(run, 0))
ATTACKED = Case("sign-in-attacked", f"the same, with {RATE} wrong secrets a second", partial(run, RATE))
