"""The table of errors: complete, unique, and nothing in it that a status can't carry."""

import inspect
import re
from collections.abc import Mapping
from typing import Any

import pytest

from openmcp_chain.domain import errors
from openmcp_chain.domain.errors import TABLE, Error, Status, Violation
from openmcp_chain.domain.workspace import SECRETS

MESSAGE_LIMIT = 3_700
"""Characters. gRPC's header holds the message twice, and some 8 KB in all."""


AT_WORST: Mapping[str, Any] = {
    **dict.fromkeys(("task_id", "task_type", "workspace_id", "secret_id"), "é\n\0😀" * 100_000),
    **dict.fromkeys(("after", "last", "size", "limit"), 2**63),
    **dict.fromkeys(("field", "scope", "reason", "status"), "ours"),
    "secret_ids": ["0123abcd"] * SECRETS,
    "whose": "answers",
    "retry_after": 1e9,
    "violations": Violation("metadata", "must be text"),
}
"""What the arguments of errors can be: those that are a client's are as long and as strange as it likes."""


def example(kind: type[Error]) -> Error:
    return kind(*(AT_WORST[name] for name in inspect.signature(kind).parameters))


def test_every_error_of_the_module_is_in_the_table() -> None:
    """Under its own code, so that docs and tests that read the table miss none."""
    classes = {c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, Error) and c is not Error}
    assert set(TABLE.values()) == classes
    assert all(kind.code == code for code, kind in TABLE.items())


def test_a_code_cannot_be_claimed_twice() -> None:
    """Two failures that a client could not tell apart would be a mistake of ours."""
    with pytest.raises(TypeError, match="two classes claim TASK_NOT_FOUND"):
        type("Again", (Error,), {"code": "TASK_NOT_FOUND", "status": Status.NOT_FOUND, "when": "Never."})


@pytest.mark.parametrize("kind", TABLE.values(), ids=TABLE.keys())
def test_an_error_says_what_it_is(kind: type[Error]) -> None:
    """A code in capitals, a sentence for the docs, who sends it, and an HTTP status."""
    assert re.fullmatch(r"[A-Z]+(_[A-Z]+)*", kind.code)
    assert kind.when.endswith(".")
    assert kind.sent_by in ("server", "envoy", "both")
    assert 400 <= kind.http < 600


def test_whoever_is_told_to_come_again_is_told_when() -> None:
    """HTTP's 429 goes with `Retry-After`: what no wait helps against is no such refusal."""
    asked = [kind for kind in TABLE.values() if kind.http == 429]
    assert errors.RateLimited in asked
    assert all((example(kind).retry_after or 0) > 0 for kind in asked)


@pytest.mark.parametrize("kind", TABLE.values(), ids=TABLE.keys())
def test_a_message_fits_in_a_status(kind: type[Error]) -> None:
    """Whatever a client put into it: bounded, one line, printable."""
    error = example(kind)
    assert 0 < len(error.message.encode()) <= MESSAGE_LIMIT
    assert error.message.isprintable()
    assert str(error) == error.message
    assert all(violation.field and violation.description for violation in error.violations)


def test_the_docstring_draws_the_whole_tree() -> None:
    """Each class in the line of its own status."""
    lines = re.findall(r"[├└]── (\w+) +(.+)", errors.__doc__ or "")
    drawn = {(status, name) for status, names in lines for name in names.split(" · ")}
    assert drawn == {(kind.status.name, kind.__name__) for kind in TABLE.values()}


def test_a_task_that_is_not_there_is_named_as_in_the_specification() -> None:
    """`Task task-1f7f does not exist`, and the resource beside it."""
    error = errors.TaskNotFound("task-1f7f")
    assert error.message == "Task task-1f7f does not exist"
    assert error.resource == ("openmcp.chain.v1.Task", "task-1f7f")
