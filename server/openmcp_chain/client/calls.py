"""Every method of the client, as steps: see `steps`."""

import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from google.protobuf.message import Message

from openmcp.chain.v1 import auth_pb2, tasks_pb2
from openmcp_chain.client import codec, retrying
from openmcp_chain.client.connection import Credentials
from openmcp_chain.client.errors import ApiError, TaskUnsuccessful, WaitTimeout
from openmcp_chain.client.following import HEALTHY_SECONDS, Place, interrupted
from openmcp_chain.client.retrying import Tries
from openmcp_chain.client.steps import Alone, Emit, Open, Read, Send, Sleep, Steps
from openmcp_chain.client.submission import NewTask
from openmcp_chain.client.tokens import Tokens
from openmcp_chain.client.values import Counts, Event, Retried, Seconds, Status, Submitted, Task, TaskId, TaskType, View

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 30.0
"""For a call with all its tries, unless the user says otherwise; a server takes no longer for a single one."""
PAGE = 1000
"""Tasks that a page may have; the contract's limit."""
WAIT_SECONDS = 25.0
"""What one WaitTask may wait; the contract's limit."""
GRACE_SECONDS = 5.0
"""What the answer to a wait may take beyond the time that it was to wait."""


class Calls:
    """What each method does. `timeout` is for one call with all its tries."""

    def __init__(
        self,
        credentials: Credentials,
        timeout: Seconds,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        self._credentials = credentials.request()
        self._timeout = codec.seconds(timeout)
        self._clock = clock
        self._chance = chance
        self._tokens = Tokens(clock, now) if now else Tokens(clock)

    def submit(self, task: NewTask, timeout: Seconds | None) -> Steps[Submitted]:
        """The request, and so its `request_id`, is the same over all tries: there is never a second task."""
        request = codec.submit_request(task)
        summary: tasks_pb2.TaskSummary = yield from self._call("SubmitTask", request, timeout)
        return codec.submitted(summary, request.request_id)

    def batch_submit(self, tasks: Iterable[NewTask], timeout: Seconds | None) -> Steps[list[Submitted | ApiError]]:
        """What passes is tried again for each task by itself, as `submit` does; what was accepted is told anyway."""
        requests = [codec.submit_request(task) for task in tasks]
        outcomes = dict[int, Submitted | ApiError]()
        tries, asked = self._tries(timeout), [*range(len(requests))]
        while True:
            batch = tasks_pb2.BatchSubmitTasksRequest(requests=[requests[number] for number in asked])
            try:
                answer: tasks_pb2.BatchSubmitTasksResponse = yield from self._call(
                    "BatchSubmitTasks", batch, tries.left
                )
            except ApiError as error:
                if not outcomes:
                    raise
                outcomes |= dict.fromkeys(asked, error)
                break
            passing = dict[int, ApiError]()
            for number, result in zip(asked, answer.results, strict=True):
                outcomes[number] = outcome = codec.outcome(result, requests[number].request_id)
                if isinstance(outcome, ApiError) and retrying.passes(outcome):
                    passing[number] = outcome
            asked = [*passing]
            if not passing or (pause := tries.pause(passing[asked[0]])) is None:
                break
            yield Sleep(pause)
        return [outcomes[number] for number in sorted(outcomes)]

    def get(self, task: TaskId, view: View | None, timeout: Seconds | None) -> Steps[Task]:
        request = tasks_pb2.GetTaskRequest(task_id=_id(task), view=codec.VIEWS[view])
        return codec.task((yield from self._call("GetTask", request, timeout)))

    def batch_get(
        self, tasks: Iterable[TaskId], view: View | None, timeout: Seconds | None
    ) -> Steps[Mapping[str, Task]]:
        """Calls again for what had no room in an answer; `timeout` is for each call."""
        request = tasks_pb2.BatchGetTasksRequest(task_ids=[_id(task) for task in tasks], view=codec.VIEWS[view])
        found: dict[str, Task] = {}
        while True:
            answer: tasks_pb2.BatchGetTasksResponse = yield from self._call("BatchGetTasks", request, timeout)
            found |= {detail.task_id: codec.task(detail) for detail in answer.tasks}
            if not answer.omitted:
                return found
            request = tasks_pb2.BatchGetTasksRequest(task_ids=answer.omitted, view=request.view)

    def tasks(
        self, query: str, limit: int | None, page_size: int, view: View | None, timeout: Seconds | None
    ) -> Steps[None]:
        """Emits tasks; `timeout` is for each page."""
        left = math.inf if limit is None else limit
        token = ""
        while left > 0:
            size = page_size if limit is None else int(min(left, page_size or PAGE))
            request = tasks_pb2.ListTasksRequest(filter=query, page_size=size, page_token=token, view=codec.VIEWS[view])
            page: tasks_pb2.ListTasksResponse = yield from self._call("ListTasks", request, timeout)
            for detail in page.tasks[: None if limit is None else int(left)]:
                yield Emit(codec.task(detail))
            left -= len(page.tasks)
            if not (token := page.next_page_token):
                return

    def count(self, query: str, timeout: Seconds | None) -> Steps[Counts]:
        request = tasks_pb2.CountTasksRequest(filter=query)
        return codec.counts((yield from self._call("CountTasks", request, timeout)))

    def wait(self, task: TaskId, timeout: Seconds | None, *, check: bool) -> Steps[Task]:
        """The time for tries begins anew with each call that worked, as with the streams of `events`."""
        task_id = _id(task)
        end = math.inf if timeout is None else self._clock() + codec.seconds(timeout)
        tries = self._tries(None)
        while True:
            began, token = self._clock(), ""
            pause = min(max(end - began, 0.0), WAIT_SECONDS)
            request = tasks_pb2.WaitTaskRequest(task_id=task_id, timeout=codec.duration(pause))
            try:
                token = yield from self._token(tries)
                seen = codec.task((yield Send("WaitTask", request, token, pause + GRACE_SECONDS)))
            except ApiError as error:
                if self._clock() - began > HEALTHY_SECONDS:
                    tries = self._tries(None)
                delay = self._pause(tries, error, token)
                if self._clock() + delay > end + GRACE_SECONDS:
                    raise
            else:
                if seen.status.ended:
                    if check and seen.status is not Status.SUCCEEDED:
                        raise TaskUnsuccessful(seen)
                    return seen
                if self._clock() >= end:
                    raise WaitTimeout(task_id, seen)
                tries = self._tries(None)
                # One that answers at once is not to be asked without a pause.
                delay = 1.0 if self._clock() - began < pause / 2 else 0.0
            yield Sleep(delay)

    def cancel(self, task: TaskId, reason: str, timeout: Seconds | None) -> Steps[Task]:
        request = tasks_pb2.CancelTaskRequest(task_id=_id(task), reason=reason)
        return codec.task((yield from self._call("CancelTask", request, timeout)))

    def retry(self, task: TaskId, timeout: Seconds | None) -> Steps[Task]:
        request = tasks_pb2.RetryTaskRequest(task_id=_id(task))
        try:
            return codec.task((yield from self._call("RetryTask", request, timeout)))
        except ApiError as error:
            if error.code != "TASK_NOT_RETRYABLE" or error.tries == 1:
                raise
            refused = error
        # An earlier try may have been carried out, and its answer lost: then the task is on its way, or has arrived.
        task = yield from self.get(request.task_id, None, timeout)
        if task.status in (Status.FAILED, Status.CANCELLED):
            raise refused
        return task

    def batch_retry(self, query: str, limit: int, token: str, timeout: Seconds | None) -> Steps[Retried]:
        request = tasks_pb2.BatchRetryTasksRequest(filter=query, limit=limit, page_token=token)
        answer: tasks_pb2.BatchRetryTasksResponse = yield from self._call("BatchRetryTasks", request, timeout)
        return Retried(task_ids=tuple(answer.task_ids), more=answer.more, next_page_token=answer.next_page_token)

    def task_types(self, timeout: Seconds | None) -> Steps[list[TaskType]]:
        request = tasks_pb2.ListTaskTypesRequest()
        answer: tasks_pb2.ListTaskTypesResponse = yield from self._call("ListTaskTypes", request, timeout)
        return [codec.task_type(one) for one in answer.task_types]

    def pause(self, task_type: str, reason: str, timeout: Seconds | None) -> Steps[TaskType]:
        request = tasks_pb2.PauseTaskTypeRequest(type=task_type, reason=reason)
        answer: tasks_pb2.PauseTaskTypeResponse = yield from self._call("PauseTaskType", request, timeout)
        return codec.task_type(answer.task_type)

    def resume(self, task_type: str, timeout: Seconds | None) -> Steps[TaskType]:
        request = tasks_pb2.ResumeTaskTypeRequest(type=task_type)
        answer: tasks_pb2.ResumeTaskTypeResponse = yield from self._call("ResumeTaskType", request, timeout)
        return codec.task_type(answer.task_type)

    def events(self, task: TaskId, after: int, timeout: Seconds | None) -> Steps[None]:
        """Emits events over as many streams as it takes.

        The time for tries begins anew with each stream that worked: only a service that is away for all of it ends
        this.
        """
        task_id = _id(task)
        end = math.inf if timeout is None else self._clock() + codec.seconds(timeout)
        place = Place(after)
        tries = self._tries(None)
        while True:
            began, token = self._clock(), ""
            place.stream_begins()
            try:
                token = yield from self._token(tries)
                request = tasks_pb2.StreamTaskEventsRequest(task_id=task_id, after_sequence=place.after)
                yield Open("StreamTaskEvents", request, token, None if timeout is None else end - began)
                while (message := (yield Read())) is not None:
                    event: Event = codec.event(message)
                    if place.take(event):
                        yield Emit(event)
                if place.at_end:
                    return
                raise interrupted("the stream ended before the task did")
            except ApiError as error:
                if self._clock() >= end or (timeout is not None and error.status == "DEADLINE_EXCEEDED"):
                    raise WaitTimeout(task_id) from None
                if place.moved or self._clock() - began > HEALTHY_SECONDS:
                    tries = self._tries(None)
                delay = self._pause(tries, error, token)
            yield Sleep(min(delay, end - self._clock()))

    def _tries(self, timeout: Seconds | None) -> Tries:
        seconds = self._timeout if timeout is None else codec.seconds(timeout)
        return Tries(seconds, self._clock, self._chance)

    def _call(self, method: str, request: Message, timeout: Seconds | None) -> Steps[Any]:
        """A unary call, with a token, as often as it takes. Raises ApiError."""
        tries = self._tries(timeout)
        while True:
            token = ""
            try:
                token = yield from self._token(tries)
                return (yield Send(method, request, token, tries.left))
            except ApiError as error:
                delay = self._pause(tries, error, token)
            yield Sleep(delay)

    def _pause(self, tries: Tries, error: ApiError, token: str) -> float:
        """Seconds until the next try; raises the error if there is none. `token` is the one that was tried, if any."""
        if error.status == "UNAUTHENTICATED" and token and not tries.renewed:
            tries.renewed = True
            tries.failed += 1  # a call that was under way when its token ended may be done
            self._tokens.refused(token)
            return 0.0
        delay = tries.pause(error)
        if delay is None:
            raise error
        log.debug("call failed, and is made again", extra={"code": error.code, "seconds": delay})
        return delay

    def _token(self, tries: Tries) -> Steps[str]:
        token: str = self._tokens.current() or (yield Alone(self._sign_in(tries), tries.left))
        return token

    def _sign_in(self, tries: Tries) -> Steps[str]:
        if token := self._tokens.current():
            return token  # somebody else has signed in while this one waited for its turn
        answer: auth_pb2.AuthToken = yield Send("Authenticate", self._credentials, "", tries.left)
        self._tokens.keep(answer.token, answer.expires_at.ToDatetime(UTC))
        return answer.token


def _id(task: TaskId) -> str:
    return task if isinstance(task, str) else task.task_id
