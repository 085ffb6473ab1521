"""A leased task in this worker's hands: until when it is the worker's, and what there is to say of it.

Heartbeats go out at a third of the lease. If they can't be sent, the task is given up when two thirds of the lease are
over, before the server gives it to another. How its function ended is said all the same: the server may have heard
nothing for longer than the lease, and gives a worker that says nothing no task in its place.

Of one task, one thing is said at a time, and the next when that is answered: the server carries out side by side what
it has read, so that a line or the last progress could come after the report that ends the lease, and be refused. What
has no answer is said again on the next stream; the lease is what makes a second report harmless.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

from openmcp.chain.v1 import tasks_pb2, workers_pb2
from openmcp_chain.worker import reports
from openmcp_chain.worker.task import Context

log = logging.getLogger(__name__)

Request = workers_pb2.WorkRequest

PROGRESS_SECONDS = 1.0
"""Between two reports of progress."""
OVERDUE_SECONDS = 1.0
"""Between two heartbeats once the deadline is over, by which a worker learns that the server has ended the attempt."""
LIMITED_SECONDS = 1.0
"""After which something is said again that was too much for the workspace's plan."""
AGAIN_SECONDS = 0.2
"""After which something is said again that could not be done."""
LINES = 200
"""As many as a task keeps."""
LEASE_NOT_KEPT = "LEASE_NOT_KEPT"
"""The failure code of an attempt that was given up."""

_AGAIN = frozenset({"UNAVAILABLE", "ABORTED"})
_KIND = {
    "heartbeat": workers_pb2.REPORT_KIND_HEARTBEAT,
    "log": workers_pb2.REPORT_KIND_LOG,
    "complete": workers_pb2.REPORT_KIND_COMPLETE,
    "fail": workers_pb2.REPORT_KIND_FAIL,
    "stopped": workers_pb2.REPORT_KIND_STOPPED,
}


class Held:
    """One lease, and what is said under it. A `task.Reporter`."""

    def __init__(
        self,
        leased: workers_pb2.LeasedTask,
        say: Callable[[Request], None],
        gave_up: Callable[["Held"], None],
        let_go: Callable[["Held"], None],
    ) -> None:
        """`say` sends to the server; `let_go` is called once, when the lease is over: ended, or lost.

        `gave_up` may be called once before, when the function was told to stop since the lease could not be kept.
        """
        self.leased = leased
        self.lease = leased.lease
        self.context = Context(
            task_id=leased.lease.task_id,
            workspace_id=leased.lease.workspace_id,
            type=leased.type,
            attempt=leased.attempt,
            metadata=dict(leased.metadata),
            labels=dict(leased.labels),
            deadline=leased.deadline.ToDatetime(UTC) if leased.HasField("deadline") else None,
            reporter=self,
        )
        self.farewell: Request | None = None
        """What to report if the function stops because it was told to; None if it is to go without a word."""
        self.given_up = False
        """Whether the lease could not be kept."""
        self._say = say
        self._gave_up = gave_up
        self._let_go = let_go
        self._interrupt: Callable[[], object] = lambda: None
        self._loop = asyncio.get_running_loop()
        self._duration = leased.lease_duration.ToNanoseconds() / 1e9
        self._confirmed = self._loop.time()
        """When the lease was last known to be ours."""
        self._asked = 0.0
        self._unsaid: deque[Request] = deque()
        """What is to be said; the first has been, if there is a stream, and has no answer yet."""
        self._beating = False
        """Whether a heartbeat is among it."""
        self._over = False
        """Whether no more is to be said: it has ended or is lost, or its report is the last of `_unsaid`."""
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}
        # What the function says comes from any thread. A deque's ends are safe to use from two.
        self._lines: deque[str] = deque()
        self._room = LINES
        self._progress: deque[tasks_pb2.TaskProgress] = deque(maxlen=1)
        self._progress_at = -PROGRESS_SECONDS
        self._woken = False
        self._at(self._pause(), self._tick)

    # --- what the function says, in any thread

    def progress(self, fraction: float, message: str) -> None:
        """See `Context.progress`."""
        # In this order, NaN becomes 0.
        fraction = min(1.0, max(0.0, fraction))
        self._progress.append(tasks_pb2.TaskProgress(fraction=fraction, message=reports.text(message, 256)))
        self._wake()

    def log(self, line: str) -> None:
        """See `Context.log`."""
        if self._room > 0:
            self._room -= 1
            self._lines.append(reports.text(line, 1024))
            self._wake()

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody listens
                self._loop.call_soon_threadsafe(self._listen)

    # --- what becomes of the task

    def interrupted_by(self, interrupt: Callable[[], object]) -> None:
        """How to stop the function, besides telling its context; nothing can stop a plain one."""
        self._interrupt = interrupt

    def cancel(self, reason: str) -> None:
        """The task is to stop, because its cancellation was requested."""
        self.farewell = Request(stopped=workers_pb2.Stopped(lease=self.lease))
        self._stop(reason or "the task's cancellation was requested")

    def hand_back(self) -> None:
        """The task is to stop, for another worker to try it."""
        if self.farewell is None:
            message = "the worker was stopped before the task had ended"
            self.farewell = reports.failed(self.lease, "WORKER_STOPPED", message, retryable=True, retry_delay=0)
        self._stop("the worker stops")

    def end(self, report: Request) -> None:
        """The function has ended; the report goes out behind what it said."""
        if self._over:
            return
        self._listen()
        self._over = True
        self._cancel(self._tick)
        self._cancel(self._beat)
        if self._progress:
            self._add(self._heartbeat())
        self._add(report)

    def close(self) -> None:
        """No stream will come any more."""
        self._over = True
        self._unsaid.clear()
        for call in (self._tick, self._beat, self._repeat, self._listen):
            self._cancel(call)

    def _give_up(self) -> None:
        log.warning("lease could not be kept", extra={"task_id": self.lease.task_id})
        self.given_up = True
        self._unsaid.clear()  # a heartbeat, said until it is answered, would keep what nobody works on
        self._lines.clear()
        self._cancel(self._repeat)
        self.farewell = reports.failed(
            self.lease, LEASE_NOT_KEPT, "the worker could not keep its lease, and stopped", retryable=True
        )
        self._gave_up(self)
        self._stop("the lease is lost")

    def _lose(self) -> None:
        self.close()
        self.farewell = None
        self._let_go(self)
        self._stop("the lease is lost")

    def _stop(self, reason: str) -> None:
        if not self.context.cancelled:
            self.context.cancel(reason)
            self._interrupt()

    # --- the conversation

    def resume(self) -> None:
        """There is a new stream: what had no answer on the last one is said again."""
        self._cancel(self._repeat)
        self._repeat()

    def answered(self, ack: workers_pb2.Ack) -> None:
        """The server has answered what was said last."""
        if not self._unsaid:
            return
        said = self._unsaid[0].WhichOneof("message") or ""
        if ack.kind != _KIND[said]:
            return
        if ack.error_code in _AGAIN:
            self._at(AGAIN_SECONDS, self._repeat)
            return
        if ack.error_code == "RATE_LIMITED" and said == "log":
            self._hold_lines_back()
            return
        if ack.error_code == "RATE_LIMITED" and said != "heartbeat":
            self._at(LIMITED_SECONDS, self._repeat)
            return
        if ack.error_code:
            told = {"task_id": self.lease.task_id, "report": said, "code": ack.error_code}
            log.warning("report refused", extra=told)
        if ack.error_code == "LEASE_LOST":
            self._lose()
            return
        self._unsaid.popleft()
        if said == "heartbeat":
            self._beating = False
            if not ack.error_code:
                self._confirmed = self._asked
            self._tell_progress()
        elif said == "log":
            if ack.error_code == "EVENTS_FULL":
                self._room = 0
                self._unsaid = deque(one for one in self._unsaid if not one.HasField("log"))
        else:
            self.close()
            self._let_go(self)
            return
        self._repeat()

    def _hold_lines_back(self) -> None:
        """More lines than the plan allows: they wait, behind the rest; once the function has ended, they are lost."""
        lines = [one.log.message for one in self._unsaid if one.HasField("log")]
        self._unsaid = deque(one for one in self._unsaid if not one.HasField("log"))
        if self._over:
            told = {"task_id": self.lease.task_id, "lines": len(lines)}
            log.warning("lines lost: more than the workspace's plan allows", extra=told)
        else:
            self._lines.extendleft(reversed(lines))
            self._at(LIMITED_SECONDS, self._listen)
        self._repeat()

    def _add(self, request: Request, *, next_up: bool = False) -> None:
        self._unsaid.insert(1 if next_up else len(self._unsaid), request)
        if len(self._unsaid) == 1:
            self._repeat()

    def _repeat(self) -> None:
        """Says the first of what is unsaid."""
        if self._unsaid:
            if self._unsaid[0].HasField("heartbeat"):
                self._asked = self._loop.time()
            self._say(self._unsaid[0])

    def _listen(self) -> None:
        """Takes what the function has said."""
        self._woken = False
        if self._over:
            return
        while self._lines:
            self._add(Request(log=workers_pb2.Log(lease=self.lease, message=self._lines.popleft())))
        self._tell_progress()

    def _tell_progress(self) -> None:
        """Sends the newest progress when its time has come."""
        if self._progress and not self._over and self._beat not in self._timers:
            self._at(self._progress_at + PROGRESS_SECONDS - self._loop.time(), self._beat)

    def _beat(self) -> None:
        if not self._beating:
            self._add(self._heartbeat(), next_up=True)

    def _heartbeat(self) -> Request:
        self._beating = True
        news = None
        if self._progress:
            news, self._progress_at = self._progress.pop(), self._loop.time()
        return Request(heartbeat=workers_pb2.Heartbeat(lease=self.lease, progress=news))

    # --- time

    def _tick(self) -> None:
        age = self._loop.time() - self._confirmed
        if age > self._duration * 2 / 3:
            self._give_up()
            return
        if age >= self._duration / 3 or self._overdue() <= 0:
            self._beat()
        self._at(self._pause(), self._tick)

    def _pause(self) -> float:
        """Until the next tick."""
        left = self._overdue()
        return min(self._duration / 6, left if left > 0 else OVERDUE_SECONDS)

    def _overdue(self) -> float:
        """Seconds to the deadline, by this machine's clock, which may be another than the server's."""
        deadline = self.context.deadline
        return (deadline - datetime.now(UTC)).total_seconds() if deadline else float("inf")

    def _at(self, seconds: float, call: Callable[[], None]) -> None:
        """Calls it then; at most one call of each waits."""

        def due() -> None:
            del self._timers[call]
            call()

        self._cancel(call)
        self._timers[call] = self._loop.call_later(seconds, due)

    def _cancel(self, call: Callable[[], None]) -> None:
        if timer := self._timers.pop(call, None):
            timer.cancel()
