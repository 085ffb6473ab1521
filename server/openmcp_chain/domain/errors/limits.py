"""More than a workspace may have."""

from typing import Literal

from openmcp_chain.domain.errors.base import Error, Status, Violation


class TooManyTypes(Error):
    code = "TOO_MANY_TYPES"
    status = Status.FAILED_PRECONDITION
    when = "The workspace uses as many task types as it may."

    def __init__(self, limit: int) -> None:
        super().__init__(f"type: the workspace uses {limit} task types, which is its limit. Use one of them.")
        self.violations = (Violation("type", f"would be one more than the {limit} that a workspace may use"),)


class RateLimited(Error):
    code = "RATE_LIMITED"
    status = Status.RESOURCE_EXHAUSTED
    when = (
        "The workspace makes more calls than its plan allows, or sends more bytes, or reads or leases more in large "
        "answers, or its workers say more; or an address makes more calls without a token than it may. `Retry-After` "
        "says when to go on."
    )
    sent_by = "both"

    def __init__(
        self,
        whose: Literal["workspace", "requests", "answers", "reports", "address"] = "workspace",
        retry_after: float = 1.0,
    ) -> None:
        """`whose` limit it is."""
        self.retry_after = retry_after
        many = {
            "workspace": "The workspace makes more calls than its plan allows.",
            "requests": "The workspace sends more bytes than its plan allows.",
            "answers": "The workspace has had larger answers than its plan allows.",
            "reports": "The workspace's workers say more than its plan allows.",
            "address": "Too many calls without a token come from this address.",
        }[whose]
        # A stream's answer to a report has no such header.
        then = "Say it again later." if whose == "reports" else "Go on after the time in Retry-After."
        super().__init__(f"{many} {then}")


class TooManyPending(Error):
    code = "TOO_MANY_PENDING"
    status = Status.RESOURCE_EXHAUSTED
    when = "The workspace has as many tasks waiting as it may have."
    retry_after = 5.0

    def __init__(self, limit: int) -> None:
        super().__init__(f"The workspace has {limit} tasks waiting, and may have no more")


class TooManyStreams(Error):
    code = "TOO_MANY_STREAMS"
    status = Status.RESOURCE_EXHAUSTED
    when = "The workspace has as many streams open as it may have."
    retry_after = 5.0

    def __init__(self, limit: int) -> None:
        super().__init__(f"The workspace has {limit} streams open, which is its limit. Close one first.")
