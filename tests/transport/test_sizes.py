"""How much one answer holds: never more than any client reads, whatever tasks are in it."""

from typing import Any

import grpc
import pytest
from support.service import PATIENCE, Caller, Service, as_struct, refused, serving

from openmcp.chain.v1 import tasks_pb2, tasks_pb2_grpc
from openmcp_chain import structs
from openmcp_chain.engine import answers
from openmcp_chain.stack.envoy import Address, Settings
from openmcp_chain.transport import messages

COUNT = 12
TEXT = "x" * 900_000
FULL = tasks_pb2.TASK_VIEW_FULL


async def large_tasks(service: Service, caller: Caller) -> list[str]:
    """Tasks with a large payload and a large result, the oldest first."""
    worker = service.work(caller)
    await worker.hello(concurrency=1)
    ids = [await service.submit(caller, payload=as_struct({"text": TEXT})) for _ in range(COUNT)]
    for _ in ids:
        await worker.complete((await worker.task()).lease, {"text": TEXT})
    await worker.end()
    return ids


async def test_answers_fit_into_what_every_client_reads() -> None:
    """By gRPC with no setting of its own, which reads 4 MiB: all large tasks by several calls, in both ways."""
    async with serving() as service, grpc.aio.insecure_channel(f"127.0.0.1:{service.port}") as channel:
        caller = await service.workspace()
        ids = await large_tasks(service, caller)
        tasks: Any = tasks_pb2_grpc.TaskServiceStub(channel)
        left, got = ids, list[str]()
        while left:
            request = tasks_pb2.BatchGetTasksRequest(task_ids=left, view=FULL)
            answer = await tasks.BatchGetTasks(request, metadata=caller.metadata, timeout=PATIENCE)
            got += [task.task_id for task in answer.tasks]
            assert {(task.payload["text"], task.result["text"]) for task in answer.tasks} == {(TEXT, TEXT)}
            assert list(answer.omitted) == left[len(answer.tasks) :]
            left = list(answer.omitted)
        assert got == ids
        token, listed = "", list[str]()
        while not listed or token:
            wanted = tasks_pb2.ListTasksRequest(page_size=1000, page_token=token, view=FULL)
            page = await tasks.ListTasks(wanted, metadata=caller.metadata, timeout=PATIENCE)
            listed += [task.task_id for task in page.tasks]
            token = page.next_page_token
        assert listed == list(reversed(ids))
        basic = tasks_pb2.BatchGetTasksRequest(task_ids=[*ids, "x"], view=tasks_pb2.TASK_VIEW_BASIC)
        whole = await tasks.BatchGetTasks(basic, metadata=caller.metadata, timeout=PATIENCE)
        assert (len(whole.tasks), list(whole.not_found), list(whole.omitted)) == (COUNT, ["x"], [])


async def test_what_grpc_would_refuse_is_a_fault_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer over the limit is INTERNAL with details, not a bare refusal in gRPC's words."""
    async with serving() as service:
        caller = await service.workspace()
        task_id = await service.submit(caller)
        monkeypatch.setattr(messages, "SEND_BYTES", 10)
        call = service.tasks.GetTask(tasks_pb2.GetTaskRequest(task_id=task_id), metadata=caller.metadata)
        assert (await refused(call)).code == "INTERNAL"
        events = tasks_pb2.StreamTaskEventsRequest(task_id=task_id)
        assert (await refused(service.tasks.StreamTaskEvents(events, metadata=caller.metadata))).code == "INTERNAL"


async def test_the_largest_task_has_room_in_envoy() -> None:
    """Payload and result at their limit, metadata and labels too, every byte of them an escape of six in JSON."""
    async with serving() as service:
        caller = await service.workspace()
        text = "\x01" * (structs.BYTES - 30)
        metadata = {f"{number:02}".ljust(128, "\x01"): "\x01" * 1024 for number in range(64)}
        labels = {f"{number:02}".ljust(63, "x"): "\x01" * 128 for number in range(16)}
        payload = as_struct({"text": text})
        task_id = await service.submit(caller, payload=payload, metadata=metadata, labels=labels)
        worker = service.work(caller)
        await worker.hello()
        assert not (await worker.complete((await worker.task()).lease, {"text": text})).error_code
        await worker.end()
        request = tasks_pb2.GetTaskRequest(task_id=task_id, view=FULL)
        detail = await service.tasks.GetTask(request, metadata=caller.metadata, timeout=PATIENCE)
    limit = Settings(listen=Address("127.0.0.1", 1), server=Address("127.0.0.1", 1), plans={}).response_limit
    assert detail.ByteSize() <= answers.BYTES
    assert 6 * detail.ByteSize() < limit
