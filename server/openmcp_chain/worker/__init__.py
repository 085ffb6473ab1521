"""The worker side: what a task function is (`task`), and the runtime that feeds it from the server."""

from openmcp_chain.worker.task import Task, TaskFailed, TaskFunction

__all__ = ["Task", "TaskFailed", "TaskFunction"]
