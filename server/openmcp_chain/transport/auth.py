"""AuthService."""

from openmcp.chain.v1 import auth_pb2
from openmcp_chain.engine.identity import Identity
from openmcp_chain.transport import codec
from openmcp_chain.transport.checks import Checks
from openmcp_chain.transport.rpc import Call


class AuthService:
    """See `auth.proto`."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    async def Authenticate(self, request: auth_pb2.AuthRequest, _: Call) -> auth_pb2.AuthToken:
        """Exchanges credentials for a token."""
        checks = Checks()
        checks.required("workspace_id", request.workspace_id)
        checks.required("workspace_secret", request.workspace_secret)
        checks.done()
        issued = await self._identity.authenticate(request.workspace_id, request.workspace_secret, request.scopes)
        return auth_pb2.AuthToken(token=issued.token, expires_at=codec.timestamp(issued.expires_at))
