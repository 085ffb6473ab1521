"""A server that stops (SIGSTOP) when the first task of a type is on its way to the worker: claimed, not sent yet."""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from openmcp_chain import app
from openmcp_chain.domain.task import Task
from openmcp_chain.engine import sessions


def stop_at(task_type: str) -> None:
    """As if the machine was frozen just then."""
    begin: Callable[..., None] = sessions.Session.__init__
    stopped = False

    def begin_with_stop(self: sessions.Session, **options: Any) -> None:
        begin(self, **options)
        deliver = self.deliver

        def deliver_and_stop(task: Task) -> None:
            nonlocal stopped
            deliver(task)
            if task.type == task_type and not stopped:
                stopped = True
                os.kill(os.getpid(), signal.SIGSTOP)

        self.deliver = deliver_and_stop

    setattr(sessions.Session, "__init__", begin_with_stop)  # noqa: B010 - mypy would not have a method assigned


if __name__ == "__main__":
    stop_at(sys.argv[1])
    app.main()
