"""The two ways into a running stack, behind one face: REST through Envoy, and native gRPC to the server itself.

A test of who may do what asks both. Any method of the contract is called by its path, from its descriptor alone; one
that has no REST route goes through Envoy as gRPC.
"""

import json
import re
import urllib.parse
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import grpc
import httpx
from contract.errorshape import grpc_error, rest_error
from google.api import annotations_pb2
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_status import rpc_status
from support.methods import METHODS
from support.plain import NOBODY

from openmcp_chain.stack.envoy import view

SECONDS = 30.0
Headers = Sequence[tuple[str, str]]
OK = "OK"


@dataclass(frozen=True, slots=True)
class Told:
    """What a call was answered, whichever way it went."""

    code: str
    """Of the error table; `OK` for an answer."""
    message: str = ""
    details: tuple[Mapping[str, Any], ...] = ()
    body: Any = None
    """The answer as JSON has it; a list of them, if the method streams."""

    def naming(self, name: str, instead: str = "<id>") -> "Told":
        """The same with another name for a thing, to compare with what was told of something else."""
        text = json.dumps([self.message, self.details])
        message, details = json.loads(re.sub(re.escape(name), instead, text, flags=re.IGNORECASE))
        return replace(self, message=message, details=tuple(details))

    @property
    def fields(self) -> list[str]:
        """The fields that a refusal names."""
        return [
            violation["field"]
            for detail in self.details
            if detail["@type"].endswith("BadRequest")
            for violation in detail["field_violations"]
        ]

    @property
    def text(self) -> str:
        """All of it, to look for what must not be there."""
        return json.dumps([self.code, self.message, self.details, self.body])


class Door(ABC):
    """One way in."""

    name: str

    @abstractmethod
    def call(self, path: str, *requests: Message, headers: Headers = ()) -> Told:
        """Calls the method. A stream that may go on for ever is left after its first message."""

    def ask(self, path: str, token: str = "", /, **fields: Any) -> Told:
        """Calls the method with a request of these fields, and this token if there is one."""
        request = GetMessageClass(METHODS[path].input_type)(**fields)
        return self.call(path, request, headers=bearer(token) if token else ())


def bearer(token: str) -> Headers:
    return [("authorization", f"Bearer {token}")]


class Grpc(Door):
    """gRPC on a channel."""

    def __init__(self, name: str, channel: grpc.Channel) -> None:
        self.name = name
        self.channel = channel

    def call(self, path: str, *requests: Message, headers: Headers = ()) -> Told:
        return self.send(path, [request.SerializeToString() for request in requests], headers)

    def send(self, path: str, requests: Sequence[bytes], headers: Headers = ()) -> Told:
        """Calls the method with any bytes."""
        method = METHODS.get(path)
        channel: Any = self.channel
        opened = channel.stream_stream(path)(iter(requests), metadata=tuple(headers), timeout=SECONDS)
        answers = []
        try:
            for data in opened:
                answers.append(_decoded(method, data))
                if method is not None and method.server_streaming and not method.client_streaming:
                    opened.cancel()
                    break
        except grpc.RpcError as error:
            status = rpc_status.from_call(error)
            return Told(
                grpc_error(error).code,
                status.message,
                tuple(MessageToDict(detail, preserving_proto_field_name=True) for detail in status.details),
            )
        streams = method is not None and method.server_streaming
        return Told(OK, body=answers if streams else answers[0])


class Rest(Door):
    """REST through Envoy."""

    def __init__(self, url: str, channel: grpc.Channel) -> None:
        """`channel`: to Envoy too, for what has no route."""
        self.name = "envoy"
        self.http = httpx.Client(base_url=url, timeout=SECONDS, trust_env=False, verify=NOBODY)
        self.grpc = Grpc("envoy", channel)

    def call(self, path: str, *requests: Message, headers: Headers = ()) -> Told:
        if route(path) is None:
            return self.grpc.call(path, *requests, headers=headers)
        return told(self.http, *rendered(path, *requests), headers=headers)


def told(http: httpx.Client, verb: str, target: str, body: Any = None, headers: Headers = ()) -> Told:
    """What REST answers; of an event stream, its first message."""
    request = http.build_request(verb, target, headers=list(headers), json=body)
    answer = http.send(request, stream=True)
    try:
        if answer.headers.get("content-type") == "text/event-stream":
            return Told(OK, body=[next(answer.iter_text())])
        answer.read()
    finally:
        answer.close()
    if answer.status_code < 400:
        return Told(OK, body=answer.json() if answer.content else None)
    error = rest_error(answer.status_code, answer.headers["content-type"], answer.content)
    return Told(error["code"], error["message"], tuple(error["details"]))


def route(path: str) -> tuple[str, str, bool] | None:
    """A method's verb, path template, and whether its request is a body; None if REST does not have it."""
    rule = METHODS[path].GetOptions().Extensions[annotations_pb2.http]
    verb = rule.WhichOneof("pattern")
    return (verb.upper(), getattr(rule, verb), rule.body == "*") if verb else None


def rendered(path: str, request: Message) -> tuple[str, str, Any]:
    """A request as REST has it: verb, target, and body (None if the method has none)."""
    found = route(path)
    assert found
    verb, template, has_body = found
    fields = MessageToDict(request, preserving_proto_field_name=True)
    for field in request.DESCRIPTOR.fields:
        if field.enum_type is not None and field.name in fields:
            fields[field.name] = fields[field.name].removeprefix(view.SHORT_ENUMS.get(field.enum_type.full_name, ""))

    def fill(match: re.Match[str]) -> str:
        # Envoy takes no empty segment: an id that is not given is one that nobody has.
        return urllib.parse.quote(str(fields.pop(match[1], "") or "-"), safe="")

    target = re.sub(r"\{(\w+)\}", fill, template)
    if has_body:
        return verb, target, fields
    query = urllib.parse.urlencode(list(_flat(fields)))
    return verb, f"{target}?{query}" if query else target, None


def _flat(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in fields.items():
        for one in value if isinstance(value, list) else [value]:
            yield name, str(one)


def _decoded(method: MethodDescriptor | None, data: bytes) -> Any:
    assert method is not None, "nothing answers what is not served"
    answer = GetMessageClass(method.output_type).FromString(data)
    return MessageToDict(answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
