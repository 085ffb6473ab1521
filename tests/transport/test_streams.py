"""Event streams on the wire, typed and as Server-Sent Events."""

import json
from typing import Any

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.json_format import MessageToDict
from support.service import PATIENCE, Caller, ManualClock, Service, refused, serving

from openmcp.chain.v1 import rest_pb2, tasks_pb2
from openmcp_chain.store.memory import MemoryStore
from openmcp_chain.transport import rest
from openmcp_chain.transport.tasks import PART_BYTES


async def ended_task(service: Service, caller: Caller) -> str:
    """A task that failed twice and then succeeded: seven events."""
    service.app.leases._chance = lambda: 0.0
    operator = await service.operator("echo")
    worker = service.work(operator)
    await worker.hello()
    task_id = await service.submit(caller)
    for _ in range(2):
        ack = await worker.fail((await worker.task()).lease, 'CODE "quoted"\n')
        assert not ack.error_code
    await worker.complete((await worker.task()).lease, {"n": 1})
    await worker.end()
    return task_id


async def served(service: Service, caller: Caller, task_id: str, *, after: int = 0, last_id: str = "") -> str:
    """The whole of a finished task's SSE stream."""
    request = rest_pb2.ServeTaskEventsRequest(task_id=task_id, after_sequence=after)
    metadata = (*caller.metadata, *([("last-event-id", last_id)] if last_id else []))
    call = service.rest.ServeTaskEvents(request, metadata=metadata, timeout=PATIENCE)
    messages = [message async for message in call]
    assert [message.content_type for message in messages] in ([], ["text/event-stream", *[""] * (len(messages) - 1)])
    return b"".join(message.data for message in messages).decode()


def parsed(text: str) -> list[dict[str, str]]:
    """The messages of an event stream, as an EventSource reads them (WHATWG HTML, 9.2.6)."""
    blocks = [block for block in text.split("\n\n") if block]
    return [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]


async def test_typed_stream_resumes_at_every_place() -> None:
    """A finished task is replayed from any sequence on, in order and without a gap, and the stream ends."""
    async with serving() as service:
        caller = await service.workspace()
        task_id = await ended_task(service, caller)
        for after in range(8):
            events = await service.events(caller, task_id, after)
            assert [event.sequence for event in events] == list(range(after + 1, 8))
            assert {event.task_id for event in events} <= {task_id}
        times = [event.occurred_at.ToNanoseconds() for event in await service.events(caller, task_id)]
    assert times == sorted(times)


@pytest.mark.parametrize(
    ("after", "code"), [(8, "SEQUENCE_OUT_OF_RANGE"), (2**31 - 1, "SEQUENCE_OUT_OF_RANGE"), (-1, "INVALID_ARGUMENT")]
)
async def test_sequence_that_never_was_is_refused(after: int, code: str) -> None:
    """Beyond the last event: OUT_OF_RANGE. Negative: INVALID_ARGUMENT. For both kinds of stream."""
    async with serving() as service:
        caller = await service.workspace()
        task_id = await ended_task(service, caller)
        typed = tasks_pb2.StreamTaskEventsRequest(task_id=task_id, after_sequence=after)
        sse = rest_pb2.ServeTaskEventsRequest(task_id=task_id, after_sequence=after)
        for call in (
            service.tasks.StreamTaskEvents(typed, metadata=caller.metadata, timeout=PATIENCE),
            service.rest.ServeTaskEvents(sse, metadata=caller.metadata, timeout=PATIENCE),
        ):
            told = await refused(call)
            assert (told.code, told.fields) == (code, ["after_sequence"])


@pytest.mark.parametrize(("part", "count"), [(PART_BYTES, 1), (500, 4), (1, 7)])
async def test_sse_says_what_the_typed_stream_says(part: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each message's `id` is the sequence, its `data` the JSON of the TaskEvent with the status's short name.

    In how many parts it comes is for flow control: what nobody has read is not made yet.
    """
    parts = 0

    def body(**fields: Any) -> HttpBody:
        nonlocal parts
        parts += 1
        return HttpBody(**fields)

    monkeypatch.setattr(rest, "SENT_BYTES", part)
    monkeypatch.setattr(rest, "HttpBody", body)
    async with serving() as service:
        caller = await service.workspace()
        task_id = await ended_task(service, caller)
        typed = await service.events(caller, task_id)
        first, *messages = parsed(await served(service, caller, task_id))
    assert parts == count
    assert first == {"retry": "1000"}
    assert [message["id"] for message in messages] == [str(event.sequence) for event in typed]
    assert {message["event"] for message in messages} == {"status"}
    for message, event in zip(messages, typed, strict=True):
        expected = MessageToDict(event, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        expected["status"] = expected["status"].removeprefix("TASK_STATUS_")
        assert json.loads(message["data"]) == expected


async def test_last_event_id_resumes_and_wins() -> None:
    """`Last-Event-ID` resumes after that event, whatever `after_sequence` says; 0 means from the beginning."""
    async with serving() as service:
        caller = await service.workspace()
        task_id = await ended_task(service, caller)
        for last_id in range(7):
            text = await served(service, caller, task_id, after=3, last_id=str(last_id))
            ids = [int(message["id"]) for message in parsed(text)[1:]]
            assert ids == list(range(last_id + 1, 8))


@pytest.mark.parametrize("last_id", ["x", "-1", "1.5", "1e3", "9999999999", "1 OR 1=1", "0x1"])
async def test_last_event_id_that_is_none_of_ours_is_refused(last_id: str) -> None:
    """What can't be an id of this stream is INVALID_ARGUMENT and names the header."""
    async with serving() as service:
        caller = await service.workspace()
        task_id = await ended_task(service, caller)
        request = rest_pb2.ServeTaskEventsRequest(task_id=task_id)
        metadata = (*caller.metadata, ("last-event-id", last_id))
        told = await refused(service.rest.ServeTaskEvents(request, metadata=metadata, timeout=PATIENCE))
    assert (told.status, told.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["Last-Event-ID"])


async def test_last_event_id_beyond_the_last_event_is_named() -> None:
    """A header that names an event which never was is blamed itself, not a field that the caller did not send."""
    async with serving() as service:
        caller = await service.workspace()
        task_id = await ended_task(service, caller)
        metadata = (*caller.metadata, ("last-event-id", "8"))
        request = rest_pb2.ServeTaskEventsRequest(task_id=task_id, after_sequence=1)
        told = await refused(service.rest.ServeTaskEvents(request, metadata=metadata, timeout=PATIENCE))
    assert (told.code, told.fields) == ("SEQUENCE_OUT_OF_RANGE", ["Last-Event-ID"])
    assert told.message == "Last-Event-ID: 8 is beyond the task's last event, 7"


@pytest.mark.parametrize("end", ["drain", "expiry", "fault"])
async def test_an_early_end_can_be_told(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that ends before its task says why, in an event of its own and in REST's shape, and by its status."""
    clock = ManualClock()
    async with serving(now=clock) as service:
        service.app.events.poll = 0.02
        caller = await service.workspace()
        task_id = await service.submit(caller)
        request = rest_pb2.ServeTaskEventsRequest(task_id=task_id)
        call: Any = service.rest.ServeTaskEvents(request, metadata=caller.metadata, timeout=PATIENCE)
        got = [await call.read()]
        if end == "drain":
            service.app.events.drain()
        elif end == "expiry":
            clock.advance(16 * 60)
        else:
            monkeypatch.setattr(service.app.events, "is_as_of", None)
        got.append(await call.read())
        told = await refused(call)
    assert told.code == {"drain": "SERVER_DRAINING", "expiry": "TOKEN_EXPIRED", "fault": "INTERNAL"}[end]
    (last,) = parsed(got[1].data.decode())
    assert (last["event"], "id" in last) == ("error", False)
    error = json.loads(last["data"])["error"]
    assert (error["code"], error["message"]) == (told.code, told.message)
    assert error["details"][0]["reason"] == told.code


async def test_whoever_comes_back_after_the_last_event_is_told_to_stop() -> None:
    """After the terminal event the stream is empty, with the header that Envoy makes 204 of."""
    async with serving() as service:
        caller = await service.workspace()
        task_id = await ended_task(service, caller)
        metadata = (*caller.metadata, ("last-event-id", "7"))
        call: Any = service.rest.ServeTaskEvents(
            rest_pb2.ServeTaskEventsRequest(task_id=task_id), metadata=metadata, timeout=PATIENCE
        )
        assert await call.read() is grpc.aio.EOF
        assert dict(await call.initial_metadata())["x-openmcp-end-of-stream"] == "1"


async def test_silent_stream_opens_at_once_and_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream on which nothing happens begins at once, so that an EventSource is open, and pings from then on."""
    monkeypatch.setattr(rest, "PING_SECONDS", 0.01)
    async with serving() as service:
        caller = await service.workspace()
        task_id = await service.submit(caller)
        request = rest_pb2.ServeTaskEventsRequest(task_id=task_id, after_sequence=1)
        call: Any = service.rest.ServeTaskEvents(request, metadata=caller.metadata, timeout=PATIENCE)
        got = [await call.read() for _ in range(3)]
        call.cancel()
    assert got[0].content_type == "text/event-stream"
    assert got[0].data.startswith(b"retry: 1000\n\n")
    assert got[1].data == got[2].data == b": ping\n\n"


async def test_change_by_another_process_is_seen() -> None:
    """A stream on one server shows what a worker on another reports."""
    store = MemoryStore()
    async with serving(store) as here, serving(store) as there:
        here.app.events.poll = 0.01
        caller = await here.workspace()
        task_id = await here.submit(caller)
        stream: Any = here.tasks.StreamTaskEvents(
            tasks_pb2.StreamTaskEventsRequest(task_id=task_id), metadata=caller.metadata, timeout=PATIENCE
        )
        assert (await stream.read()).sequence == 1
        worker = there.work(await there.operator("echo"))
        await worker.hello()
        await worker.complete((await worker.task()).lease)
        assert [(await stream.read()).sequence, (await stream.read()).sequence] == [2, 3]
        assert await stream.read() is grpc.aio.EOF
        await worker.end()


async def test_plan_limits_streams() -> None:
    """A `free` workspace has ten streams open at most, of both kinds together; then TOO_MANY_STREAMS with a retry."""
    async with serving() as service:
        caller, other = await service.workspace("free"), await service.workspace("free")
        task_id, others = await service.submit(caller), await service.submit(other)
        typed = tasks_pb2.StreamTaskEventsRequest(task_id=task_id)
        sse = rest_pb2.ServeTaskEventsRequest(task_id=task_id)
        calls: list[Any] = [service.tasks.StreamTaskEvents(typed, metadata=caller.metadata) for _ in range(5)]
        calls += [service.rest.ServeTaskEvents(sse, metadata=caller.metadata) for _ in range(5)]
        for call in calls:
            await call.read()
        for again in (
            service.tasks.StreamTaskEvents(typed, metadata=caller.metadata),
            service.rest.ServeTaskEvents(sse, metadata=caller.metadata),
        ):
            told = await refused(again)
            assert (told.status, told.code) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS")
            assert "RetryInfo" in told.details
        unaffected: Any = service.tasks.StreamTaskEvents(
            tasks_pb2.StreamTaskEventsRequest(task_id=others), metadata=other.metadata
        )
        await unaffected.read()
        for call in (*calls, unaffected):
            call.cancel()


async def test_task_id_is_found_in_either_case() -> None:
    """An id in upper case names the same task for every method; what comes back spells it as it was made."""
    async with serving() as service:
        caller = await service.workspace()
        task_id = await ended_task(service, caller)
        upper = task_id.upper()
        assert (await service.get(caller, upper)).task_id == task_id
        assert {event.task_id for event in await service.events(caller, upper)} == {task_id}
        messages = parsed(await served(service, caller, upper))[1:]
    assert {json.loads(message["data"])["task_id"] for message in messages} == {task_id}
