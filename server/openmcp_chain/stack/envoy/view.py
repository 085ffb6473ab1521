"""The REST view: the contract's descriptors as Envoy's JSON transcoder gets them.

It differs from the contract in names only, so every message is the same on the wire: `TaskStatus` loses its values'
prefix (REST shows `PENDING`, gRPC `TASK_STATUS_PENDING`), and the details of errors get the contract's snake_case.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from google.api import annotations_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor, MethodDescriptor, ServiceDescriptor
from google.rpc import error_details_pb2, status_pb2

from openmcp.chain.v1 import auth_pb2, errors_pb2, rest_pb2, tasks_pb2, workers_pb2, workspaces_pb2

CONTRACT: Sequence[FileDescriptor] = (
    auth_pb2.DESCRIPTOR,
    errors_pb2.DESCRIPTOR,
    rest_pb2.DESCRIPTOR,
    tasks_pb2.DESCRIPTOR,
    workers_pb2.DESCRIPTOR,
    workspaces_pb2.DESCRIPTOR,
)
"""The files of openmcp.chain.v1; a test proves that none is missing."""

SHORT_ENUMS: Mapping[str, str] = {
    "openmcp.chain.v1.TaskStatus": "TASK_STATUS_",
    "openmcp.chain.v1.TaskView": "TASK_VIEW_",
    "openmcp.chain.v1.ConflictPolicy": "CONFLICT_POLICY_",
    "openmcp.chain.v1.WorkspaceKind": "WORKSPACE_KIND_",
    "openmcp.chain.v1.WorkspaceState": "WORKSPACE_STATE_",
}
"""The prefix that REST cuts from the names of an enum's values; not from that of 0, since all enums share one scope."""


_STRUCT = "google.protobuf.Struct"


@dataclass(frozen=True, slots=True)
class Method:
    """A method of the contract and the REST routes that it has."""

    name: str
    """As gRPC has it in the path: `openmcp.chain.v1.TaskService/GetTask`."""
    streams: bool
    """Whether either side sends more than one message."""
    uploads: bool = False
    """Whether the caller does."""
    input: str = ""
    """The full name of its request's message."""
    output: str = ""
    """The full name of its answer's message."""
    bulky: str = "request"
    """The field that a request which is too large is so by: where it may hold a Struct, or the request itself."""
    body: bool = False
    """Whether REST sends its request as a JSON body."""
    routes: tuple[tuple[str, str], ...] = ()
    """(HTTP method, path template), such as (`GET`, `/v1/tasks/{task_id}`)."""


def descriptors() -> descriptor_pb2.FileDescriptorSet:
    """The view, with all that it depends on; details of errors among it, or REST could not show them."""
    view = descriptor_pb2.FileDescriptorSet()
    for file in _with_dependencies((*CONTRACT, status_pb2.DESCRIPTOR, error_details_pb2.DESCRIPTOR)):
        proto = view.file.add()
        file.CopyToProto(proto)
        if proto.package == "google.rpc":
            for message in proto.message_type:
                _snake_case(message)
        for enum in proto.enum_type:
            for value in enum.value[1:]:
                value.name = value.name.removeprefix(SHORT_ENUMS.get(f"{proto.package}.{enum.name}", ""))
    return view


def services() -> list[str]:
    """The full names of the contract's services."""
    return [service.full_name for service in _services()]


def methods() -> list[Method]:
    """The contract's methods."""
    return [
        Method(
            name=f"{service.full_name}/{method.name}",
            streams=method.client_streaming or method.server_streaming,
            uploads=method.client_streaming,
            input=method.input_type.full_name,
            output=method.output_type.full_name,
            bulky=_bulky(method.input_type) or "request",
            body=method.GetOptions().Extensions[annotations_pb2.http].body == "*",
            routes=tuple(_routes(method)),
        )
        for service in _services()
        for method in service.methods
    ]


def messages() -> Mapping[str, Mapping[str, str]]:
    """Every message that a REST request may hold: by full name, each field's kind, as `envoy/json.lua` knows them."""
    found: dict[str, Mapping[str, str]] = {}

    def visit(message: Descriptor) -> None:
        if message.full_name not in found:
            found[message.full_name] = {field.json_name: _kind(field) for field in message.fields}
            for field in message.fields:
                inner = field.message_type
                if inner is not None and inner.file in CONTRACT and not inner.GetOptions().map_entry:
                    visit(inner)

    for service in _services():
        for method in service.methods:
            if any(_routes(method)):
                visit(method.input_type)
    return found


_KINDS: Mapping[int, str] = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_INT32: "integer",
    FieldDescriptor.TYPE_DOUBLE: "number",
    FieldDescriptor.TYPE_ENUM: "enum",
}
_KNOWN_MESSAGES: Mapping[str, str] = {
    _STRUCT: "struct",
    "google.protobuf.Timestamp": "time",
    "google.protobuf.Duration": "duration",
}


def _kind(field: FieldDescriptor) -> str:
    """Raises ValueError for one that `envoy/json.lua` would have to learn first."""
    message = field.message_type
    if message is None:
        kind = _KINDS.get(field.type)
    elif message.GetOptions().map_entry:
        return "map" if _kind(message.fields_by_name["value"]) == "string" else _unknown(field)
    else:
        kind = message.full_name if message.file in CONTRACT else _KNOWN_MESSAGES.get(message.full_name)
    return ("[]" if field.is_repeated else "") + (kind or _unknown(field))


def _unknown(field: FieldDescriptor) -> str:
    raise ValueError(f"{field.full_name}: a field of this kind is not supported in a REST request")


def _bulky(message: Descriptor) -> str | None:
    """The path of the Struct in it, or of the list that has one in each; None if there is none."""
    for field in message.fields:
        inner = field.message_type
        if inner is None or inner.GetOptions().map_entry:
            continue
        below = "" if inner.full_name == _STRUCT else _bulky(inner)
        if below is not None:
            return field.name if field.is_repeated or not below else f"{field.name}.{below}"
    return None


def _services() -> Iterator[ServiceDescriptor]:
    return (service for file in CONTRACT for service in file.services_by_name.values())


def _routes(method: MethodDescriptor) -> Iterator[tuple[str, str]]:
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    for binding in (rule, *rule.additional_bindings):
        verb = binding.WhichOneof("pattern")
        if verb == "custom":
            yield binding.custom.kind, binding.custom.path
        elif verb is not None:
            yield verb.upper(), getattr(binding, verb)


def _snake_case(message: descriptor_pb2.DescriptorProto) -> None:
    for field in message.field:
        field.json_name = field.name
    for nested in message.nested_type:
        _snake_case(nested)


def _with_dependencies(files: Iterable[FileDescriptor]) -> Iterator[FileDescriptor]:
    """Each file once, after those that it imports."""
    seen: set[str] = set()

    def visit(file: FileDescriptor) -> Iterator[FileDescriptor]:
        if file.name not in seen:
            seen.add(file.name)
            for name in file.dependencies:
                yield from visit(name)
            yield file

    for file in files:
        yield from visit(file)
