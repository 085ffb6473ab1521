"""Who may call what, written by hand: the server is held against this table, which takes nothing from the server.

A method that is not here, a scope too many or one too few fails `test_api05_function_level_authorization.py`: whoever
adds a method says here what it needs.
"""

from collections.abc import Mapping

HAS: Mapping[str, frozenset[str]] = {
    "tenant": frozenset({"tasks:read", "tasks:write", "worker"}),
    "operator": frozenset({"worker"}),
    "administrator": frozenset({"admin"}),
}
"""The scopes of each kind of workspace."""

_NEEDS: Mapping[str, Mapping[str, str]] = {
    "openmcp.chain.v1.AuthService": {"Authenticate": ""},
    "openmcp.chain.v1.TaskService": {
        "SubmitTask": "tasks:write",
        "BatchSubmitTasks": "tasks:write",
        "CancelTask": "tasks:write",
        "RetryTask": "tasks:write",
        "BatchRetryTasks": "tasks:write",
        "PauseTaskType": "tasks:write",
        "ResumeTaskType": "tasks:write",
        "GetTask": "tasks:read",
        "BatchGetTasks": "tasks:read",
        "ListTasks": "tasks:read",
        "CountTasks": "tasks:read",
        "WaitTask": "tasks:read",
        "StreamTaskEvents": "tasks:read",
        "ListTaskTypes": "tasks:read",
    },
    "openmcp.chain.v1.RestService": {"ServeTaskEvents": "tasks:read", "ServeJsonWebKeySet": ""},
    "openmcp.chain.v1.WorkerService": {
        "Work": "worker",
        "LeaseTasks": "worker",
        "HeartbeatTask": "worker",
        "CompleteTask": "worker",
        "FailTask": "worker",
        "StopTask": "worker",
    },
    "openmcp.chain.v1.WorkspaceService": {
        "CreateWorkspace": "admin",
        "GetWorkspace": "admin",
        "ListWorkspaces": "admin",
        "UpdateWorkspace": "admin",
        "DisableWorkspace": "admin",
        "EnableWorkspace": "admin",
        "DeleteWorkspace": "admin",
        "RotateSecret": "admin",
        "RevokeSecret": "admin",
        "ListSecrets": "admin",
        "ListAuditEvents": "admin",
    },
    "grpc.health.v1.Health": {"Check": "", "List": "", "Watch": ""},
    "grpc.reflection.v1alpha.ServerReflection": {"ServerReflectionInfo": ""},
}
NEEDS: Mapping[str, str] = {
    f"/{service}/{method}": scope for service, methods in _NEEDS.items() for method, scope in methods.items()
}
"""The scope that a token must have for the method; empty: no token is needed."""

CALLS = sorted(path for path, scope in NEEDS.items() if scope)
"""The methods that need a token."""
OPEN = sorted(set(NEEDS) - set(CALLS))
OPEN_AT_ENVOY = frozenset(
    {
        "/openmcp.chain.v1.AuthService/Authenticate",
        "/openmcp.chain.v1.RestService/ServeJsonWebKeySet",
        "/grpc.health.v1.Health/Check",
    }
)
"""Of these, what strangers may ask of Envoy: whoever explores has a token, and strangers can't hold streams there."""
