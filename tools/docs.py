"""Writes the pages of docs/ that follow from code; with `--check`, says which of them are out of date."""

import sys
from collections import defaultdict
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TypeAlias

from openmcp_chain.domain import errors, retry, transitions
from openmcp_chain.domain.task import Failure, Status
from openmcp_chain.domain.transitions import Action
from openmcp_chain.engine.dispatch import PAUSED
from openmcp_chain.engine.leases import WORKER_GONE
from openmcp_chain.engine.leasing import CALL_FAILED, CALL_REPEATED

DOCS = Path(__file__).parent.parent / "docs"

ERRORS = """\
# Errors

Every call that this service fails carries a code. By gRPC it is in `status.details`, as
`openmcp.chain.v1.Error{code, message}` and as the `reason` of a `google.rpc.ErrorInfo` of the domain `openmcp.chain`;
`BadRequest` names fields, `RetryInfo` says when to try again. REST shows the same as

```json
{"error": {"code": "TASK_NOT_FOUND", "message": "Task task-1f7f does not exist", "details": []}}
```

What never gets as far as our code has only what HTTP/2 and gRPC themselves say. That is, through Envoy: by HTTP/2,
headers of more than 256 KiB or 5,000 of them, whose stream is reset, and one header of more than 64 KiB, which ends its
connection. At a server's own port: messages of more than 4 MiB and 64 KiB, metadata of more than 64 KiB
(`RESOURCE_EXHAUSTED`), a `grpc-timeout` or `grpc-encoding` that is none, a message that is not compressed as it says
(`INTERNAL`), and whatever breaks HTTP/2. The Python client makes errors of the same kind of them, with the status as
their code.

Branch on the code. The message is for people and may change. Made from `server/openmcp_chain/domain/errors/` by
`make generate`.

| code | gRPC status | HTTP | sent by | when |
| --- | --- | --- | --- | --- |
"""

LIFECYCLE = """\
# How a task lives

```mermaid
stateDiagram-v2
{arrows}
```

Made from the table in `server/openmcp_chain/domain/transitions.py` by `make generate`. Each step is one guarded write
of one document, which changes the state and appends the event; so the two never disagree, and of two steps at the same
time one wins and the other is decided anew.

| status | who moves a task out of it | what a crash does |
| --- | --- | --- |
{statuses}

## Steps

A step from a status that is not listed is refused, or there is nothing left to do.

| step | by whom | from → to | what its event says |
| --- | --- | --- | --- |
{steps}

An event has the status after the step, and a number: 1, 2, 3, … without gaps. Of progress and lines a task keeps
{notes}; then progress is still seen in the task itself, and a line is refused. A task with {events:,} events can't be
tried again by hand, and an attempt that does not reach its worker counts from then on.

## Attempts

Unless `retry_policy` says otherwise, a failed attempt is tried again after {initial:g} s, then {coefficient:g} times
that, and so on up to {maximum:g} s, each multiplied by a random number below 1 (full jitter); {attempts} attempts in
all. A worker may say when to try again, or that its failure is not retryable. An attempt that could begin only after
`schedule_to_close_timeout` is not waited for. A retry by hand grants all attempts, and all times, anew.

A worker reports under its lease's token. Once the lease has ended, a report is refused with `LEASE_LOST`. Only the
report that ended it is answered as it was the first time, so that it can be sent again when its answer was lost: a
failure after which the task is tried again until the next attempt begins, others for as long as the task is kept.

## Failures that the server reports

A worker's failure has the worker's own code, which may be one of these. They are the server's.

| code | when | tried again |
| --- | --- | --- |
{failures}
"""

STATUSES = {
    Status.PENDING: (
        "a worker's claim, from its time on; a cancellation; the end of the time that it may wait",
        "nothing: the task is in the database, and found again when a worker asks",
    ),
    Status.RUNNING: (
        "the worker's report under its lease; the lease's end",
        "the worker's: the lease runs out, and the task is tried again; a server's: the worker reports to another one",
    ),
    Status.SUCCEEDED: ("nobody; retention deletes it", "nothing"),
    Status.FAILED: ("a retry by hand, else retention deletes it", "nothing"),
    Status.CANCELLED: ("a retry by hand, else retention deletes it", "nothing"),
}
"""For each status: who moves a task out of it, and what a crash does."""

STEPS = {
    Action.SUBMIT: ("`SubmitTask`, `BatchSubmitTasks`", "`scheduled` and `ready_in_ms`, if it is for later"),
    Action.CLAIM: ("a server, for a worker with room", "`attempt`, `worker`, `worker_version`"),
    Action.EXTEND: ("the worker's heartbeat", "no event"),
    Action.NOTE: ("the worker", "`attempt`; `progress` and `message`, or `log`"),
    Action.COMPLETE: ("the worker", "`attempt`"),
    Action.FAIL: ("the worker", "`attempt`, `code`, `message`; `retry_in_ms`, if it is tried again"),
    Action.STOP: ("the worker, once it was asked to stop", "`attempt`, `reason`"),
    Action.RELEASE: (
        "a server that could not hand the task over",
        "`attempt`, `code`, `message`; the attempt does not count",
    ),
    Action.EXPIRE: ("a server, at the lease's end", "as for a failure"),
    Action.TIME_OUT: ("a server", "`code`, `message`"),
    Action.CANCEL: ("`CancelTask`", "`reason`; while it runs, `attempt` and `cancel_requested`"),
    Action.RETRY: ("`RetryTask`, `BatchRetryTasks`", "`retried`"),
    Action.SUPERSEDE: (
        "the submit of the next task with its `dedupe_key`",
        "no event; it can't be tried again from then on",
    ),
}
"""For each action: who does it, and what its event says."""

FAILURES = (
    (transitions.LEASE_EXPIRED, "yes"),
    (transitions.START_TO_CLOSE, "yes"),
    (transitions.SCHEDULE_TO_START, "no"),
    (transitions.SCHEDULE_TO_CLOSE, "no"),
    (Failure("RESULT_INVALID", "the worker's result breaks a payload's rules; the message says which"), "no"),
    (Failure("CANCELLED", "the workspace cancelled the task; the message is its reason"), "no"),
    (WORKER_GONE, "yes, and the attempt does not count"),
    (PAUSED, "yes, and the attempt does not count"),
    (CALL_FAILED, "yes, and the attempt does not count"),
    (CALL_REPEATED, "yes, and the attempt does not count"),
)
"""What the server itself fails a task for, and whether it is tried again."""


def errors_page() -> str:
    """The table of every code."""
    rows = sorted(errors.TABLE.values(), key=lambda error: (error.http, error.code))
    return ERRORS + _rows((f"`{e.code}`", e.status.name, str(e.http), e.sent_by, e.when) for e in rows) + "\n"


def lifecycle_page() -> str:
    """The states, and what moves a task between them."""
    drawn = defaultdict(list)
    for action, steps in transitions.TABLE.items():
        for before, after in _ordered(steps):
            if before is not after:
                drawn[before, after].append(action.value)
    arrows = [f"    {before or '[*]'} --> {after}: {', '.join(names)}" for (before, after), names in drawn.items()]
    arrows += [f"    {status} --> [*]" for status in Status if status.terminal]
    return LIFECYCLE.format(
        arrows="\n".join(arrows),
        statuses=_rows((f"`{status}`", *STATUSES[status]) for status in Status),
        steps=_rows((f"`{a.value}`", STEPS[a][0], _told(steps), STEPS[a][1]) for a, steps in transitions.TABLE.items()),
        failures=_rows((f"`{failure.code}`", failure.message, again) for failure, again in FAILURES),
        notes=transitions.NOTES,
        events=transitions.EVENTS,
        initial=retry.DEFAULT.initial_interval.total_seconds(),
        coefficient=retry.DEFAULT.backoff_coefficient,
        maximum=retry.DEFAULT.maximum_interval.total_seconds(),
        attempts=retry.DEFAULT.maximum_attempts,
    )


Steps: TypeAlias = AbstractSet[tuple[Status | None, Status]]


def _ordered(steps: Steps) -> list[tuple[Status | None, Status]]:
    order = [None, *Status]
    return sorted(steps, key=lambda step: (order.index(step[0]), order.index(step[1])))


def _told(steps: Steps) -> str:
    """Such as `RUNNING → PENDING, FAILED`."""
    ends = defaultdict(list)
    for before, after in _ordered(steps):
        ends[before].append("itself" if before is after else after.value)
    return "; ".join(f"{before or '–'} → {', '.join(afters)}" for before, afters in ends.items())


def _rows(rows: Iterable[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


PAGES = {"errors.md": errors_page, "lifecycle.md": lifecycle_page}


def main(*, check: bool) -> int:
    """Writes the pages, or with `check` only compares; returns the exit status."""
    stale = [name for name, page in PAGES.items() if not (DOCS / name).exists() or (DOCS / name).read_text() != page()]
    if check and stale:
        print(f"out of date (run `make generate`): {', '.join(stale)}")
        return 1
    if not check:
        for name in stale:
            (DOCS / name).write_text(PAGES[name]())
    return 0


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
