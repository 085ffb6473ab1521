"""What the tests of `data_pipeline` share: a pipeline over one folder, and attempts for it."""

import pathlib
from collections.abc import Mapping
from typing import Any

from openmcp_chain.executors.data_pipeline import DataPipeline, Limits, Policy, S3Settings
from openmcp_chain.worker.task import Context, TaskFailed

LONG = "SELECT count(*) AS n FROM range(1000000) a, range(100000000) b WHERE a.range + b.range = 3.5"
"""SQL that takes hours, and neither memory nor disk."""
LIMITS = Limits(memory_bytes=256 << 20, spill_bytes=256 << 20, transform_seconds=60, transfer_seconds=30)


def context(task_id: str = "0190b6f0-0000-7000-8000-000000000001", attempt: int = 1) -> Context:
    return Context(workspace_id="ws-test", task_id=task_id, type="data_pipeline", attempt=attempt)


class Bench:
    """A pipeline, and a folder `files` that its one workspace may touch."""

    def __init__(
        self, base: pathlib.Path, policy: str = "", limits: Limits = LIMITS, s3: S3Settings | None = None, **more: Any
    ) -> None:
        self.files = base / "files"
        self.files.mkdir(exist_ok=True)
        self.work = base / "work"
        text = f'[workspaces."ws-test"]\nfiles = ["{self.files}"]\n{policy}'
        self.pipeline = DataPipeline(Policy.parse(text), self.work, limits=limits, s3=s3, **more)

    def put(self, name: str, content: bytes | str) -> str:
        """Writes a file and returns its URI."""
        path = self.files / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path.as_uri()

    def uri(self, name: str) -> str:
        return (self.files / name).as_uri()

    def names(self) -> set[str]:
        """All that is in the folder, hidden or not."""
        return {str(path.relative_to(self.files)) for path in self.files.rglob("*")}

    async def run(self, _task_id: str | None = None, _attempt: int = 1, **payload: Any) -> Mapping[str, Any]:
        given = {"task_id": _task_id} if _task_id else {}
        return await self.pipeline(payload, context(attempt=_attempt, **given))

    async def fails(self, **payload: Any) -> TaskFailed:
        """How the task fails; the test fails if it doesn't."""
        try:
            result = await self.run(**payload)
        except TaskFailed as failed:
            assert not any(path.is_file() for path in self.work.rglob("*"))
            return failed
        raise AssertionError(f"succeeded: {result}")
