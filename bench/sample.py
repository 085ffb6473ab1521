"""What one run of one case gave, and the figures that are made of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.meter import OTHERS_CORES, Usage


@dataclass(frozen=True, slots=True)
class Sample:
    """One run: so many operations, in so many seconds."""

    operations: int
    seconds: float
    usage: Usage
    """By process: `server`, `database` if there is one, `load`."""
    p50_ms: float | None = None
    p99_ms: float | None = None
    """Of single operations as the caller saw them, where each was timed."""
    more: Mapping[str, float] = field(default_factory=dict)
    """What only some cases tell, by name."""

    @property
    def believed(self) -> bool:
        """Whether the machine was ours."""
        return self.usage.others <= OTHERS_CORES

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.operations / self.seconds

    def cpu_ms(self, *processes: str) -> float:
        """CPU milliseconds an operation, over these processes together; one that there isn't takes none."""
        return sum(self.usage.cpu.get(name, 0.0) for name in processes) * 1000 / self.operations
