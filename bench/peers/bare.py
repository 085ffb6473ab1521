"""What the least servers share: methods of bytes, and a process's life as our server's is."""

import gc
from collections.abc import Mapping, Sequence
from typing import Any

import grpc

Context = Any
"""grpc.aio's."""


class Methods(grpc.GenericRpcHandler):
    """Handlers by their paths."""

    def __init__(self, methods: Mapping[str, Any]) -> None:
        self._methods = methods

    def service(self, details: grpc.HandlerCallDetails) -> Any:  # noqa: ANN401 - as grpc has it
        return self._methods.get(str(details.method))


async def serve(handler: grpc.GenericRpcHandler, address: str, options: Sequence[tuple[str, int]] = ()) -> None:
    """Serves until it is ended."""
    server = grpc.aio.server(options=options)
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(address)
    await server.start()
    ready()
    await server.wait_for_termination()


def ready() -> None:
    """Says so, with garbage collection as our server and worker have it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    print("ready", flush=True)
