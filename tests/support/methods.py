"""Every method that is served, called by its path with any bytes."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from security.access import NEEDS
from support.service import PATIENCE, Caller, Refusal, Service, refusal

from openmcp.chain.v1 import auth_pb2, rest_pb2, tasks_pb2, workers_pb2, workspaces_pb2

_FILES = (auth_pb2, tasks_pb2, rest_pb2, workers_pb2, workspaces_pb2, health_pb2, reflection_pb2)
METHODS: dict[str, MethodDescriptor] = {
    f"/{service.full_name}/{method.name}": method
    for file in _FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
"""Every method served, by path: a new one is covered at once."""
_AGAIN = 20
"""How often a call is made whose answer is lost, which is rare."""


async def caller_of(service: Service, path: str) -> Caller:
    """Somebody new who may call the method."""
    return await (service.administrator() if NEEDS[path] == "admin" else service.workspace())


async def call(service: Service, path: str, data: bytes, metadata: Any = ()) -> Refusal | None:
    """Calls the method with these bytes; returns its refusal, None if it answered."""
    for _ in range(_AGAIN):
        try:
            await _call(service, path, data, metadata)
            return None
        except grpc.aio.AioRpcError as error:
            # The client's word, in place of what it was told, if it was told while it wrote (grpc issue #36066).
            if error.details() != "Internal error from Core":
                return refusal(error)
    raise AssertionError(f"gRPC's client has lost all of {_AGAIN} answers of {path}")


async def _call(service: Service, path: str, data: bytes, metadata: Any) -> None:
    async def requests() -> AsyncIterator[bytes]:
        yield data

    method = METHODS.get(path)
    streams = (method.client_streaming, method.server_streaming) if method else (False, False)
    if streams == (False, False):
        await service.raw.unary_unary(path)(data, metadata=metadata, timeout=PATIENCE)
        return
    stream: Any = (
        service.raw.stream_stream(path)(requests(), metadata=metadata, timeout=PATIENCE)
        if streams[0]
        else service.raw.unary_stream(path)(data, metadata=metadata, timeout=PATIENCE)
    )
    if await stream.read() is not grpc.aio.EOF:
        stream.cancel()  # it answers, and may go on for ever
    else:
        assert await stream.code() is grpc.StatusCode.OK
