"""The leases that are known here, and what is known of their tasks: bounded, whatever tenants run, and for how long.

What a report needs of its task is all but the payload. Where that is little it is kept. Where it is not, and of what
was heard of longest ago once it is too much together, only the state is kept: by that a silence is noticed, and the
task is read again to be changed. A heartbeat of which nothing is written does without.

A lease that no session holds may be forgotten altogether: whoever reports on it has its task read again, and if nobody
does, the sweep ends it when the stored lease runs out.

What a worker that comes back says that it holds is a claim as long as it is not known here: a name, of which nothing is
told to it and which takes nothing from anybody, but the place that the worker says it takes. Its first report shows
what it is.
"""

import math
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from openmcp_chain.domain import sizes
from openmcp_chain.domain.task import Key, Task
from openmcp_chain.engine.sessions import Session

KEPT_BYTES = 16 * 1024
"""Of a task with more than this, in all but its payload, only the state is kept."""
ALL_KEPT_BYTES = 32 * 1024 * 1024
"""What is kept besides states."""
LEFT = 50_000
"""How many leases are known that no session holds."""


@dataclass(slots=True, eq=False)
class Held:
    """A lease that was granted, or is reported on, here."""

    key: Key
    token: str
    session: Session | None
    """Whose credit it takes; None if it came by a call."""
    heard_at: float
    """When its worker was last heard of, by the loop's clock."""
    task: Task
    """The newest state known."""
    alone: bool = False
    """Whether its worker was heard of here, and by no other process since, as far as is known. (If it has a stream
    here, it can't have been: it says so when it comes back.)"""
    bytes: int = 0
    """What is kept of the task; 0 if it is no more than the state: no metadata, no labels, no events."""
    spare: float = math.inf
    """How many heartbeats it has that are not counted against its workspace's rate, at `spare_at`; see `pace`."""
    spare_at: float = 0.0
    unsent: bool = False
    """Whether the task still waits to be sent to the worker: until then, the lease's end makes no room for others."""


class Claim(NamedTuple):
    """Names a lease, and the workspace or operator that says it holds it: to others, theirs is another one."""

    bearer: str
    token: str


class HeldLeases:
    """The leases, by the tasks' keys and by the sessions that hold them."""

    def __init__(self, room: Callable[[Session, Held], None]) -> None:
        """`room` is called when a session's lease is let go, unless its task is unsent."""
        self._room = room
        self._all: defaultdict[Key, dict[str, Held]] = defaultdict(dict)
        """By their tokens: but for the newest, a task's leases have ended, and not all of that was heard."""
        self._of_session: defaultdict[Session, dict[Held, None]] = defaultdict(dict)
        self._left: OrderedDict[Held, None] = OrderedDict()
        """Those that no session holds; the one that has been so for longest first."""
        self._whole: OrderedDict[Held, None] = OrderedDict()
        """Those with more than the state; the one whose task changed longest ago first."""
        self._bytes = 0
        self._claims: dict[Claim, Session] = {}
        self._of_claimant: defaultdict[Session, dict[Claim, Key]] = defaultdict(dict)

    def __contains__(self, key: Key) -> bool:
        return key in self._all

    def __len__(self) -> int:
        return sum(map(len, self._all.values()))

    def __bool__(self) -> bool:
        return bool(self._all)

    def __iter__(self) -> Iterator[Held]:
        for all_held in self._all.values():
            yield from all_held.values()

    def of(self, key: Key) -> list[Held]:
        """The leases that are known on a task."""
        return list(self._all.get(key, {}).values())

    def find(self, key: Key, token: str) -> Held | None:
        """The lease; None if it is not known."""
        return self._all.get(key, {}).get(token)

    def of_session(self, session: Session) -> list[Held]:
        """The leases that a session holds."""
        return list(self._of_session.get(session, ()))

    def add(self, held: Held) -> None:
        """Takes the lease in."""
        self._all[held.key][held.token] = held
        self.learn(held, held.task)
        self._attach(held, held.session)

    def give(self, held: Held, session: Session | None) -> None:
        """The session holds it from now on; with None, no session does."""
        self._detach(held)
        self._attach(held, session)

    def leave(self, session: Session) -> None:
        """The session has ended: no session holds what it held, and its claims are gone."""
        for held in self.of_session(session):
            self.give(held, None)
        for claim in self._of_claimant.pop(session, ()):
            del self._claims[claim]

    def claim(self, claim: Claim, key: Key, session: Session) -> None:
        """The session says that it holds a lease that is not known to be its bearer's. The last to say so counts."""
        self.settle(claim)
        self._claims[claim] = session
        self._of_claimant[session][claim] = key

    def claims_of(self, session: Session) -> list[tuple[Key, str]]:
        """What the session says that it holds, as long as it is not known: the tasks' keys and the leases' tokens."""
        return [(key, claim.token) for claim, key in self._of_claimant.get(session, {}).items()]

    def claimant(self, claim: Claim) -> Session | None:
        """Whose claim it is."""
        return self._claims.get(claim)

    def settle(self, claim: Claim) -> Session | None:
        """It is known what the lease is, or another session has it: the claim is over. Returns whose it was."""
        session = self._claims.pop(claim, None)
        if session is not None:
            mine = self._of_claimant[session]
            mine.pop(claim, None)
            if not mine:
                del self._of_claimant[session]
        return session

    def learn(self, held: Held, task: Task) -> None:
        """Keeps the newest state of the task, and what else there is room for."""
        self._drop(held)
        held.task = kept(task)
        if not held.task.events:
            return
        held.bytes = _size(held.task)
        self._whole[held] = None
        self._bytes += held.bytes
        while self._bytes > ALL_KEPT_BYTES:
            oldest = next(iter(self._whole))
            self._drop(oldest)
            oldest.task = _state(oldest.task)

    def keep(self, key: Key, wanted: Callable[[Held], bool]) -> None:
        """Lets go of a task's other leases; each gives its credit back."""
        kept, gone = list[Held](), list[Held]()
        for held in self.of(key):
            (kept if wanted(held) else gone).append(held)
        if kept:
            self._all[key] = {held.token: held for held in kept}
        else:
            self._all.pop(key, None)
        for held in gone:
            self._drop(held)
            self._detach(held)
            if held.session is not None and not held.unsent:
                self._room(held.session, held)

    def _drop(self, held: Held) -> None:
        """Counts what is kept of its task no more."""
        self._whole.pop(held, None)
        self._bytes -= held.bytes
        held.bytes = 0

    def _attach(self, held: Held, session: Session | None) -> None:
        held.session = session
        if session is not None:
            self._of_session[session][held] = None
            return
        self._left[held] = None
        if len(self._left) > LEFT:
            first = next(iter(self._left))
            self.keep(first.key, lambda held: held is not first)

    def _detach(self, held: Held) -> None:
        self._left.pop(held, None)
        if held.session is not None:
            mine = self._of_session[held.session]
            mine.pop(held, None)
            if not mine:
                del self._of_session[held.session]


def kept(task: Task) -> Task:
    """What is kept of the task: all but its payload, or only its state where there is more to it, or not all known."""
    if not task.events or _size(task) > KEPT_BYTES:
        return _state(task)
    return replace(task, payload=b"") if task.payload else task


def _size(task: Task) -> int:
    return sizes.of_entries(task) + sizes.of_events(task.events)


def _state(task: Task) -> Task:
    return replace(task, payload=b"", metadata={}, labels={}, events=())
