"""The task function: fetch, transform, publish."""

import pathlib
import ssl
from collections.abc import Mapping
from typing import Any

from openmcp_chain.executors.codes import Code, Refused
from openmcp_chain.executors.data_pipeline import files, payload
from openmcp_chain.executors.data_pipeline.buckets import Buckets, S3Settings
from openmcp_chain.executors.data_pipeline.limits import Limits
from openmcp_chain.executors.data_pipeline.payload import Order
from openmcp_chain.executors.data_pipeline.policy import Access, Policy
from openmcp_chain.executors.data_pipeline.scratch import Scratch
from openmcp_chain.executors.data_pipeline.uris import Uri
from openmcp_chain.executors.data_pipeline.web import Web
from openmcp_chain.executors.transform import process
from openmcp_chain.executors.transform.job import INPUT, OUTPUT, Done, Job
from openmcp_chain.worker.task import Context, TaskFailed

_BLAMES_INPUT = (Code.INPUT_INVALID,)
_BLAMES_OUTPUT = (Code.OUTPUT_INVALID, Code.OUTPUT_TOO_LARGE)


class DataPipeline:
    """The task function of `data_pipeline`. May run many at once.

    Args:
        policy: What each workspace may touch.
        workdir: A folder for work in progress; workers on the same machine may share it.
        limits: Bounds on each task.
        s3: Where S3 is, and as whom.
        tls: How https hosts prove who they are; by default, by the machine's trust store.
    """

    def __init__(
        self,
        policy: Policy,
        workdir: pathlib.Path,
        *,
        limits: Limits | None = None,
        s3: S3Settings | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._policy = policy
        self._limits = limits or Limits()
        self._scratch = Scratch(workdir)
        self._web = Web(self._limits, tls)
        self._buckets = Buckets(s3 or S3Settings(), self._limits)

    async def __call__(self, given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
        """Does the task. A cancelled call leaves nothing half-written.

        The artifact appears at its final name whole or not at all. An attempt that is repeated writes it again.

        Raises:
            TaskFailed: With a code of `executors.codes`.
        """
        try:
            return await self._run(given, context)
        except Refused as refused:
            raise TaskFailed(refused.code, refused.message, retryable=refused.retryable) from None

    def close(self) -> None:
        """Removes the folder for work in progress. No task may be running."""
        self._scratch.close()

    async def _run(self, given: Mapping[str, Any], context: Context) -> dict[str, Any]:
        order = payload.read(given)
        access = self._policy.access(context.workspace_id)
        if order.output:
            _check_writable(order.output, access)
        with self._scratch.folder() as folder:
            await self._fetch(order.input, access, folder / INPUT)
            done = await self._transform(order, folder)
            artifact = folder / OUTPUT
            uri, digest = await self._publish(order, access, artifact, context)
            return {
                "artifact_uri": uri.text,
                "checksum": f"sha256:{digest}",
                "rows_in": done.rows_in,
                "rows": done.rows,
                "columns": done.columns,
                "bytes": artifact.stat().st_size,
                "format": order.output_format.value,
            }

    async def _fetch(self, uri: Uri, access: Access, target: pathlib.Path) -> None:
        match uri.scheme:
            case "file":
                await files.fetch(uri, access, target, self._limits)
            case "s3":
                await self._buckets.fetch(uri, access, target)
            case _:
                await self._web.fetch(uri, access, target)

    async def _transform(self, order: Order, folder: pathlib.Path) -> Done:
        limits = self._limits
        job = Job(
            input_format=order.input_format,
            output_format=order.output_format,
            sql=order.sql,
            memory_bytes=limits.memory_bytes,
            spill_bytes=limits.spill_bytes,
            output_bytes=limits.output_bytes,
            output_rows=limits.output_rows,
            threads=limits.threads,
        )
        try:
            return await process.run(job, folder, seconds=limits.transform_seconds)
        except Refused as refused:
            raise _placed(refused, order) from None

    async def _publish(self, order: Order, access: Access, artifact: pathlib.Path, context: Context) -> tuple[Uri, str]:
        """Puts the artifact where the payload says.

        If it does not say, then beside the input and never in the place of something else: an earlier task's result
        has told that artifact's checksum, and it must stay true.
        """
        first, last = order.default_outputs(context.task_id)
        if order.output:
            last = order.output
        elif digest := await self._put(first, access, artifact, context, replace=False):
            return first, digest
        digest = await self._put(last, access, artifact, context, replace=True)
        assert digest is not None  # noqa: S101 - for the type checker: what may replace never yields
        return last, digest

    async def _put(
        self, uri: Uri, access: Access, artifact: pathlib.Path, context: Context, *, replace: bool
    ) -> str | None:
        if uri.scheme == "s3":
            return await self._buckets.publish(artifact, uri, access, replace=replace)
        return await files.publish(
            artifact,
            uri,
            access,
            mark=f"{context.task_id}.{context.attempt}",
            earlier=[f"{context.task_id}.{attempt}" for attempt in range(1, context.attempt)],
            replace=replace,
        )


def _check_writable(uri: Uri, access: Access) -> None:
    """Says no before any work is done; whoever writes checks again."""
    allowed = access.allows_object(uri) if uri.scheme == "s3" else access.folder_of(uri) is not None
    if not allowed:
        raise Refused(Code.ACCESS_DENIED, f"{uri}: this workspace may not touch it")


def _placed(refused: Refused, order: Order) -> Refused:
    """The refusal with the place that it speaks of, which the transforming process does not know."""
    if refused.code in _BLAMES_INPUT:
        message = f"{order.input}: {refused.message}"
    elif refused.code is Code.SQL_INVALID:
        message = f"payload.sql: {refused.message}"
    elif refused.code in _BLAMES_OUTPUT:
        message = f"the result: {refused.message}"
    else:
        message = f"the task: {refused.message}"
    return Refused(refused.code, message, retryable=refused.retryable)
