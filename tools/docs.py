"""Writes the pages of docs/ that follow from code; with `--check`, says which of them are out of date."""

import sys
from pathlib import Path

from openmcp_chain.domain import errors, retry, transitions
from openmcp_chain.domain.task import Status

DOCS = Path(__file__).parent.parent / "docs"

ERRORS = """\
# Errors

Every failed call carries a code. By gRPC it is in `status.details`, as `openmcp.chain.v1.Error{code, message}` and as
the `reason` of a `google.rpc.ErrorInfo` of the domain `openmcp.chain`; `BadRequest` names fields, `RetryInfo` says when
to try again. REST shows the same as

```json
{"error": {"code": "TASK_NOT_FOUND", "message": "Task task-1f7f does not exist", "details": []}}
```

Branch on the code. The message is for people and may change. Made from `server/openmcp_chain/domain/errors.py` by
`make generate`.

| code | gRPC status | HTTP | sent by | when |
| --- | --- | --- | --- | --- |
"""

LIFECYCLE = """\
# How a task lives

```mermaid
stateDiagram-v2
"""

STATES = """\
```

Made from the table in `server/openmcp_chain/domain/transitions.py` by `make generate`. Each arrow is one guarded
write of one document, which changes the state and appends the event.

| status | who moves a task out of it | what a crash does |
| --- | --- | --- |
| `PENDING` | a worker's claim | nothing: the task is in the database, and found again when a worker asks |
| `RUNNING` | the worker's report under its lease; the lease's end | the lease runs out, and the task is tried again |
| `SUCCEEDED` | nobody; retention deletes it | nothing |
| `FAILED` | nobody; retention deletes it | nothing |

"""


def errors_page() -> str:
    """The table of every code."""
    rows = sorted(errors.TABLE.values(), key=lambda error: (error.http, error.code))
    lines = [f"| `{e.code}` | {e.status.name} | {e.http} | {e.sent_by} | {e.when} |" for e in rows]
    return ERRORS + "\n".join(lines) + "\n"


def lifecycle_page() -> str:
    """The states, and what moves a task between them."""
    arrows = []
    for action, (before, afters) in transitions.TABLE.items():
        start = before.value if before else "[*]"
        arrows += [f"    {start} --> {after.value}: {action.value}" for after in sorted(afters)]
    arrows += [f"    {status.value} --> [*]" for status in Status if status.terminal]
    attempts = (
        f"A failed attempt is tried again after {retry.INITIAL_INTERVAL.total_seconds():g} s, then "
        f"{retry.BACKOFF_COEFFICIENT:g} times that, and so on up to {retry.MAXIMUM_INTERVAL.total_seconds():g} s, each "
        f"multiplied by a random number below 1 (full jitter); {retry.MAXIMUM_ATTEMPTS} attempts in all. A worker that "
        "says that its failure is not retryable ends the task at once.\n"
    )
    return LIFECYCLE + "\n".join(arrows) + "\n" + STATES + attempts


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
