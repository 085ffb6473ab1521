"""Page tokens: where a list goes on, and which list it is, as a text that means nothing to its reader.

A token gives no right: what a list has is decided anew for each of its pages.
"""

import base64
import binascii
import hashlib
import json

from openmcp_chain.domain import errors
from openmcp_chain.domain.errors import Violation


def mark(*arguments: str) -> str:
    """What tells a list from one with other arguments."""
    return hashlib.sha256("\n".join(arguments).encode()).hexdigest()[:16]


def encode(marked: str, *place: str | int) -> str:
    """The token of the page behind a place."""
    return base64.urlsafe_b64encode(json.dumps([*place, marked]).encode()).decode().rstrip("=")


def decode(marked: str, token: str, count: int) -> list[str | int]:
    """The place, of `count` parts, that a token names. Raises InvalidArgument for what is no token of this list."""
    try:
        parts = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        json.dumps(parts, ensure_ascii=False).encode()  # JSON can name a lone surrogate, which is no text anywhere else
    except (ValueError, RecursionError, binascii.Error):
        parts = None
    # JSON's true is no number, whatever Python says.
    if not isinstance(parts, list) or len(parts) != count + 1 or any(type(part) not in (str, int) for part in parts):
        raise errors.InvalidArgument(Violation("page_token", "is not the next_page_token of any page"))
    if parts.pop() != marked:
        raise errors.InvalidArgument(Violation("page_token", "belongs to another list: keep its other fields"))
    return parts
