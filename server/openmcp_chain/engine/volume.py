"""How many bytes are held of each workspace: of its requests, or of what it has not read yet. Of each and all bounded.

A call that would be too many is refused. A worker waits instead for there to be room: of workers that do not read, a
workspace may have as many as streams, and each would be given something.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from openmcp_chain.domain import errors

SMALL = 32 * 1024
"""Bytes. Answers and requests of so many are not counted."""
WORKSPACE_BYTES = 64 * 1024 * 1024
ALL_BYTES = 128 * 1024 * 1024
"""What is counted takes up to three times that: the task, its bytes, and gRPC's copy."""
OWN_BYTES = 4 * 1024 * 1024
"""So many a workspace may have, whatever others have: enough for the largest request or answer."""

Wake: TypeAlias = Callable[[], bool]
"""Tells one who waits that there may be room; returns whether it has taken some."""


class Volume:
    """How many bytes are held, and who waits for room."""

    def __init__(self) -> None:
        self._bytes = Counter[str]()
        self._waiting: dict[str, dict[Wake, int]] = {}
        """Since which letting go each has waited."""
        self._let_go = 0
        """How often something has been let go of."""

    @property
    def total(self) -> int:
        return self._bytes.total()

    def fits(self, workspace: str, size: int) -> bool:
        """Whether there is room for so many more."""
        own = self._bytes[workspace] + size
        return own <= WORKSPACE_BYTES and (own <= OWN_BYTES or self.total + size <= ALL_BYTES)

    def exceeded(self, workspace: str) -> bool:
        """Whether it has more than it may: of what was not refused, having been done."""
        return self._bytes[workspace] > WORKSPACE_BYTES

    def ask(self, workspace: str, size: int) -> None:
        """Raises Overloaded if so many more would be too many."""
        if not self.fits(workspace, size):
            raise errors.Overloaded

    def enter(self, workspace: str, size: int) -> None:
        """Counts so many more, whether they fit or not; `leave` is to follow."""
        self._bytes[workspace] += size

    def leave(self, workspace: str, size: int) -> None:
        """They are held no more: who waits is told, until one has taken something; of the workspace, and of others."""
        self._bytes[workspace] -= size
        if not self._bytes[workspace]:
            del self._bytes[workspace]
        self._let_go += 1
        self.pass_on(workspace)

    def pass_on(self, workspace: str) -> None:
        """Who was told could not take what he had thought: the next are told, of those who have waited since before."""
        if self._waiting:
            self._wake(workspace)
            for other in list(self._waiting):
                if other != workspace and self._wake(other):
                    break

    def wait(self, workspace: str, wake: Wake) -> None:
        """`wake` is called once, when something has been let go of, unless it is forgotten before."""
        self._waiting.setdefault(workspace, {}).setdefault(wake, self._let_go)

    def forget(self, workspace: str, wake: Wake) -> None:
        """It waits no more, if it did."""
        waiting = self._waiting.get(workspace)
        if waiting is not None:
            waiting.pop(wake, None)
            if not waiting:
                del self._waiting[workspace]

    def _wake(self, workspace: str) -> bool:
        """Returns whether one has taken something; where nothing is held, all are told."""
        taken = False
        for wake, since in list(self._waiting.get(workspace, {}).items()):
            if since == self._let_go:
                continue
            self.forget(workspace, wake)
            taken = wake() or taken
            if taken and self._bytes[workspace]:
                break
        return taken


@dataclass(frozen=True, slots=True)
class Share:
    """A workspace's part of a volume."""

    volume: Volume
    workspace: str

    def fits(self, size: int) -> bool:
        """See Volume; the others likewise."""
        return self.volume.fits(self.workspace, size)

    def enter(self, size: int) -> None:
        self.volume.enter(self.workspace, size)

    def leave(self, size: int) -> None:
        self.volume.leave(self.workspace, size)

    def wait(self, wake: Wake) -> None:
        self.volume.wait(self.workspace, wake)

    def forget(self, wake: Wake) -> None:
        self.volume.forget(self.workspace, wake)

    def pass_on(self) -> None:
        self.volume.pass_on(self.workspace)
