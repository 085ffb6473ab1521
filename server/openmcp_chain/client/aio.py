"""The client for programs on an event loop: grpc's asyncio API."""
# ruff: noqa: ASYNC109 - as in the sync client: a timeout is for all tries, and more than giving the call up

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc

from openmcp_chain.client import errors
from openmcp_chain.client.base import Base
from openmcp_chain.client.errors import ApiError
from openmcp_chain.client.payloads import Payload
from openmcp_chain.client.steps import Alone, Emit, Open, Read, Run, Send, Sleep, Step, Steps
from openmcp_chain.client.submission import NewTask, Options
from openmcp_chain.client.values import Counts, Event, Retried, Seconds, Submitted, Task, TaskId, TaskType, View

T = TypeVar("T")


class AsyncClient(Base):
    """A workspace's client. It belongs to one event loop; use it as an async context manager, or close it.

    Each call is made again while that may help, until `timeout`; what then still failed is raised as ApiError.
    """

    def _set_up(self) -> None:
        self._signing_in = asyncio.Lock()
        self._channel: grpc.aio.Channel | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection, and every call on it."""
        if self._channel is not None:
            await self._channel.close()

    async def submit(
        self,
        task_type: str,
        payload: Payload | None = None,
        /,
        *,
        timeout: Seconds | None = None,
        **options: Unpack[Options],
    ) -> Submitted:
        """Submits a task. Raises PayloadError if the payload can't be sent as it is."""
        return await self._run(self._calls.submit(NewTask(task_type, payload, **options), timeout))

    async def batch_submit(
        self, tasks: Iterable[NewTask], *, timeout: Seconds | None = None
    ) -> Sequence[Submitted | ApiError]:
        """Submits up to 1,000 tasks, 4 MiB together. Tells of each, in order, that it was accepted, or why not."""
        return await self._run(self._calls.batch_submit(tasks, timeout))

    async def get(self, task: TaskId, *, view: View | None = None, timeout: Seconds | None = None) -> Task:
        """Reads a task: all but its payload, unless `view` says otherwise."""
        return await self._run(self._calls.get(task, view, timeout))

    async def batch_get(
        self, tasks: Iterable[TaskId], *, view: View | None = None, timeout: Seconds | None = None
    ) -> Mapping[str, Task]:
        """Reads up to 100 tasks; returns those that there are, by id."""
        return await self._run(self._calls.batch_get(tasks, view, timeout))

    def list(
        self,
        filter: str = "",  # noqa: A002 - the contract's name
        *,
        limit: int | None = None,
        page_size: int = 0,
        view: View | None = None,
        timeout: Seconds | None = None,
    ) -> AsyncIterator[Task]:
        """Iterates over the tasks that the filter selects, the newest first; without results unless `view` is `FULL`.

        Pages are fetched as they are needed; `timeout` is for each.
        """
        return self._each(self._calls.tasks(filter, limit, page_size, view, timeout))

    async def count(self, filter: str = "", *, timeout: Seconds | None = None) -> Counts:  # noqa: A002 - the contract's name
        """Counts the tasks that the filter selects, by status."""
        return await self._run(self._calls.count(filter, timeout))

    async def wait(self, task: TaskId, *, timeout: Seconds | None = None, check: bool = False) -> Task:
        """Waits until the task has ended; `timeout` is for that, and without it there is no limit.

        Raises WaitTimeout; with `check`, TaskUnsuccessful if it did not succeed.
        """
        return await self._run(self._calls.wait(task, timeout, check=check))

    def events(self, task: TaskId, *, after: int = 0, timeout: Seconds | None = None) -> AsyncIterator[Event]:
        """Iterates over the task's events after sequence `after`, waiting for each, until the task has ended.

        Cut streams are taken up where they ended: every event comes once. `timeout` is for all of them, and without it
        there is no limit. Raises WaitTimeout.
        """
        return self._each(self._calls.events(task, after, timeout))

    async def cancel(self, task: TaskId, *, reason: str = "", timeout: Seconds | None = None) -> Task:
        """Ends a task early: at once if it waits; a running one through its worker, and it may still succeed."""
        return await self._run(self._calls.cancel(task, reason, timeout))

    async def retry(self, task: TaskId, *, timeout: Seconds | None = None) -> Task:
        """Tries a failed or cancelled task again."""
        return await self._run(self._calls.retry(task, timeout))

    async def batch_retry(
        self,
        filter: str = "",  # noqa: A002 - the contract's name
        *,
        limit: int = 0,
        page_token: str = "",
        timeout: Seconds | None = None,
    ) -> Retried:
        """Tries again up to `limit` (0: 100) of the failed and cancelled tasks that the filter selects.

        While there are `more`, call it again with the `next_page_token` that it gave.
        """
        return await self._run(self._calls.batch_retry(filter, limit, page_token, timeout))

    async def task_types(self, *, timeout: Seconds | None = None) -> Sequence[TaskType]:
        """The task types that the workspace has used."""
        return await self._run(self._calls.task_types(timeout))

    async def pause(self, task_type: str, *, reason: str = "", timeout: Seconds | None = None) -> TaskType:
        """Pauses a type: its tasks wait, from when this returns. What runs goes on."""
        return await self._run(self._calls.pause(task_type, reason, timeout))

    async def resume(self, task_type: str, *, timeout: Seconds | None = None) -> TaskType:
        """Ends a pause."""
        return await self._run(self._calls.resume(task_type, timeout))

    async def _run(self, steps: Steps[T]) -> T:
        """Carries the steps out."""
        run = Run(steps)
        try:
            while run.step is not None:
                try:
                    answer = await self._do(run.step)
                except ApiError as error:
                    run.fail(error)
                else:
                    run.answer(answer)
            return run.result
        finally:
            run.close()

    async def _each(self, steps: Steps[None]) -> AsyncIterator[Any]:
        """Carries the steps out, and yields what they emit."""
        run = Run(steps)
        stream: Any = None
        try:
            while run.step is not None:
                answer = None
                try:
                    match run.step:
                        case Emit(value):
                            yield value
                        case Open() as step:
                            if stream is not None:
                                stream.cancel()
                            stream = self._start(step)
                        case Read():
                            with _failures():
                                answer = await stream.read()
                                answer = None if answer is grpc.aio.EOF else answer
                        case step:
                            answer = await self._do(step)
                except ApiError as error:
                    run.fail(error)
                else:
                    run.answer(answer)
        finally:
            run.close()
            if stream is not None:
                stream.cancel()

    async def _do(self, step: Step) -> Any:  # noqa: ANN401 - what comes of it depends on the step
        match step:
            case Send():
                with _failures():
                    return await self._start(step)
            case Sleep(seconds):
                await asyncio.sleep(seconds)
            case Alone(steps, seconds):
                try:
                    async with asyncio.timeout(seconds):
                        await self._signing_in.acquire()
                except TimeoutError:
                    raise errors.late() from None
                try:
                    return await self._run(steps)
                finally:
                    self._signing_in.release()
        return None

    def _start(self, step: Send | Open) -> Any:  # noqa: ANN401 - as above
        if self._channel is None:  # made in the event loop that it will belong to
            target, options = self._server.target, self._server.options()
            if self._secured is None:
                self._channel = grpc.aio.insecure_channel(target, options)
            else:
                self._channel = grpc.aio.secure_channel(target, self._secured, options)
            self._use(self._channel)
        return super()._start(step)


@contextmanager
def _failures() -> Iterator[None]:
    """Raises what gRPC raises as what we do."""
    try:
        yield
    except grpc.aio.AioRpcError as failure:
        raise errors.read(failure.code().name, failure.details() or "", failure.trailing_metadata() or ()) from None
