"""The sample: one real task through the whole stack, as a client of each surface would do it, shown step by step."""

import asyncio
import hashlib
import json
import shlex
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import grpc
import grpc.aio
import httpx
from google.protobuf.json_format import MessageToDict

from openmcp.chain.v1 import tasks_pb2, tasks_pb2_grpc
from openmcp_chain.client.connection import Server
from openmcp_chain.stack import demo
from openmcp_chain.stack.console import Console
from openmcp_chain.stack.state import DataFolder, Info

_TASK_SECONDS = 60.0
"""How long the task may take: for ever, if its type is paused or its worker keeps dying."""
_ANSWER_SECONDS = 60.0
"""How long any single answer may take. A stream may take longer: its pings are answers."""
_ORDERS = """\
order,customer,country,amount
1001,Ada,GB,120.50
1002,Kwame,GH,75.00
1003,Mei,CN,310.25
1004,Ada,GB,18.75
1005,Sofía,ES,99.90
1006,Kwame,GH,240.00
1007,Mei,CN,42.10
1008,Olu,NG,150.00
1009,Ada,GB,61.00
1010,Sofía,ES,12.35
"""
_SQL = (
    "SELECT country, count(*) AS orders, round(sum(amount), 2) AS revenue "
    "FROM input GROUP BY country ORDER BY revenue DESC"
)


class SampleError(Exception):
    """The sample didn't succeed. Its message is for people."""


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One message of an event stream (WHATWG HTML, 9.2.6)."""

    id: str
    event: str
    data: str


async def run(info: Info, folder: DataFolder, console: Console) -> bool:
    """Runs the sample and shows it. Returns whether it succeeded; whatever went wrong has been shown then."""
    headers = {"accept": "application/json"}
    trust = ssl.create_default_context(cafile=info.ca_file) if info.ca_file else False
    async with httpx.AsyncClient(
        base_url=info.rest_url, headers=headers, timeout=_ANSWER_SECONDS, trust_env=False, verify=trust
    ) as rest:
        try:
            token = await _sign_in(rest, info)
            rest.headers["authorization"] = f"Bearer {token}"
            await _show_earlier(rest, folder, console)
            task_id = await _submit(rest, info, console)
            await _follow_to_its_end(rest, task_id, console)
            detail = await _json(await rest.get(f"/v1/tasks/{task_id}"))
            _show_result(detail, console)
            await _show_by_grpc(info, token, detail, console)
        except SampleError as error:
            console.warning(f"  the sample failed: {error}")
            return False
        except (httpx.HTTPError, grpc.aio.AioRpcError, OSError, ValueError, LookupError) as error:
            console.warning(f"  the sample failed: {type(error).__name__}; the logs in {folder.logs} say more")
            return False
    folder.remember(replace(folder.recall(), last_task=task_id))
    _show_commands(info, task_id, console)
    return True


async def _sign_in(rest: httpx.AsyncClient, info: Info) -> str:
    credentials = {"workspace_id": info.workspace_id, "workspace_secret": info.workspace_secret}
    answer = await _json(await rest.post("/v1/auth/token", json=credentials))
    return str(answer["access_token"])


async def _show_earlier(rest: httpx.AsyncClient, folder: DataFolder, console: Console) -> None:
    """The sample task of an earlier start on this data folder, if it is still within its retention."""
    earlier = folder.recall().last_task
    if not earlier:
        return
    answer = await rest.get(f"/v1/tasks/{earlier}")
    if answer.status_code == httpx.codes.OK:
        task = answer.json()
        console.heading("Still there, from an earlier start")
        console.row("task", earlier, f"{task['status']}, submitted {task['submitted_at']}")


async def _submit(rest: httpx.AsyncClient, info: Info, console: Console) -> str:
    source, target = Path(info.files_dir) / "orders.csv", Path(info.files_dir) / "revenue.json"
    source.write_text(_ORDERS, encoding="utf-8")
    task = {
        "workspace_id": info.workspace_id,
        "type": demo.TASK_TYPE,
        "payload": {"input_uri": source.as_uri(), "sql": _SQL, "output_uri": target.as_uri()},
        "metadata": {"priority": "high"},
    }
    console.heading("A sample task, submitted through REST")
    summary = await _json(await rest.post("/v1/tasks", json=task))
    console.row("POST /v1/tasks", str(summary["task_id"]), summary["status"])
    console.row("input_uri", source.as_uri())
    console.row("sql", _SQL)
    return str(summary["task_id"])


async def _follow_to_its_end(rest: httpx.AsyncClient, task_id: str, console: Console) -> None:
    try:
        async with asyncio.timeout(_TASK_SECONDS):
            await _follow(rest, task_id, console)
    except TimeoutError:
        raise SampleError(f"the task has not ended after {_TASK_SECONDS:g} s") from None


async def _follow(rest: httpx.AsyncClient, task_id: str, console: Console) -> None:
    """Shows the task's events as they arrive, until the terminal one."""
    console.heading("Its events, as they arrive by SSE")
    path, accept = f"/v1/tasks/{task_id}/events", {"accept": "text/event-stream"}
    began: datetime | None = None
    async with rest.stream("GET", path, headers=accept) as answer:
        if answer.status_code != httpx.codes.OK:
            await answer.aread()
            await _json(answer)
        async for message in _messages(answer.aiter_lines()):
            event = json.loads(message.data)
            if "error" in event:
                raise SampleError(f"the stream broke off: {event['error']['code']}")
            at = datetime.fromisoformat(event["occurred_at"])
            began = began or at
            context = ", ".join(f"{name} {_plain(value)}" for name, value in (event.get("context") or {}).items())
            console.row(f"{message.id}  {event['status']}", f"+{(at - began).total_seconds():.3f} s", context)


def _show_result(detail: dict[str, Any], console: Console) -> None:
    """The result; the artifact is read and hashed, to see that it is what the result says."""
    if detail["status"] != "SUCCEEDED":
        raise SampleError(f"the task ended {detail['status']}: {detail['error']}")
    result = detail["result"]
    console.heading("Its result")
    for name in ("artifact_uri", "checksum", *sorted(result.keys() - {"artifact_uri", "checksum"})):
        console.row(name, _plain(result[name]))
    artifact = Path(unquote(urlsplit(result["artifact_uri"]).path)).read_bytes()
    if result["checksum"] != f"sha256:{hashlib.sha256(artifact).hexdigest()}":
        raise SampleError("the artifact's checksum is not that of the result")
    for row in json.loads(artifact):
        console.row("", json.dumps(row, ensure_ascii=False))


async def _show_by_grpc(info: Info, token: str, detail: dict[str, Any], console: Console) -> None:
    """The same task, read by gRPC from the server itself."""
    server = Server(info.grpc_target, ca=info.ca_file, certificate=info.cert_file, key=info.key_file)
    async with server.channel() as channel:
        stub: tasks_pb2_grpc.TaskServiceAsyncStub = tasks_pb2_grpc.TaskServiceStub(channel)
        task = await stub.GetTask(
            tasks_pb2.GetTaskRequest(task_id=detail["task_id"]),
            metadata=(("authorization", f"Bearer {token}"),),
            timeout=_ANSWER_SECONDS,
        )
    if MessageToDict(task.result) != detail["result"]:
        raise SampleError("gRPC shows another result than REST")
    console.heading("The same task by gRPC")
    console.row("GetTask", tasks_pb2.TaskStatus.Name(task.status), f"{task.task_id}, the same result")


def _show_commands(info: Info, task_id: str, console: Console) -> None:
    credentials = json.dumps({"workspace_id": info.workspace_id, "workspace_secret": info.workspace_secret})
    task = json.dumps(
        {"type": demo.TASK_TYPE, "payload": {"input_uri": (Path(info.files_dir) / "orders.csv").as_uri()}}
    )
    bearer = '-H "authorization: Bearer $TOKEN"'
    is_json = "-H 'content-type: application/json'"
    service = "openmcp.chain.v1.TaskService"
    curl, grpcurl = "curl -s", "grpcurl -plaintext"
    if info.ca_file and info.cert_file and info.key_file:
        ca, certificate, key = map(shlex.quote, (info.ca_file, info.cert_file, info.key_file))
        curl, grpcurl = f"curl -s --cacert {ca}", f"grpcurl -cacert {ca} -cert {certificate} -key {key}"
    console.heading("Your turn: paste these")
    find_it = 'sed \'s/.*"access_token": *"\\([^"]*\\)".*/\\1/\''
    console.paste(
        "a token, good for 15 minutes",
        [f"TOKEN=$({curl} {info.rest_url}/v1/auth/token {is_json} -d '{credentials}' | {find_it})"],
    )
    console.paste(
        "REST: a task, its state, its events",
        [
            f"{curl} {info.rest_url}/v1/tasks {bearer} {is_json} -d '{task}'",
            f"{curl} {info.rest_url}/v1/tasks/{task_id} {bearer}",
            f"{curl} -N {info.rest_url}/v1/tasks/{task_id}/events {bearer}",
        ],
    )
    console.paste(
        "gRPC: the same, through reflection",
        [
            f"{grpcurl} {bearer} -d '{task}' {info.grpc_target} {service}/SubmitTask",
            f'{grpcurl} {bearer} -d \'{{"task_id":"{task_id}"}}\' {info.grpc_target} {service}/GetTask',
        ],
    )


async def _messages(lines: AsyncIterator[str]) -> AsyncIterator[ServerSentEvent]:
    """The messages of an event stream; comments and fields that we don't use are passed over."""
    fields: dict[str, str] = {}
    async for line in lines:
        if not line:
            if "data" in fields:
                yield ServerSentEvent(fields.get("id", ""), fields.get("event", "message"), fields["data"])
            fields = {}
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        fields[name] = f"{fields[name]}\n{value}" if name == "data" and "data" in fields else value


def _plain(value: object) -> str:
    """As a person would write it: every number of a Struct is a double."""
    return f"{value:.15g}" if isinstance(value, float) else str(value)


async def _json(answer: httpx.Response) -> dict[str, Any]:
    """The body of a good answer. Raises SampleError with the service's own words for any other."""
    if answer.status_code == httpx.codes.OK:
        return dict(answer.json())
    try:
        raise SampleError(f"{answer.request.url.path}: {answer.json()['error']['message']}")
    except (ValueError, LookupError, TypeError):
        raise SampleError(f"{answer.request.url.path} answered {answer.status_code}") from None
