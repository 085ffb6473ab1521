"""How even the load of shards is: simulated, since one machine has no cluster.

Workspaces' rates follow a power law (the k-th has 1/k of the first's), as those of tenants do. The key is
`workspace/task`, and tasks' ids rise with time (UUIDv7): so all that a workspace submits, claims and ends goes to the
end of its range, which is one chunk, on one shard, however often the range was split. Chunks are where chance has put
them, or so well balanced by rate as whole workspaces can be. Hashed keys spread each task by itself.
"""

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

WORKSPACES = 10_000
RUNS = 21
SHARDS = (2, 3, 6, 12, 24, 60)


@dataclass(frozen=True, slots=True)
class Evenness:
    """The busiest shard's load as a multiple of the mean: so many times fewer tasks does the cluster take."""

    shards: int
    by_chance: float
    balanced: float
    hashed: float
    """Of a million tasks in a second, each by itself."""


def shares(workspaces: int = WORKSPACES) -> Sequence[float]:
    """Each workspace's part of the whole, the largest first."""
    weights = [1 / rank for rank in range(1, workspaces + 1)]
    whole = sum(weights)
    return [weight / whole for weight in weights]


def simulate(shards: int, seed: int = 1) -> Evenness:
    parts, chance = shares(), random.Random(seed)
    return Evenness(
        shards,
        median(_busiest([chance.randrange(shards) for _ in parts], parts, shards) for _ in range(RUNS)),
        _busiest(_balanced(parts, shards), parts, shards),
        _hashed(shards, chance),
    )


def _busiest(places: Sequence[int], parts: Sequence[float], shards: int) -> float:
    loads = [0.0] * shards
    for place, part in zip(places, parts, strict=True):
        loads[place] += part
    return max(loads) * shards


def _balanced(parts: Sequence[float], shards: int) -> Sequence[int]:
    """Each workspace, the largest first, to the shard that has least."""
    loads = [(0.0, shard) for shard in range(shards)]
    places = []
    for part in parts:
        load, shard = heapq.heappop(loads)
        heapq.heappush(loads, (load + part, shard))
        places.append(shard)
    return places


def _hashed(shards: int, chance: random.Random) -> float:
    """By the normal approximation: a million draws for each figure would take seconds."""
    mean = 1_000_000 / shards
    deviation = (mean * (1 - 1 / shards)) ** 0.5
    return median(max(chance.gauss(mean, deviation) for _ in range(shards)) / mean for _ in range(RUNS))
