"""What the service itself cannot do for the moment."""

from openmcp_chain.domain.errors.base import Error, Status


class Aborted(Error):
    code = "ABORTED"
    status = Status.ABORTED
    when = "The call was given up inside the server and changed nothing that it did not answer for; repeat it."
    retry_after = 0.1

    def __init__(self) -> None:
        super().__init__("The call was given up inside the server. Repeat it.")


class DeadlineExceeded(Error):
    code = "DEADLINE_EXCEEDED"
    status = Status.DEADLINE_EXCEEDED
    when = "The call took longer than its deadline, or than the server lets any call take."
    sent_by = "both"

    def __init__(self) -> None:
        super().__init__("The call took too long. It may have been carried out: repeat it, with its request_id if any.")


class Unavailable(Error):
    code = "UNAVAILABLE"
    status = Status.UNAVAILABLE
    when = "The database cannot be reached for the moment; repeat the call, with a request_id if it is a submit."
    retry_after = 1.0

    def __init__(self) -> None:
        super().__init__("The service cannot reach its database for the moment. Repeat the call.")


class Overloaded(Error):
    code = "OVERLOADED"
    status = Status.UNAVAILABLE
    when = (
        "This server process has as much under way as it takes: calls, counts of the workspace, or bytes of large"
        " requests, or of large answers and events that are not read yet, of the workspace or of all; or Envoy has as"
        " much in memory. Repeat the call."
    )
    sent_by = "both"
    retry_after = 0.5

    def __init__(self) -> None:
        super().__init__("This server has as much under way as it takes. Repeat the call.")


class ServerDraining(Error):
    code = "SERVER_DRAINING"
    status = Status.UNAVAILABLE
    when = "This server process is shutting down; a stream goes on elsewhere after its last sequence."
    retry_after = 0.5

    def __init__(self) -> None:
        super().__init__("This server is shutting down. Connect again; resume a stream after its last sequence.")


class UpstreamUnavailable(Error):
    code = "UPSTREAM_UNAVAILABLE"
    status = Status.UNAVAILABLE
    when = "Envoy reaches no healthy server for the moment; repeat the call, with a request_id if it is a submit."
    sent_by = "envoy"
    retry_after = 1.0

    def __init__(self) -> None:
        super().__init__("No server can be reached for the moment. Repeat the call, a submit with its request_id.")


class Internal(Error):
    code = "INTERNAL"
    status = Status.INTERNAL
    when = "A fault of ours. The message says nothing of it; the log has it under the request id."
    sent_by = "both"

    def __init__(self) -> None:
        super().__init__("The server made an error. It is in the server's log under the request id of this call.")
