"""One task and two actors, in every order of steps that hypothesis can think of.

Each actor decides on what it last saw of the task, which may be long past, and then writes, as two server processes do.
The machine keeps the whole history, and checks each write that was made against the table of transitions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.samples import NOW, RETENTION, SECOND, make_task

from openmcp_chain.domain import errors, transitions
from openmcp_chain.domain.task import Change, Failure, Lease, Status, Task
from openmcp_chain.domain.transitions import TABLE, Action

ACTORS = ("one", "two")


@dataclass(frozen=True, slots=True)
class Move:
    """What an actor tries, with the luck and the choices that go with it."""

    action: Action
    looks_first: bool
    skew: timedelta
    """How far the actor's clock is ahead."""
    jitter: float
    retryable: bool
    seconds: int


MOVES = st.builds(
    Move,
    st.sampled_from([action for action in Action if action is not Action.SUBMIT]),
    st.booleans(),
    st.integers(-5000, 5000).map(lambda milliseconds: timedelta(milliseconds=milliseconds)),
    st.floats(min_value=0, max_value=1, exclude_max=True),
    st.booleans(),
    st.integers(1, 60),
)
ACTOR = st.sampled_from(ACTORS)


@dataclass(frozen=True, slots=True)
class Step:
    """A change that was made."""

    action: Action
    before: Task
    after: Task


class Life(RuleBasedStateMachine):
    """The domain alone: what is stored is the last task of the history."""

    def __init__(self) -> None:
        super().__init__()
        self.now: datetime = NOW
        self.steps: list[Step] = []
        self.seen: dict[str, Task] = {}
        self.tokens = dict.fromkeys(ACTORS, "")
        """The lease that each actor took last, and may have lost."""
        self.leases = 0

    # --- how it is stored

    def insert(self, task: Task) -> None:
        self._stored = task

    def write(self, changes: Sequence[Change]) -> Sequence[bool]:
        """Makes the changes, at once if there are several; returns which were made."""
        made = []
        for change in changes:
            won = self._stored.version == change.before.version
            if won:
                self._stored = change.after
            made.append(won or self._stored == change.after)
        return made

    def read(self) -> Task:
        return self._stored

    # --- what happens

    @initialize(max_attempts=st.integers(1, 4))
    def submit(self, max_attempts: int) -> None:
        self.first = make_task(max_attempts=max_attempts, now=self.now)
        self.steps = []
        self.insert(self.first)
        self.seen = dict.fromkeys(ACTORS, self.first)

    @rule(seconds=st.integers(1, 90))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds * SECOND

    @precondition(lambda self: self.task.status.terminal)
    @rule(max_attempts=st.integers(1, 4))
    def begin_anew(self, max_attempts: int) -> None:
        """With another task, late reports on the first one forgotten, so that steps aren't wasted on what is over."""
        self.submit(max_attempts)

    @rule(actor=ACTOR)
    def look(self, actor: str) -> None:
        self.seen[actor] = self.read()

    @rule(actor=ACTOR)
    def crash(self, actor: str) -> None:
        """It forgets its lease, and what it saw."""
        self.tokens[actor] = ""
        self.seen[actor] = self.read()

    @rule(actor=ACTOR, move=MOVES)
    def act(self, actor: str, move: Move) -> None:
        self.attempt([(actor, move)])

    @rule(moves=st.tuples(MOVES, MOVES))
    def race(self, moves: tuple[Move, Move]) -> None:
        """Both at once."""
        self.attempt(list(zip(ACTORS, moves, strict=True)))

    def attempt(self, tries: list[tuple[str, Move]]) -> None:
        current = self.task
        for actor, move in tries:
            if move.looks_first:
                self.look(actor)
        decided = [
            (actor, Step(move.action, before, after))
            for actor, move in tries
            if (after := self.decide(actor, move)) is not (before := self.seen[actor])
        ]
        made = self.write([Change(step.before, step.after) for _, step in decided])
        winners = [(actor, step) for (actor, step), won in zip(decided, made, strict=True) if won]
        ends = [step.after for _, step in winners]
        assert all(end == ends[0] for end in ends), "two different writes were made on one version"
        if any(step.before == current for _, step in decided):
            assert ends, "nobody won, though somebody decided on the task as it was"
        else:
            assert all(end == current for end in ends), "a write was made that was decided on the past"
        for actor, step in winners:
            self.seen[actor] = step.after
            if step.action is Action.CLAIM and step.after.lease:
                self.tokens[actor] = step.after.lease.token
        if winners and ends[0] != current:
            self.steps.append(winners[0][1])

    def decide(self, actor: str, move: Move) -> Task:
        """What the actor would make of the task that it saw: that very one if it may not, or need not, change it."""
        task, token, now = self.seen[actor], self.tokens[actor], self.now + move.skew
        try:
            match move.action:
                case Action.CLAIM:
                    self.leases += 1
                    lease = Lease(f"{actor}-{self.leases}", actor, now + move.seconds * SECOND)
                    return transitions.claim(task, lease, now)
                case Action.EXTEND:
                    return transitions.extend(task, token, now + move.seconds * SECOND)
                case Action.COMPLETE:
                    return transitions.complete(task, token, b"result", now, RETENTION)
                case Action.FAIL:
                    failure = Failure("FAILED", "it failed")
                    return transitions.fail(
                        task,
                        token,
                        failure,
                        retryable=move.retryable,
                        now=now,
                        retention=RETENTION,
                        jitter=move.jitter,
                    )
                case _:
                    return transitions.expire(task, now=now, retention=RETENTION, jitter=move.jitter)
        except errors.LeaseLost:
            return task

    # --- what always holds

    @property
    def task(self) -> Task:
        return self.steps[-1].after if self.steps else self.first

    @invariant()
    def what_is_stored_is_what_was_written_last(self) -> None:
        assert self.read() == self.task

    @invariant()
    def the_last_step_is_legal(self) -> None:
        if self.steps:
            step = self.steps[-1]
            needs, leads_to = TABLE[step.action]
            assert step.before.status is needs
            assert step.after.status in leads_to
            assert step.after.version == step.before.version + 1
            assert step.after.events[: len(step.before.events)] == step.before.events
            new = step.after.events[len(step.before.events) :]
            assert [event.status for event in new] == ([] if step.action is Action.EXTEND else [step.after.status])

    @invariant()
    def history_is_whole(self) -> None:
        events = self.task.events
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert all(one.at <= next_one.at for one, next_one in pairwise(events))
        assert all(not event.status.terminal for event in events[:-1])
        assert events[-1].status is self.task.status
        assert events[-1].at == self.task.updated_at

    @invariant()
    def state_agrees_with_itself(self) -> None:
        task = self.task
        assert task.attempt == sum(event.status is Status.RUNNING for event in task.events) <= task.max_attempts
        assert (task.due_at is None) == (task.expire_at is not None) == task.status.terminal
        assert (task.result is not None) == (task.status is Status.SUCCEEDED)
        assert (task.failure is not None) == (task.status is Status.FAILED)
        if task.status is Status.RUNNING:
            assert task.lease
            assert task.due_at == task.lease.expires_at
        assert (task.lease is None) == (task.status is Status.PENDING)
