"""What a task, or a lease of one, does not allow."""

from openmcp_chain.domain.errors.base import Error, Status, Violation, shown


class TaskNotFound(Error):
    code = "TASK_NOT_FOUND"
    status = Status.NOT_FOUND
    when = "The workspace has no such task (one of another workspace does not exist either)."

    def __init__(self, task_id: str) -> None:
        name = shown(task_id)
        super().__init__(f"Task {name} does not exist")
        self.resource = ("openmcp.chain.v1.Task", name)


class RequestIdReused(Error):
    code = "REQUEST_ID_REUSED"
    status = Status.ALREADY_EXISTS
    when = "The request_id was used before, with a different request."

    def __init__(self) -> None:
        super().__init__("request_id: was used before with a different request. Use a new one for a new task.")
        self.violations = (Violation("request_id", "was used before with a different request"),)


class DedupeKeyTaken(Error):
    code = "DEDUPE_KEY_TAKEN"
    status = Status.ALREADY_EXISTS
    when = "A task with the same dedupe_key has not ended; the details name it."

    def __init__(self, task_id: str) -> None:
        name = shown(task_id)
        super().__init__(f"dedupe_key: is taken by task {name}, which has not ended.")
        self.violations = (Violation("dedupe_key", f"is taken by task {name}, which has not ended"),)
        self.resource = ("openmcp.chain.v1.Task", name)


class LeaseLost(Error):
    code = "LEASE_LOST"
    status = Status.FAILED_PRECONDITION
    when = "A worker reports on a task whose lease is no longer its own."

    def __init__(self) -> None:
        super().__init__("The lease is no longer yours: it expired, or the task has ended. Stop working on the task.")


class TaskEnded(Error):
    code = "TASK_ENDED"
    status = Status.FAILED_PRECONDITION
    when = "A task that has succeeded or failed is to be cancelled."

    def __init__(self, task_id: str, status: str) -> None:
        name = shown(task_id)
        super().__init__(f"Task {name} has ended: it is {status}, and can't be cancelled.")
        self.resource = ("openmcp.chain.v1.Task", name)


class TaskNotRetryable(Error):
    code = "TASK_NOT_RETRYABLE"
    status = Status.FAILED_PRECONDITION
    when = (
        "A task is to be tried again that is neither FAILED nor CANCELLED, whose dedupe_key another task has taken "
        "over, or that has 1,000 events."
    )

    def __init__(self, task_id: str, reason: str) -> None:
        name = shown(task_id)
        super().__init__(f"Task {name} can't be tried again: {reason}.")
        self.resource = ("openmcp.chain.v1.Task", name)


class CancelNotRequested(Error):
    code = "CANCEL_NOT_REQUESTED"
    status = Status.FAILED_PRECONDITION
    when = "A worker reports that it has stopped a task that nobody cancelled."

    def __init__(self) -> None:
        super().__init__("Nobody asked for this task to stop. End the attempt by a completion or a failure.")


class EventsFull(Error):
    code = "EVENTS_FULL"
    status = Status.FAILED_PRECONDITION
    when = "A worker sends more log lines than a task keeps. The lease is kept all the same, and so is the progress."

    def __init__(self, limit: int) -> None:
        super().__init__(f"The task keeps {limit} lines and steps of progress, and has them all. The line is not kept.")
