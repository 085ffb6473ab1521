"""SIGTERM of the server under load, through Envoy: every call is answered, or refused as one that may be repeated."""

import os
import signal
import threading
import time
from collections import Counter

import grpc
import httpx
import pytest
from support.rest import Rest
from support.stack import StackInfo
from support.workspaces import Credentials

from openmcp.chain.v1 import tasks_pb2, tasks_pb2_grpc

pytestmark = pytest.mark.slow

CALLERS = 4
"""Of each kind."""
CALLS_BEFORE = 50
"""The load is on when so many calls of each kind have been answered."""
PAUSE_SECONDS = 0.05
SECONDS = 30.0


def test_no_call_is_lost_to_a_shutdown(stack: StackInfo, credentials: Credentials) -> None:
    """Callers see answers and UNAVAILABLE alone, and answers again once the server is back."""
    seen: dict[str, Counter[str]] = {"rest": Counter(), "grpc": Counter()}
    done = threading.Event()
    with Rest(stack.rest_url, credentials) as rest:
        metadata = (("authorization", f"Bearer {rest.token}"),)

        def by_rest() -> None:
            with httpx.Client(base_url=stack.rest_url, headers=rest.http.headers, timeout=30, trust_env=False) as http:
                while not done.is_set():
                    answer = http.post("/v1/tasks", json={"type": "nobodys"})
                    seen["rest"][str(answer.status_code)] += 1
                    if answer.is_error:
                        done.wait(PAUSE_SECONDS)

        def by_grpc() -> None:
            options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
            with grpc.insecure_channel(stack.envoy_grpc_target, options) as channel:
                stub = tasks_pb2_grpc.TaskServiceStub(channel)
                request = tasks_pb2.SubmitTaskRequest(type="nobodys")
                while not done.is_set():
                    try:
                        stub.SubmitTask(request, metadata=metadata, timeout=30)
                        seen["grpc"]["OK"] += 1
                    except grpc.RpcError as error:
                        seen["grpc"][error.code().name] += 1
                        done.wait(PAUSE_SECONDS)

        callers = [threading.Thread(target=kind) for kind in (by_rest, by_grpc) for _ in range(CALLERS)]
        for caller in callers:
            caller.start()
        try:
            _until_answered(seen, CALLS_BEFORE)
            server = stack.pids["server"]
            os.kill(server, signal.SIGTERM)
            stack.until_restarted("server", server)
            _until_answered(seen, CALLS_BEFORE)
        finally:
            done.set()
            for caller in callers:
                caller.join()
    assert set(seen["rest"]) <= {"200", "503"}
    assert set(seen["grpc"]) <= {"OK", "UNAVAILABLE"}


def _until_answered(seen: dict[str, Counter[str]], calls: int) -> None:
    """Waits until so many more calls of each kind have been answered."""
    wanted = [(seen["rest"], "200", seen["rest"]["200"] + calls), (seen["grpc"], "OK", seen["grpc"]["OK"] + calls)]
    end = time.monotonic() + SECONDS
    while any(counter[answered] < number for counter, answered, number in wanted):
        assert time.monotonic() < end, seen
        time.sleep(PAUSE_SECONDS)
