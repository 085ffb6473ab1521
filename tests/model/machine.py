"""Tasks, two servers and some workers, in every order of steps that hypothesis can think of.

A server decides on what it last saw of a task, which may be long past, by a clock of its own, and then writes; or it
dies before it writes, or after it has written and before it has answered. Who got no answer asks again. Workers report
under leases that they hold, held once, or never held. The model keeps the truth: what was written last, and all leases.
No choice hangs on it, only what a choice comes to: on a database it is open who wins a race.
"""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from model import laws
from model.deeds import DECIDE, REFUSALS, Deed
from model.laws import Verdict
from model.moves import MILLISECOND, MOVES, OFTEN, SIMPLEST, TERMS, Fate, Move, Upkeep
from model.shelf import SERVERS, Shelf
from support.samples import SECOND, make_task

from openmcp_chain.domain import transitions
from openmcp_chain.domain.queue import Waiting
from openmcp_chain.domain.task import Change, Failure, Key, Queue, Status, Task, Terms, View, seen
from openmcp_chain.domain.transitions import Action, Moment

BEGINNING = datetime(2100, 1, 1, tzinfo=UTC)
"""So late that no real clock has reached it: databases delete by their own."""
RETENTION = timedelta(seconds=60)
WORKSPACES, TYPES, PRIORITIES, NUMBERS = ("ws-1", "ws-2"), ("a", "b"), (1, 3), (0, 1, 2)
KEYS = [Key(workspace, str(uuid.UUID(int=number))) for workspace in WORKSPACES for number in NUMBERS]
"""Of all tasks that there ever are. Few, so that a key is used again, and tasks of two workspaces have the same id."""
Decided: TypeAlias = tuple[int, Deed, Change]
"""A change that a server has decided on, and by what."""


class Model(RuleBasedStateMachine):
    """`open_shelf` gives an empty place to keep tasks in."""

    open_shelf: Callable[[], Shelf]

    def __init__(self) -> None:
        super().__init__()
        self.shelf = type(self).open_shelf()
        self.now = BEGINNING
        self.skew = dict.fromkeys(SERVERS, timedelta())
        self.tasks: dict[Key, Task] = {}
        """The truth: each task as it was last written."""
        self.seen: dict[int, dict[Key, Task]] = {server: {} for server in SERVERS}
        """What each server last saw."""
        self.tokens: list[str] = []
        """All that were ever offered with a claim, whether it was made or not."""
        self.lost: set[str] = set()
        """Those of leases that have ended."""

    # --- what happens

    @initialize(skew=st.sampled_from([timedelta(), timedelta(), -MILLISECOND, 5 * SECOND, -5 * SECOND]), terms=TERMS)
    def begin(self, skew: timedelta, terms: Terms) -> None:
        """With one task. The second server's clock differs from the first's, which is right."""
        self.skew[1] = skew
        self.terms = terms
        self.submit(KEYS[0], TYPES[0], PRIORITIES[0], terms, None, 0, Fate.ANSWERS)

    @rule(
        key=st.sampled_from(KEYS),
        task_type=st.sampled_from(TYPES),
        priority=st.sampled_from(PRIORITIES),
        terms=TERMS,
        wait=st.sampled_from([None, None, -SECOND, MILLISECOND, 10 * SECOND]),
        server=st.sampled_from(SERVERS),
        fate=st.sampled_from(Fate),
    )
    def submit(
        self, key: Key, task_type: str, priority: int, terms: Terms, wait: timedelta | None, server: int, fate: Fate
    ) -> None:
        """Under a key that may be taken: then what is there stays as it is."""
        now = self.clock(server)
        task = make_task(
            workspace=key.workspace,
            task_id=key.id,
            task_type=task_type,
            priority=priority,
            terms=terms,
            schedule_time=None if wait is None else now + wait,
            now=now,
        )
        if wait == 10 * SECOND and priority != PRIORITIES[0]:
            task = transitions.stagger(task, SECOND)
        if fate is Fate.DIES:
            return
        stored = self.shelf.insert(server, task)
        there = self.tasks.setdefault(key, task)
        assert seen(stored, View.OUTLINE) == seen(there, View.OUTLINE)
        if fate is Fate.MUTE:
            again = self.shelf.insert(1 - server, task)
            assert seen(again, View.OUTLINE) == seen(there, View.OUTLINE)
        else:
            self.seen[server][key] = there

    @rule(moves=st.lists(MOVES, min_size=10, max_size=30))
    def act(self, moves: list[Move]) -> None:
        """One after the other."""
        for move in moves:
            self.begin_anew_if_all_is_over()
            self.attempt([(move, *self.chosen(move))])
            self.time_passes(move.then)

    @rule(moves=st.tuples(MOVES, MOVES))
    def race(self, moves: tuple[Move, Move]) -> None:
        """Two at once, on one task."""
        one, other = moves
        self.begin_anew_if_all_is_over()
        action, key = self.chosen(one)
        rival = replace(other, server=1 - one.server)
        self.attempt([(one, action, key), (rival, self.chosen(rival, key)[0], key)])

    @rule(
        moves=st.lists(MOVES, min_size=len(KEYS), max_size=len(KEYS)),
        rivals=st.lists(MOVES, min_size=len(KEYS), max_size=len(KEYS)),
        terms=TERMS,
    )
    def together(self, moves: list[Move], rivals: list[Move], terms: Terms) -> None:
        """Both servers at every task at once; then what is due by then is ended, and what is over deleted.

        On a database it costs little more than one move, so lives get long.
        """
        for key in KEYS:
            if key not in self.tasks:
                self.submit(key, TYPES[0], PRIORITIES[0], terms, None, moves[0].server, Fate.ANSWERS)
        tries = []
        for key, one, other in zip(KEYS, moves, rivals, strict=True):
            rival = replace(other, server=1 - one.server)
            tries += [(move, self.chosen(move, key)[0], key) for move in (one, rival)]
        self.attempt(tries)
        self.time_passes(moves[0].then if moves[0].aims else None)
        self.upkeep(Upkeep.SWEEP, moves[0])
        self.upkeep(Upkeep.DELETE, moves[1])

    @rule(kind=st.sampled_from(Upkeep), move=MOVES)
    def upkeep(self, kind: Upkeep, move: Move) -> None:
        """What a server does by itself, by its clock."""
        server, now = move.server, self.clock(move.server)
        match kind:
            case Upkeep.RESTART:
                self.seen[server] = {}
            case Upkeep.SWEEP:
                self.sweep(now, move)
            case Upkeep.DELETE:
                over = [key for key, task in self.tasks.items() if task.status.terminal and task.due_at <= now]
                assert self.shelf.delete_ended(server, now) == len(over)
                for key in over:
                    del self.tasks[key]
            case Upkeep.LOOK:
                self.look_for_work(
                    server, BEGINNING - timedelta(days=1) if move.delay is None else now - move.delay, now
                )

    def sweep(self, now: datetime, move: Move) -> None:
        """Ends all that the shelf says is overdue, in one batch."""
        overdue = self.shelf.overdue(move.server, now)
        late = {key for key, task in self.tasks.items() if (at := _overdue_at(task)) and at <= now}
        assert sorted(overdue) == sorted(late), f"found {sorted(overdue)}, late by what was written: {sorted(late)}"
        tries = []
        for key in overdue:
            action = Action.TIME_OUT if self.tasks[key].status is Status.PENDING else Action.EXPIRE
            tries.append((replace(move, looks=True), action, key))
        assert self.attempt(tries) == len(tries) or move.fate is Fate.DIES, "what is overdue could not be ended"

    def look_for_work(self, server: int, since: datetime, now: datetime) -> None:
        """Each queue has just those of its tasks that may run, by priority, those due first."""
        for queue in [Queue(workspace, task_type) for workspace in WORKSPACES for task_type in TYPES]:
            for priority in PRIORITIES:
                ready = self.shelf.ready(server, queue, priority, since, now)
                expected = [
                    Waiting(task.key, task.type, task.priority, task.submitted_at, task.due_at)
                    for task in self.tasks.values()
                    if (task.status, task.queue, task.priority) == (Status.PENDING, queue, priority)
                    and since <= task.due_at <= now
                ]
                assert [task.due_at for task in ready] == sorted(task.due_at for task in expected)
                assert sorted(ready, key=lambda task: task.key) == sorted(expected, key=lambda task: task.key)

    # --- how it happens

    def clock(self, server: int) -> datetime:
        return self.now + self.skew[server]

    def begin_anew_if_all_is_over(self) -> None:
        if not self.live():
            self.now += RETENTION + 10 * SECOND
            self.upkeep(Upkeep.DELETE, SIMPLEST)
            self.submit(KEYS[0], TYPES[0], PRIORITIES[0], self.terms, None, 0, Fate.ANSWERS)

    def live(self) -> list[Key]:
        """Of what something may become yet."""
        return sorted(key for key, task in self.tasks.items() if not (task.superseded or task.result is not None))

    def time_passes(self, span: timedelta | None) -> None:
        waiting = [task for task in self.tasks.values() if not task.status.terminal]
        times = [at for task in waiting for at in (task.due_at, task.deadline) if at and at > self.now]
        self.now = min(times, default=self.now) if span is None else self.now + span

    def chosen(self, move: Move, key: Key | None = None) -> tuple[Action, Key]:
        """What the move is to do, and to which task."""
        keys, actions = self.live() if move.aims and self.live() else sorted(self.tasks), list(DECIDE)
        key = key or keys[move.pick % len(keys)]
        if move.aims:
            deeds = [self.deed(move, action, key) for action in DECIDE]
            changing = [deed.action for deed in deeds if laws.verdict(deed, self.tasks[key]) is Verdict.CHANGES]
            actions = [action for action in changing for _ in range(OFTEN.get(action, 1))] or actions
        return actions[move.pick // len(keys) % len(actions)], key

    def deed(self, move: Move, action: Action, key: Key) -> Deed:
        """What the move comes to, as things are."""
        now = self.clock(move.server)
        lease = self.tasks[key].lease
        if action is Action.CLAIM:
            token = f"token-{len(self.tokens)}"
        elif lease is not None and (move.aims or move.pick % 2):
            token = lease.token
        else:
            token = self.tokens[move.pick % len(self.tokens)] if self.tokens else ""
        return Deed(
            action,
            Moment(now, RETENTION, move.jitter),
            token,
            "worker-1",
            now + move.lease,
            Failure(move.code, "it failed"),
            move.retryable,
            move.delay,
            move.progress,
            move.text,
            move.text.encode(),
            move.text,
        )

    def attempt(self, tries: Sequence[tuple[Move, Action, Key]]) -> int:
        """Decides each, writes all at once, and sees to those who got no answer; returns how many changes were made."""
        decided = []
        mute = []
        for server in SERVERS:
            here = [(move.looks, key) for move, _, key in tries if move.server == server]
            self.look(server, *(key for looks, key in here if looks or key not in self.seen[server]))
        for move, action, key in tries:
            server = move.server
            deed = self.deed(move, action, key)
            if action is Action.CLAIM:
                self.tokens.append(deed.token)
            before = self.seen[server][key]
            after = self.decide(deed, before)
            note(
                f"{deed.now:%T.%f} server {server}: {action.value} {key.workspace} {key.id[-1]}, "
                f"{before.status} → {'the same' if after is before else after.status}"
            )
            if after is not before and move.fate is not Fate.DIES:
                decided.append((server, deed, Change(before, after)))
                if move.fate is Fate.MUTE:
                    mute.append(decided[-1])
        made = self.write(decided)
        for server, deed, change in mute:
            self.ask_again(server, deed, change)
        return made

    def look(self, server: int, *keys: Key) -> None:
        found = self.shelf.get(server, keys) if keys else {}
        assert set(found) == set(keys)
        self.seen[server].update(found)

    def decide(self, deed: Deed, task: Task) -> Task:
        """What the task is to become; the same one if the deed is refused, or there is nothing left to do."""
        expected = laws.verdict(deed, task)
        try:
            after = DECIDE[deed.action](task, deed)
        except REFUSALS[deed.action]:
            assert expected is Verdict.REFUSED, f"{deed.action} was refused"
            return task
        assert expected is (Verdict.IDLE if after is task else Verdict.CHANGES)
        return after

    def write(self, decided: Sequence[Decided]) -> int:
        """Makes the changes at once; checks who won, and what the winner made of the task."""
        answers = self.shelf.update([(server, change) for server, _, change in decided])
        winners = [one for one, made in zip(decided, answers, strict=True) if made]
        for key in {change.before.key for _, _, change in decided}:
            truth = self.tasks.get(key)
            rivals = [change for _, _, change in decided if change.before.key == key]
            won = [(deed, change) for _, deed, change in winners if change.before.key == key]
            # What was stored already, word for word, has been made too: another has written the same before.
            new = [(deed, change) for deed, change in won if change.after != truth]
            assert all(change.after == new[0][1].after for _, change in new), "two writes were made on one version"
            if truth is None or all(change.before != truth for change in rivals):
                assert not new, "a write was made that was decided on the past"
            else:
                assert new, "nobody won, though somebody decided on the task as it is"
                self.written(*new[0])
        for server, _, change in winners:
            self.seen[server][change.after.key] = change.after
        return len(winners)

    def written(self, deed: Deed, change: Change) -> None:
        """One change has been made: it is legal, and a lease that has ended does not come back."""
        before, after = change.before, change.after
        laws.step(deed, before, after)
        laws.whole(after)
        laws.history(after)
        self.tasks[after.key] = after
        held = before.lease.token if before.status is Status.RUNNING and before.lease else None
        holds = after.lease.token if after.status is Status.RUNNING and after.lease else None
        assert holds not in self.lost
        if held is not None and held != holds:
            assert deed.action is not Action.CLAIM, "a lease was taken from its holder"
            self.lost.add(held)

    def ask_again(self, server: int, deed: Deed, change: Change) -> None:
        """The one who got no answer repeats the write, and then, to the other server, the whole request."""
        key = change.before.key
        truth = self.tasks.get(key)
        (made,) = self.shelf.update([(server, change)])
        assert made is (truth == change.after)
        if truth is None:
            return
        self.look(1 - server, key)
        again = self.decide(deed, truth)
        if truth == change.after and again is not truth:
            assert deed.action is Action.NOTE, "the same request took effect twice"
            assert deed.line
        if again is not truth:
            self.write([(1 - server, deed, Change(truth, again))])

    # --- what always holds

    @invariant()
    def what_is_stored_is_what_was_written_last(self) -> None:
        for server in SERVERS:
            assert self.shelf.get(server, KEYS) == self.tasks

    @invariant()
    def no_lease_is_held_twice(self) -> None:
        held = [task.lease.token for task in self.tasks.values() if task.status is Status.RUNNING and task.lease]
        assert len(held) == len(set(held))
        assert not self.lost.intersection(held)


def _overdue_at(task: Task) -> datetime | None:
    """When the sweep must end something of it."""
    return task.due_at if task.status is Status.RUNNING else task.deadline
