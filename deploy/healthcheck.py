#!/usr/bin/env python3
"""Exit status 0 if the server in this container says that it serves (grpc.health.v1), else 1 with one line."""

import os
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_SECONDS = 2.0


def main() -> None:
    listen = os.environ.get("OPENMCP_HEALTH_LISTEN") or os.environ.get("OPENMCP_GRPC_LISTEN", ":50051")
    port = listen.rpartition(":")[2]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            sys.exit(f"no answer: {error.code().name}")
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        sys.exit("not serving")


if __name__ == "__main__":
    main()
