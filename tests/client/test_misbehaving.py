"""Both clients against a real gRPC server that misbehaves, and over a network that loses replies."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from support.clients import KINDS, Kind, connected
from support.proxy import running_proxy
from support.rogue import answer, bare, detail, events, refuse, running_rogue, silence
from support.service import PATIENCE, serving

from openmcp.chain.v1 import tasks_pb2
from openmcp_chain.client import ApiError, Client, NewTask, Submitted, Violation, WaitTimeout
from openmcp_chain.domain import errors

RUNNING, SUCCEEDED = tasks_pb2.TASK_STATUS_RUNNING, tasks_pb2.TASK_STATUS_SUCCEEDED
CUT = bare(grpc.StatusCode.UNAVAILABLE, "the connection was cut")
both = pytest.mark.parametrize("kind", KINDS)


@both
async def test_an_error_has_all_that_the_server_told(kind: Kind) -> None:
    """Code, status, message, fields and RetryInfo of google.rpc.Status are the ApiError's."""
    fault = errors.InvalidArgument(errors.Violation("type", "is required"))
    async with running_rogue() as rogue, connected(kind, rogue.target) as client:
        rogue.script["SubmitTask"].append(refuse(fault))
        with pytest.raises(ApiError) as refused:
            await client.call("submit", "echo")
    told = refused.value
    assert (told.status, told.code, told.message) == ("INVALID_ARGUMENT", "INVALID_ARGUMENT", "type: is required")
    assert (told.violations, told.retry_after, told.tries) == ((Violation("type", "is required"),), None, 1)
    assert str(told) == "INVALID_ARGUMENT: type: is required"


@both
async def test_an_error_without_details(kind: Kind) -> None:
    """What something on the way says has the status for its code; details that are none do no harm."""

    async def garbled(context: Any) -> None:
        context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff"),))
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not from here")

    async with running_rogue() as rogue, connected(kind, rogue.target) as client:
        rogue.script["GetTask"].extend([bare(grpc.StatusCode.PERMISSION_DENIED, "not from here"), garbled])
        for _ in range(2):
            with pytest.raises(ApiError, match=r"^PERMISSION_DENIED: not from here$"):
                await client.call("get", "task-1")


@both
async def test_tries_again(kind: Kind) -> None:
    """What passes is tried again, with the same request; a token is got once."""
    async with running_rogue() as rogue, connected(kind, rogue.target) as client:
        summary = tasks_pb2.TaskSummary(task_id="task-1")
        draining = errors.ServerDraining()
        draining.retry_after = 0.001
        rogue.script["SubmitTask"].extend([CUT, refuse(errors.Aborted()), refuse(draining), answer(summary)])
        done: Submitted = await client.call("submit", "echo", {"n": 1})
    requests = [received.request for received in rogue.received["SubmitTask"]]
    assert requests == [requests[0]] * 4
    assert (done.task_id, done.request_id, rogue.sign_ins) == ("task-1", requests[0].request_id, 1)


@both
async def test_a_reset_on_the_way(kind: Kind) -> None:
    """An INTERNAL without details is not the service's word but a reset: the call is made again, the stream goes on."""
    reset = bare(grpc.StatusCode.INTERNAL, "Stream removed (RST_STREAM)")
    async with running_rogue() as rogue, connected(kind, rogue.target) as client:
        rogue.script["GetTask"].extend([reset, answer(detail(RUNNING)), refuse(errors.Internal())])
        rogue.streams.extend([events(1, then=reset), events(2, ends=2)])
        assert (await client.call("get", "task-1")).status == "RUNNING"
        assert [event.sequence async for event in client.each("events", "task-1")] == [1, 2]
        with pytest.raises(ApiError, match=r"^INTERNAL: The server made an error"):
            await client.call("get", "task-1")
    assert len(rogue.received["GetTask"]) == 3


@both
async def test_a_lost_answer_makes_no_second_task(kind: Kind) -> None:
    """The network loses a submit's answer, and the connection: the second try gets the first one's task."""
    async with serving() as service:
        caller = await service.workspace()
        who = {"workspace_id": caller.workspace_id, "workspace_secret": caller.secret}
        async with running_proxy(service.port) as proxy, connected(kind, f"127.0.0.1:{proxy.port}", **who) as client:
            proxy.lose_reply_to(b"SubmitTask")
            done = await client.call("submit", "echo")
            assert proxy.lost == 1
            again = await client.call("submit", "echo", request_id=done.request_id)
    assert again.task_id == done.task_id


@both
async def test_the_last_failure_is_told(kind: Kind) -> None:
    """When the next try would come too late, what is raised is why the last one failed, and at once."""
    async with running_rogue() as rogue, connected(kind, rogue.target) as client:
        later = errors.Overloaded()
        later.retry_after = 3600.0
        rogue.script["GetTask"].extend([CUT, refuse(later)])
        with pytest.raises(ApiError, match="OVERLOADED") as refused:
            await client.call("get", "task-1")
    assert (refused.value.tries, refused.value.retry_after) == (2, 3600.0)


@both
async def test_a_silent_server(kind: Kind) -> None:
    """A call that is not answered ends with its timeout."""
    async with running_rogue() as rogue, connected(kind, rogue.target) as client:
        rogue.script["GetTask"].append(silence)
        with pytest.raises(ApiError, match="DEADLINE_EXCEEDED"):
            await client.call("get", "task-1", timeout=0.2)


@both
async def test_nobody_there(kind: Kind) -> None:
    """A server that can't be reached is UNAVAILABLE, when there is no time for another try."""
    async with running_rogue() as rogue:
        target = rogue.target
    async with connected(kind, target, timeout=1.0) as client:
        with pytest.raises(ApiError, match="UNAVAILABLE"):
            await client.call("get", "task-1")


@both
async def test_one_sign_in_at_a_time(kind: Kind) -> None:
    """Twenty first calls at once share one sign-in."""
    async with running_rogue() as rogue, connected(kind, rogue.target) as client:
        rogue.script["GetTask"].extend([answer(detail(RUNNING))] * 20)
        await asyncio.gather(*(client.call("get", "task-1") for _ in range(20)))
    assert (rogue.sign_ins, len(rogue.received["GetTask"])) == (1, 20)


@both
async def test_a_refused_token_is_replaced(kind: Kind) -> None:
    """TOKEN_EXPIRED costs a new sign-in and one more try, and the new token is kept."""
    async with running_rogue() as rogue, connected(kind, rogue.target) as client:
        rogue.script["GetTask"].extend([refuse(errors.TokenExpired()), *[answer(detail(RUNNING))] * 2])
        await client.call("get", "task-1")
        await client.call("get", "task-1")
    assert rogue.tokens("GetTask") == ["token-1", "token-2", "token-2"]


@both
async def test_wrong_credentials(kind: Kind) -> None:
    """A wrong secret is told at once, and not in the error's text."""
    async with running_rogue() as rogue, connected(kind, rogue.target) as client:
        rogue.sign_in.append(refuse(errors.CredentialsInvalid()))
        with pytest.raises(ApiError, match=r"^CREDENTIALS_INVALID: workspace_id and workspace_secret") as refused:
            await client.call("get", "task-1")
    assert "S3CRET" not in repr(refused.value) + repr(client.client)


@both
async def test_who_waits_for_the_sign_in_has_a_timeout_too(kind: Kind) -> None:
    """While another call's sign-in hangs, a call ends with its own timeout."""
    begun, over = asyncio.Event(), asyncio.Event()

    async def hang(context: Any) -> None:
        begun.set()
        await over.wait()
        await refuse(errors.CredentialsInvalid())(context)

    async with running_rogue() as rogue, connected(kind, rogue.target) as client:
        rogue.sign_in.append(hang)
        first = asyncio.ensure_future(client.call("get", "task-1"))
        await begun.wait()
        with pytest.raises(ApiError, match="DEADLINE_EXCEEDED: no token"):
            await client.call("get", "task-1", timeout=0.1)
        over.set()
        with pytest.raises(ApiError, match="CREDENTIALS_INVALID"):
            await first


@both
async def test_a_call_is_part_of_the_callers_trace(kind: Kind) -> None:
    """A call that is made inside a span tells the server which, by W3C's `traceparent`; its state is not passed on."""
    state = trace.TraceState([("vendor", "S3CRET")])
    span = trace.NonRecordingSpan(trace.SpanContext(0xABC, 0xDEF, is_remote=False, trace_state=state))
    async with running_rogue() as rogue, connected(kind, rogue.target) as client:
        rogue.script["GetTask"].extend([answer(detail(RUNNING))] * 2)
        await client.call("get", "task-1")
        with trace.use_span(span):
            await client.call("get", "task-1")
    without, within = (received.metadata for received in rogue.received["GetTask"])
    assert "traceparent" not in without
    assert within["traceparent"] == f"00-{0xABC:032x}-{0xDEF:016x}-00"
    assert "tracestate" not in within


@both
@pytest.mark.parametrize("cut", range(5))
async def test_events_go_on_after_a_cut_at_any_place(kind: Kind, cut: int) -> None:
    """Wherever the stream is cut, by an error or an early end, every event comes once and in order."""
    for act in (CUT, None):
        async with running_rogue() as rogue, connected(kind, rogue.target) as client:
            before, after = range(1, cut + 1), range(cut + 1, 5)
            if cut or act:
                rogue.streams.append(events(*before, then=act, ends=4))
            rogue.streams.append(events(*after, ends=4))
            had = [event.sequence async for event in client.each("events", "task-1")]
        assert had == [1, 2, 3, 4]
        asked = [received.request.after_sequence for received in rogue.received["StreamTaskEvents"]]
        ended_well = act is None and cut in (0, 4)
        assert asked == ([0] if ended_well else [0, cut])


@both
async def test_events_with_a_new_token(kind: Kind) -> None:
    """A stream that ends because its token was taken back goes on with a new one."""
    async with running_rogue() as rogue, connected(kind, rogue.target) as client:
        rogue.streams.extend([events(1, then=refuse(errors.TokenInvalid())), events(2, ends=2)])
        assert [event.sequence async for event in client.each("events", "task-1")] == [1, 2]
    assert rogue.tokens("StreamTaskEvents") == ["token-1", "token-2"]


@both
async def test_events_end_when_nobody_wants_them(kind: Kind) -> None:
    """Who stops iterating ends the stream, on the server as well."""
    gone = asyncio.Event()

    async def watched(context: Any) -> None:
        context.add_done_callback(lambda _: gone.set())
        await silence(context)

    async with running_rogue() as rogue, connected(kind, rogue.target) as client:
        rogue.streams.append(events(1, 2, then=watched))
        iterator = client.each("events", "task-1")
        async for event in iterator:
            if event.sequence == 2:
                break
        await iterator.aclose()  # type: ignore[attr-defined]
        async with asyncio.timeout(PATIENCE):
            await gone.wait()


@both
async def test_events_have_a_timeout(kind: Kind) -> None:
    """Events that don't come to an end in time are given up."""
    async with running_rogue() as rogue, connected(kind, rogue.target) as client:
        rogue.streams.append(events(1, then=silence))
        with pytest.raises(WaitTimeout, match="task-1 has not ended in time"):
            [event async for event in client.each("events", "task-1", timeout=0.3)]


@both
async def test_a_status_that_is_news_to_us(kind: Kind) -> None:
    """A status of a later version is UNKNOWN and no end: the client waits on."""
    async with running_rogue() as rogue, connected(kind, rogue.target) as client:
        strange: Any = 17
        rogue.script["WaitTask"].extend([answer(detail(strange)), answer(detail(SUCCEEDED))])
        rogue.script["GetTask"].append(answer(detail(strange)))
        assert (await client.call("get", "task-1")).status == "UNKNOWN"
        assert (await client.call("wait", "task-1", timeout=PATIENCE)).status == "SUCCEEDED"


@both
async def test_a_batch_tells_of_each(kind: Kind) -> None:
    """Each task of a batch is accepted or has its own error, in the order in which they were given."""
    async with running_rogue() as rogue, connected(kind, rogue.target) as client:
        results = tasks_pb2.BatchSubmitTasksResponse()
        results.results.add().task.task_id = "task-1"
        results.results.add().error.code = "INVALID_ARGUMENT"
        rogue.script["BatchSubmitTasks"].append(answer(results))
        one, other = await client.call("batch_submit", [NewTask("echo"), NewTask("")])
    sent = rogue.received["BatchSubmitTasks"][0].request.requests
    assert (one.task_id, one.request_id, other.code) == ("task-1", sent[0].request_id, "INVALID_ARGUMENT")
    assert sent[0].request_id != sent[1].request_id


async def test_a_cancelled_call_is_given_up() -> None:
    """Cancelling the asyncio task that waits cancels the call, and leaves the client of use to others."""
    gone, begun = asyncio.Event(), asyncio.Event()

    async def watched(context: Any) -> None:
        context.add_done_callback(lambda _: gone.set())
        begun.set()
        await silence(context)

    async with running_rogue() as rogue, connected("async", rogue.target) as client:
        rogue.sign_in.append(watched)
        call = asyncio.ensure_future(client.call("get", "task-1"))
        await begun.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        async with asyncio.timeout(PATIENCE):
            await gone.wait()
        rogue.script["GetTask"].append(answer(detail(RUNNING)))
        assert (await client.call("get", "task-1")).status == "RUNNING"


async def test_threads_share_a_client() -> None:
    """Calls from many threads go side by side: none waits for another to end."""
    together = asyncio.Barrier(8)

    async def meet(_: Any) -> tasks_pb2.TaskDetail:
        await together.wait()
        return detail(RUNNING)

    async with running_rogue() as rogue:
        rogue.script["GetTask"].extend([meet] * 8)
        with (
            Client(rogue.target, workspace_id="ws-1", workspace_secret="S3CRET") as client,
            ThreadPoolExecutor(8) as pool,
        ):
            calls = [asyncio.wrap_future(pool.submit(client.get, "task-1")) for _ in range(8)]
            tasks = await asyncio.gather(*calls)
    assert {task.status for task in tasks} == {"RUNNING"}
