"""A registered task function: what it takes is looked at once, when it is registered."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from openmcp_chain.worker import payloads
from openmcp_chain.worker.payloads import Reader
from openmcp_chain.worker.task import Context
from openmcp_chain.worker.threads import Threads


@dataclass(frozen=True, slots=True)
class Function:
    """Runs a user's function."""

    call: Callable[..., Any]
    read: Reader
    """Makes of the plain payload what the function takes."""
    takes_context: bool
    asynchronous: bool
    """Whether it is a coroutine function: those are interrupted by asyncio, plain ones only by `Context.check`."""

    async def run(self, payload: object, context: Context, threads: Threads) -> object:
        """Calls it, a plain function in a thread; returns what it returned."""
        arguments = (payload, context) if self.takes_context else (payload,)
        if self.asynchronous:
            return await self.call(*arguments)

        def call() -> object:
            context.check()  # it may have waited for a thread
            return self.call(*arguments)

        return await threads.run(call)


def inspected(call: Callable[..., Any]) -> Function:
    """The function, ready to run. Raises TypeError if it can't be a task function."""
    body = call if inspect.isroutine(call) else getattr(call, "func", type(call).__call__)
    if inspect.isgeneratorfunction(body) or inspect.isasyncgenfunction(body):
        raise TypeError(f"{_name(call)} is a generator; a task function returns its result")
    signature = inspect.signature(call, eval_str=True)
    parameters = list(signature.parameters.values())
    if not 1 <= len(parameters) <= 2 or any(p.kind not in _POSITIONAL for p in parameters):
        raise TypeError(f"{_name(call)} must take (payload) or (payload, context)")
    try:
        read = payloads.reader(parameters[0].annotation)
    except TypeError as error:
        raise TypeError(f"{_name(call)}: {error}") from None
    return Function(call, read, takes_context=len(parameters) == 2, asynchronous=inspect.iscoroutinefunction(body))


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _name(call: Callable[..., Any]) -> str:
    return getattr(call, "__qualname__", type(call).__qualname__)
