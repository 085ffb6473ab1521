"""`python -m bench.scale`: measures the parts that are named, or all, and writes `bench/results/scale.md` anew.

What was measured is kept in `scale.json` beside it, so that one part can be measured again by itself. The tables that
docs/scale.md shows of it are written there as well.
"""

import argparse
import asyncio
import json
import os
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from bench import summary
from bench.scale import edge, hearing, idle, memory, pages, shards, spread


async def _spread() -> Mapping[str, Any]:
    return {"runs": [asdict(await spread.measure(servers)) for servers in spread.SERVERS]}


async def _busy() -> Mapping[str, Any]:
    return {"runs": [asdict(await spread.measure(1, rate=rate)) for rate in spread.RATES]}


async def _follow() -> Mapping[str, Any]:
    none, followed = [await spread.measure(2, followers) for followers in (0, spread.FOLLOWERS)]
    return {"server_ms": (followed.server_ms - none.server_ms) / spread.FOLLOWERS}


async def _hearing() -> Mapping[str, Any]:
    return asdict(await hearing.measure())


async def _idle() -> Mapping[str, Any]:
    return asdict(await idle.measure())


async def _edge() -> Mapping[str, Any]:
    return asdict(await edge.measure())


async def _memory() -> Mapping[str, Any]:
    return asdict(await asyncio.to_thread(memory.measure))


async def _shards() -> Mapping[str, Any]:
    return {"runs": [asdict(shards.simulate(count)) for count in shards.SHARDS]}


PARTS: Mapping[str, Callable[[], Coroutine[Any, Any, Mapping[str, Any]]]] = {
    "hearing": _hearing,
    "spread": _spread,
    "busy": _busy,
    "follow": _follow,
    "idle": _idle,
    "edge": _edge,
    "memory": _memory,
    "shards": _shards,
}


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument(
        "--render",
        action="store_true",
        help="measure nothing: write the pages, and docs/performance.md, of what is kept",
    )
    options = parser.parse_args()
    if options.render and options.parts:
        parser.error("--render measures no part")
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    kept = pages.KEPT
    measured: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    for name in () if options.render else options.parts or PARTS:
        told = asyncio.run(PARTS[name]())
        measured[name] = {"at": f"{datetime.now(UTC):%Y-%m-%d}", "load": os.getloadavg()[1], **told}
        kept.write_text(json.dumps(measured, indent=1) + "\n")
        print(name, measured[name], flush=True)
    if missing := set(PARTS) - set(measured):
        parser.exit(0, f"to be measured before there is a page: {', '.join(sorted(missing))}\n")
    pages.write()
    summary.write()


if __name__ == "__main__":
    main()
