"""What can be registered as a task function."""

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from openmcp_chain.worker import Context, Worker, functions
from openmcp_chain.worker.threads import Threads


class Plain:
    """A callable that keeps what it got."""

    def __init__(self) -> None:
        self.got: list[tuple[object, ...]] = []

    def __call__(self, payload: dict[str, Any], context: Context) -> None:
        self.got.append((payload, context))


class Asynchronous(Plain):
    async def __call__(self, payload: dict[str, Any], context: Context) -> None:  # type: ignore[override]
        super().__call__(payload, context)


def _scaled(factor: int, payload: dict[str, Any]) -> dict[str, Any]:
    return {"n": payload["n"] * factor}


@pytest.mark.parametrize("kind", [Plain, Asynchronous])
async def test_callable_objects_are_functions(kind: type[Plain]) -> None:
    """An object with `__call__`, `async` or not, is called with payload and context."""
    target, context = kind(), Context()
    function = functions.inspected(target)
    assert function.asynchronous == (kind is Asynchronous)
    await function.run(function.read({"n": 1}), context, Threads(1))
    assert target.got == [({"n": 1}, context)]


async def test_partial_functions_and_lambdas_are_functions() -> None:
    """A partial function takes what is left open; a function without annotations gets a mapping."""
    threads = Threads(1)
    partial: Callable[..., Any] = functools.partial(_scaled, 3)
    assert await functions.inspected(partial).run({"n": 2}, Context(), threads) == {"n": 6}
    assert await functions.inspected(lambda payload: payload).run({"n": 2}, Context(), threads) == {"n": 2}


def _nothing() -> None: ...
def _three(_a: object, _b: object, _c: object) -> None: ...
def _named(*, payload: object) -> None: ...
def _number(_payload: int) -> None: ...


def _generator(_payload: object) -> Iterator[int]:
    yield 1


async def _async_generator(_payload: object) -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize("function", [_nothing, _three, _named, _number, _generator, _async_generator])
def test_what_can_be_no_task_function_is_refused(function: Callable[..., Any]) -> None:
    """A wrong signature, payload type or kind is refused, by name, when the function is registered."""
    worker = Worker("127.0.0.1:1", workspace_id="x", workspace_secret="x")
    with pytest.raises(TypeError, match=function.__name__):
        worker.task("echo")(function)


@pytest.mark.parametrize("task_type", ["", "9lives", "a b", "ä", "a" * 129])
def test_what_is_no_type_is_refused(task_type: str) -> None:
    """A task type is what the contract allows."""
    worker = Worker("127.0.0.1:1", workspace_id="x", workspace_secret="x")
    with pytest.raises(ValueError, match="a task type is"):
        worker.task(task_type)


async def test_a_type_has_one_function() -> None:
    """A second function for a type is refused, as is a worker with none."""
    worker = Worker("127.0.0.1:1", workspace_id="x", workspace_secret="x")
    with pytest.raises(ValueError, match="no function is registered"):
        await worker.serve()
    worker.task("a.B-c_1")(lambda payload: payload)
    with pytest.raises(ValueError, match="has a function already"):
        worker.task("a.B-c_1")


def test_a_registered_function_stays_what_it_is() -> None:
    """The decorator returns the function, so that it can be called and tested like any other."""
    worker = Worker("127.0.0.1:1", workspace_id="x", workspace_secret="x")
    assert worker.task("scaled")(_nothing_to_see) is _nothing_to_see


def _nothing_to_see(payload: object, context: Context) -> None: ...
