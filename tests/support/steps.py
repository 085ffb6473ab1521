"""The client's steps carried out by a test: no server, no clock, no chance."""

from datetime import UTC, datetime, timedelta
from typing import Any

from openmcp.chain.v1 import auth_pb2, tasks_pb2
from openmcp_chain.client import ApiError
from openmcp_chain.client.calls import Calls
from openmcp_chain.client.connection import Credentials
from openmcp_chain.client.steps import Alone, Emit, Open, Read, Run, Send, Sleep, Step, Steps

NOW = datetime(2026, 1, 2, tzinfo=UTC)
PENDING, SUCCEEDED, FAILED = (
    tasks_pb2.TASK_STATUS_PENDING,
    tasks_pb2.TASK_STATUS_SUCCEEDED,
    tasks_pb2.TASK_STATUS_FAILED,
)


def refusal(status: str, code: str = "", retry_after: float | None = None) -> ApiError:
    return ApiError(status, code or status, "no", retry_after=retry_after)


class World:
    """Calls, and a clock that only sleep and `pass_time` move. Chance is always in the middle."""

    def __init__(self, timeout: float = 30.0) -> None:
        self.time = 1000.0
        self.sign_ins = 0
        self.calls = Calls(
            Credentials("ws-1", "S3CRET"),
            timeout,
            clock=lambda: self.time,
            chance=lambda: 0.5,
            now=lambda: NOW + timedelta(seconds=self.time),
        )

    def token(self, life: float = 1000.0) -> auth_pb2.AuthToken:
        """A new token, good for so many seconds."""
        self.sign_ins += 1
        token = auth_pb2.AuthToken(token=f"token-{self.sign_ins}")
        token.expires_at.FromDatetime(NOW + timedelta(seconds=self.time + life))
        return token

    def play(self, steps: Steps[Any], *script: Any, sign_in: bool = True) -> tuple[Any, list[Step]]:
        """Carries the steps out: sends and reads are answered by the script in turn, sign-ins of themselves."""
        answers = list(script)
        run, taken = Run(steps), list[Step]()
        try:
            while run.step is not None:
                step = run.step
                taken.append(step)
                match step:
                    case Sleep(seconds):
                        self.time += seconds
                        run.answer(None)
                    case Alone(inner) if sign_in:
                        run.answer(self.play(inner, self.token())[0])
                    case Alone(inner):
                        try:
                            answer = self.play(inner, answers.pop(0))[0]
                        except ApiError as error:
                            run.fail(error)
                        else:
                            run.answer(answer)
                    case Send() | Read():
                        answer = answers.pop(0)
                        if callable(answer):
                            answer = answer()
                        if isinstance(answer, ApiError):
                            run.fail(answer)
                        else:
                            run.answer(answer)
                    case Open() | Emit():
                        run.answer(None)
        except Exception as error:
            error.add_note(repr(taken))
            vars(error)["taken"] = taken
            raise
        assert not answers
        return run.result, taken

    def wait(self, seconds: float, answer: Any) -> Any:
        """An answer that comes so much later."""

        def come() -> Any:
            self.time += seconds
            return answer

        return come


def sends(taken: list[Step]) -> list[Send]:
    return [step for step in taken if isinstance(step, Send)]


def slept(taken: list[Step]) -> list[float]:
    """How long it waited, where it did."""
    return [step.seconds for step in taken if isinstance(step, Sleep) and step.seconds]


DETAIL = tasks_pb2.TaskDetail(task_id="t", status=PENDING)
"""A task that waits."""
