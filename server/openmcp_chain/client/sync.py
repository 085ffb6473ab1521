"""The client for programs that wait: grpc's sync API, in the caller's own threads."""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, cast

import grpc

from openmcp_chain.client import errors
from openmcp_chain.client.base import Base
from openmcp_chain.client.errors import ApiError
from openmcp_chain.client.payloads import Payload
from openmcp_chain.client.steps import Alone, Emit, Open, Read, Run, Send, Sleep, Step, Steps
from openmcp_chain.client.submission import NewTask, Options
from openmcp_chain.client.values import Counts, Event, Retried, Seconds, Submitted, Task, TaskId, TaskType, View

T = TypeVar("T")


class Client(Base):
    """A workspace's client. Any number of threads may use one; use it as a context manager, or close it.

    Each call is made again while that may help, until `timeout`; what then still failed is raised as ApiError.
    """

    def _set_up(self) -> None:
        self._signing_in = threading.Lock()
        target, options = self._server.target, self._server.options()
        if self._secured is None:
            self._channel = grpc.insecure_channel(target, options)
        else:
            self._channel = grpc.secure_channel(target, self._secured, options)
        self._use(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection, and every call on it."""
        self._channel.close()

    def submit(
        self,
        task_type: str,
        payload: Payload | None = None,
        /,
        *,
        timeout: Seconds | None = None,
        **options: Unpack[Options],
    ) -> Submitted:
        """Submits a task. Raises PayloadError if the payload can't be sent as it is."""
        return self._run(self._calls.submit(NewTask(task_type, payload, **options), timeout))

    def batch_submit(
        self, tasks: Iterable[NewTask], *, timeout: Seconds | None = None
    ) -> Sequence[Submitted | ApiError]:
        """Submits up to 1,000 tasks, 4 MiB together. Tells of each, in order, that it was accepted, or why not."""
        return self._run(self._calls.batch_submit(tasks, timeout))

    def get(self, task: TaskId, *, view: View | None = None, timeout: Seconds | None = None) -> Task:
        """Reads a task: all but its payload, unless `view` says otherwise."""
        return self._run(self._calls.get(task, view, timeout))

    def batch_get(
        self, tasks: Iterable[TaskId], *, view: View | None = None, timeout: Seconds | None = None
    ) -> Mapping[str, Task]:
        """Reads up to 100 tasks; returns those that there are, by id."""
        return self._run(self._calls.batch_get(tasks, view, timeout))

    def list(
        self,
        filter: str = "",  # noqa: A002 - the contract's name
        *,
        limit: int | None = None,
        page_size: int = 0,
        view: View | None = None,
        timeout: Seconds | None = None,
    ) -> Iterator[Task]:
        """Iterates over the tasks that the filter selects, the newest first; without results unless `view` is `FULL`.

        Pages are fetched as they are needed; `timeout` is for each.
        """
        return self._each(self._calls.tasks(filter, limit, page_size, view, timeout))

    def count(self, filter: str = "", *, timeout: Seconds | None = None) -> Counts:  # noqa: A002 - the contract's name
        """Counts the tasks that the filter selects, by status."""
        return self._run(self._calls.count(filter, timeout))

    def wait(self, task: TaskId, *, timeout: Seconds | None = None, check: bool = False) -> Task:
        """Waits until the task has ended; `timeout` is for that, and without it there is no limit.

        Raises WaitTimeout; with `check`, TaskUnsuccessful if it did not succeed.
        """
        return self._run(self._calls.wait(task, timeout, check=check))

    def events(self, task: TaskId, *, after: int = 0, timeout: Seconds | None = None) -> Iterator[Event]:
        """Iterates over the task's events after sequence `after`, waiting for each, until the task has ended.

        Cut streams are taken up where they ended: every event comes once. `timeout` is for all of them, and without it
        there is no limit. Raises WaitTimeout.
        """
        return self._each(self._calls.events(task, after, timeout))

    def cancel(self, task: TaskId, *, reason: str = "", timeout: Seconds | None = None) -> Task:
        """Ends a task early: at once if it waits; a running one through its worker, and it may still succeed."""
        return self._run(self._calls.cancel(task, reason, timeout))

    def retry(self, task: TaskId, *, timeout: Seconds | None = None) -> Task:
        """Tries a failed or cancelled task again."""
        return self._run(self._calls.retry(task, timeout))

    def batch_retry(
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
        return self._run(self._calls.batch_retry(filter, limit, page_token, timeout))

    def task_types(self, *, timeout: Seconds | None = None) -> Sequence[TaskType]:
        """The task types that the workspace has used."""
        return self._run(self._calls.task_types(timeout))

    def pause(self, task_type: str, *, reason: str = "", timeout: Seconds | None = None) -> TaskType:
        """Pauses a type: its tasks wait, from when this returns. What runs goes on."""
        return self._run(self._calls.pause(task_type, reason, timeout))

    def resume(self, task_type: str, *, timeout: Seconds | None = None) -> TaskType:
        """Ends a pause."""
        return self._run(self._calls.resume(task_type, timeout))

    def _run(self, steps: Steps[T]) -> T:
        """Carries the steps out."""
        run = Run(steps)
        try:
            while run.step is not None:
                try:
                    answer = self._do(run.step)
                except ApiError as error:
                    run.fail(error)
                else:
                    run.answer(answer)
            return run.result
        finally:
            run.close()

    def _each(self, steps: Steps[None]) -> Iterator[Any]:
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
                                answer = next(stream, None)
                        case step:
                            answer = self._do(step)
                except ApiError as error:
                    run.fail(error)
                else:
                    run.answer(answer)
        finally:
            run.close()
            if stream is not None:
                stream.cancel()

    def _do(self, step: Step) -> Any:  # noqa: ANN401 - what comes of it depends on the step
        match step:
            case Send():
                with _failures():
                    return self._start(step)
            case Sleep(seconds):
                time.sleep(seconds)
            case Alone(steps, seconds):
                if not self._signing_in.acquire(timeout=max(seconds, 0.0)):
                    raise errors.late()
                try:
                    return self._run(steps)
                finally:
                    self._signing_in.release()
        return None


@contextmanager
def _failures() -> Iterator[None]:
    """Raises what gRPC raises as what we do."""
    try:
        yield
    except grpc.RpcError as failure:
        call = cast("grpc.Call", failure)
        raise errors.read(call.code().name, call.details() or "", call.trailing_metadata() or ()) from None
