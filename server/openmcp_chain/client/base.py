"""How both clients are made."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import grpc

from openmcp.chain.v1 import auth_pb2_grpc, tasks_pb2_grpc
from openmcp_chain.client import connection
from openmcp_chain.client.calls import TIMEOUT_SECONDS, Calls
from openmcp_chain.client.connection import Credentials, Server
from openmcp_chain.client.steps import Open, Send
from openmcp_chain.client.values import Seconds


class Base(ABC):
    """Where the server is, who signs in, and what the methods do."""

    def __init__(
        self,
        target: str,
        *,
        workspace_id: str,
        workspace_secret: str,
        secure: bool | None = None,
        ca: str | Path | None = None,
        certificate: str | Path | None = None,
        key: str | Path | None = None,
        timeout: Seconds = TIMEOUT_SECONDS,
        scopes: Iterable[str] = (),
    ) -> None:
        """`target` is `host:port`. `timeout` is for one call with all its tries, unless that call says otherwise.

        TLS is used unless the target is this machine, or as `secure` says; `ca` names a PEM file with the authorities
        to trust in place of gRPC's own; `certificate` and `key` name what a server is shown that asks for it. `scopes`
        is what the client's tokens are to allow, `tasks:read` or `tasks:write`; by default it is all that the workspace
        may do. Raises SettingsError.
        """
        self._server = Server(target, secure, ca, certificate, key)
        self._secured = self._server.credentials()
        self._calls = Calls(Credentials(workspace_id, workspace_secret, tuple(scopes)), timeout)
        self._methods: Mapping[str, Any] = {}
        self._set_up()

    @abstractmethod
    def _set_up(self) -> None:
        """Makes what waits in the way of one of the clients."""

    @classmethod
    def from_environment(
        cls,
        environment: Mapping[str, str] = os.environ,
        *,
        timeout: Seconds = TIMEOUT_SECONDS,
        scopes: Iterable[str] = (),
    ) -> Self:
        """A client by the environment's variables. Raises SettingsError.

        OPENMCP_SERVER, OPENMCP_WORKSPACE_ID; OPENMCP_WORKSPACE_SECRET, or the file that OPENMCP_WORKSPACE_SECRET_FILE
        names; OPENMCP_SECURE (`true` or `false`), OPENMCP_CA_FILE, OPENMCP_CERT_FILE and OPENMCP_KEY_FILE, if need be.
        """
        server, credentials = connection.from_environment(environment)
        return cls(
            server.target,
            workspace_id=credentials.workspace_id,
            workspace_secret=credentials.workspace_secret,
            secure=server.secure,
            ca=server.ca,
            certificate=server.certificate,
            key=server.key,
            timeout=timeout,
            scopes=scopes,
        )

    def _use(self, channel: grpc.Channel | grpc.aio.Channel) -> None:
        """Makes calls on this channel from here on."""
        stubs: Any = (auth_pb2_grpc.AuthServiceStub, tasks_pb2_grpc.TaskServiceStub)
        self._methods = {name: method for stub in stubs for name, method in vars(stub(channel)).items()}

    def _start(self, step: Send | Open) -> Any:  # noqa: ANN401 - gRPC's answer, in its sync or its async kind
        call = self._methods[step.method]
        return call(step.request, timeout=step.seconds, metadata=connection.metadata(step.token))
