"""Right sign-ins, one after the other, while others try wrong secrets for the same workspace, and in between.

Both in one run: the attack is on and off in turns of a few seconds. The machine's speed changes by half from one minute
to the next, and two runs would be compared by that.
"""

import math
from functools import partial

from bench import openmcp
from bench.case import Case, Size
from bench.lab import Lab
from bench.sample import Sample
from openmcp_chain.engine.signins import LONGEST

WRONG = 10_000
"""Wrong secrets that arrive in a run."""
RATES = (250, 100)
"""Wrong secrets a second. Envoy lets none through at such rates from one address: this is somebody who is inside."""
WINDOW_SECONDS = LONGEST / 2
"""Of an attacked window and of a quiet one. So a wrong secret whose answer waits gets it in an attacked one again."""


async def run(rate: int, lab: Lab, size: Size) -> Sample:
    served = await openmcp.serve(lab)
    windows = 2 * math.ceil(WRONG / (rate * WINDOW_SECONDS))
    plan = {
        "target": served.target,
        "workspace": served.workspace,
        "windows": windows,
        "window_seconds": WINDOW_SECONDS,
    }
    return await lab.measure(
        "bench.load.sign_ins",
        {**plan, "secret": served.secret, "warm_up": size.warm_up},
        attack=("bench.load.wrong_secrets", {**plan, "rate": rate}),
    )


OFTEN, SELDOM = (Case(f"sign-in-{rate}", f"{rate} wrong secrets a second", partial(run, rate)) for rate in RATES)
