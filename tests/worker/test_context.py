"""The context by itself, as a test of a task function would use it."""

import asyncio

import pytest

from openmcp_chain.worker import Cancelled, Context


def test_a_context_is_easily_made() -> None:
    """Without a worker, what is said goes nowhere and nothing is cancelled."""
    context = Context(task_id="t", attempt=2)
    context.progress(0.5, "half")
    context.log("line")
    context.check()
    assert (context.task_id, context.attempt, context.cancelled) == ("t", 2, False)


def test_a_cancelled_context_says_so() -> None:
    """Once cancelled, `check` and `progress` raise Cancelled with the reason; `log` still works, for cleaning up."""
    context = Context()
    context.cancel("no longer wanted")
    assert context.cancelled
    for say in (context.check, lambda: context.progress(1.0)):
        with pytest.raises(Cancelled, match="no longer wanted"):
            say()
    context.log("cleaned up")


def test_cancelled_is_no_exception() -> None:
    """`except Exception` lets it pass; `except asyncio.CancelledError` catches it, as in every async program."""
    assert not issubclass(Cancelled, Exception)
    assert issubclass(Cancelled, asyncio.CancelledError)
