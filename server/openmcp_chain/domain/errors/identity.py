"""Who calls, what that allows, and what administrators do with workspaces."""

from collections.abc import Sequence

from openmcp_chain.domain.errors.base import Error, Status, Violation, shown


class TokenMissing(Error):
    code = "TOKEN_MISSING"
    status = Status.UNAUTHENTICATED
    when = "The call carries no bearer token."
    sent_by = "both"

    def __init__(self) -> None:
        super().__init__("This call needs a token: send `authorization: Bearer <token>`, from POST /v1/auth/token.")


class TokenInvalid(Error):
    code = "TOKEN_INVALID"
    status = Status.UNAUTHENTICATED
    when = "The token is malformed, not ours, not for this service, or revoked."
    sent_by = "both"

    def __init__(self) -> None:
        super().__init__("The token is not valid here. Get a new one from POST /v1/auth/token.")


class TokenExpired(Error):
    code = "TOKEN_EXPIRED"
    status = Status.UNAUTHENTICATED
    when = "The token was valid once: refresh it."
    sent_by = "both"

    def __init__(self) -> None:
        super().__init__(
            "The token has expired. Refresh it: get a new one from POST /v1/auth/token, then repeat the call."
        )


class CredentialsInvalid(Error):
    code = "CREDENTIALS_INVALID"
    status = Status.UNAUTHENTICATED
    when = "The workspace is unknown or disabled, or the secret is not one of its own; which of them is not said."

    def __init__(self) -> None:
        super().__init__("workspace_id and workspace_secret do not match.")


class TooManySignIns(Error):
    code = "TOO_MANY_SIGN_INS"
    status = Status.RESOURCE_EXHAUSTED
    when = "Too many sign-ins come from one address, or too many wrong secrets wait for their answer."
    sent_by = "both"
    retry_after = 1.0

    def __init__(self) -> None:
        super().__init__("Too many sign-ins; try again later")


class WorkspaceMismatch(Error):
    code = "WORKSPACE_MISMATCH"
    status = Status.PERMISSION_DENIED
    when = "The request names another workspace than the token does."

    def __init__(self) -> None:
        super().__init__(
            "workspace_id: names another workspace than the token does. Leave it empty or use the token's."
        )
        self.violations = (Violation("workspace_id", "must be empty or the token's own workspace"),)


class ScopeMissing(Error):
    code = "SCOPE_MISSING"
    status = Status.PERMISSION_DENIED
    when = "The token does not carry the scope that the method needs."

    def __init__(self, scope: str) -> None:
        super().__init__(f"This call needs a token with the scope `{scope}`.")


class TypeNotAllowed(Error):
    code = "TYPE_NOT_ALLOWED"
    status = Status.PERMISSION_DENIED
    when = "An operator's worker asks for a task type that its credential does not cover."

    def __init__(self, task_type: str) -> None:
        super().__init__(f"task_types: this credential does not cover `{shown(task_type)}`.")
        self.violations = (Violation("task_types", "names a type that this credential does not cover"),)


class WorkspaceNotFound(Error):
    code = "WORKSPACE_NOT_FOUND"
    status = Status.NOT_FOUND
    when = "An administrator names a workspace that does not exist."

    def __init__(self, workspace_id: str) -> None:
        super().__init__(f"Workspace {shown(workspace_id)} does not exist")
        self.resource = ("openmcp.chain.v1.Workspace", shown(workspace_id))


class SecretNotFound(Error):
    code = "SECRET_NOT_FOUND"
    status = Status.NOT_FOUND
    when = "An administrator names a secret that the workspace does not have, or no longer has."

    def __init__(self, secret_id: str) -> None:
        super().__init__(f"Secret {shown(secret_id)} does not exist")
        self.resource = ("openmcp.chain.v1.SecretInfo", shown(secret_id))


class TooManySecrets(Error):
    code = "TOO_MANY_SECRETS"
    status = Status.FAILED_PRECONDITION
    when = "A workspace is to get a new secret beside as many as it may have."

    def __init__(self, secret_ids: Sequence[str]) -> None:
        """`secret_ids` are those that it has, the oldest first."""
        super().__init__(
            f"The workspace has the secrets {' and '.join(secret_ids)}, and may have no more. Revoke the one that no "
            "program uses (RevokeSecret, or `openmcp secrets revoke`), the newest if the answer that told it was lost; "
            "or let one run out. With an overlap of 0 the new one ends them all."
        )


class WorkspaceExists(Error):
    code = "WORKSPACE_EXISTS"
    status = Status.ALREADY_EXISTS
    when = "A workspace is created under an id that is taken."

    def __init__(self, workspace_id: str) -> None:
        super().__init__(f"workspace_id: {shown(workspace_id)} is taken.")


class OwnWorkspace(Error):
    code = "OWN_WORKSPACE"
    status = Status.FAILED_PRECONDITION
    when = "An administrator would shut itself out: disable itself, or revoke a secret of its own."

    def __init__(self) -> None:
        super().__init__("An administrator cannot shut itself out; another one can")


class AdministratorProtected(Error):
    code = "ADMINISTRATOR_PROTECTED"
    status = Status.PERMISSION_DENIED
    when = "Of an administrator, more is to be changed than that it is shut out: that takes a command, not a token."

    def __init__(self) -> None:
        super().__init__(
            "Through the API an administrator can be shut out, and nothing else of it changed: no new secret, no way "
            "back. That is done on the deployment itself, by the command openmcp."
        )


class WorkspaceDeleting(Error):
    code = "WORKSPACE_DELETING"
    status = Status.FAILED_PRECONDITION
    when = "A workspace is to be changed that is being deleted."

    def __init__(self) -> None:
        super().__init__("The workspace is being deleted")
