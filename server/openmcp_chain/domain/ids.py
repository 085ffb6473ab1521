"""Ids and other names: what counts as one, and the ids that follow from something else."""

import re
import uuid

_NAMESPACE = uuid.UUID("6f1d3c52-6c0b-5a6e-9f3c-4f1a1c1b7a10")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_WORKSPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?")
_TASK_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,127}")
_LABEL_KEY = re.compile(r"[a-z0-9_.-]{1,63}")

TASK_TYPE_RULE = "must be 1 to 128 of A-Z a-z 0-9 _ . - and begin with a letter"


def is_uuid(text: str) -> bool:
    """Whether `text` is a UUID in its usual form (RFC 9562, section 4)."""
    return _UUID.fullmatch(text) is not None


def is_workspace_id(text: str) -> bool:
    """Whether `text` can name a workspace: 1 to 64 of `a-z 0-9 -`, as a DNS label; every lower-case UUID can."""
    return _WORKSPACE.fullmatch(text) is not None


def is_task_type(text: str) -> bool:
    """Whether `text` can be the type of a task."""
    return _TASK_TYPE.fullmatch(text) is not None


def is_label_key(text: str) -> bool:
    """Whether `text` can be the key of a task's label."""
    return _LABEL_KEY.fullmatch(text) is not None


def from_request_id(workspace: str, request_id: str) -> str:
    """The id of the task that (workspace, request_id) makes: always the same one.

    So the primary key itself makes the second of two equal submits lose, with no other index and no transaction.
    """
    return str(uuid.uuid5(_NAMESPACE, f"{workspace}\n{request_id.lower()}"))
