"""What each signing key does: it follows from the keys that there are and from the time, so no process has to be told.

A key is published before it signs, so that every verifier knows it by then; signs until the time of the next one has
come; verifies what it has signed; and retires when no token of it can be valid any more.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from openmcp_chain.domain.workspace import SigningKey

LIFETIME = timedelta(minutes=15)
"""Of a token."""
CLOCK_SKEW = timedelta(seconds=30)
"""By how much the clocks of two machines may differ."""
LEAD = timedelta(seconds=60)
"""How long a key is published before it signs. A server's clock may be ahead by CLOCK_SKEW; a server process hears of
the key within 1 s; Envoy asks for the keys every 5 s and may fail twice, each time with 2 s of waiting; the rest is
reserve."""
VERIFIES = LIFETIME + 2 * CLOCK_SKEW
"""How long a key verifies after it has signed for the last time: one server may have signed late, another one may take
the token for so much longer."""
AGAIN = 2 * LEAD
"""A key may sign again if it still verifies for so long: every verifier has it, and will keep it."""


class Phase(enum.StrEnum):
    """What a key does."""

    NEXT = "next"
    """Is published, and waits for its time."""
    SIGNING = "signing"
    VERIFYING = "verifying"
    """Signs no more; its tokens are good."""
    RETIRED = "retired"
    """Is published no more, and can be deleted."""


@dataclass(frozen=True, slots=True)
class Described:
    """A key, and what it does."""

    kid: str
    phase: Phase
    signs_from: datetime
    retires_at: datetime | None
    """None if there is no key after it."""


def signing(keys: Sequence[SigningKey], now: datetime) -> SigningKey:
    """The key that signs: of those whose time has come, the newest.

    If no time has come, the first: it signs at once, even where the clock is behind that of the process which made it.
    """
    ordered = sorted(keys, key=_order)
    return next((key for key in reversed(ordered) if key.signs_from <= now), ordered[0])


def describe(keys: Sequence[SigningKey], now: datetime) -> Sequence[Described]:
    """What each key does, the oldest first."""
    if not keys:
        return []
    ordered, signs = sorted(keys, key=_order), signing(keys, now)
    ends = [after.signs_from + VERIFIES for after in ordered[1:]]
    described = []
    for key, end in zip(ordered, [*ends, None], strict=True):
        if key is signs:
            phase = Phase.SIGNING
        elif key.signs_from > now:
            phase = Phase.NEXT
        else:
            phase = Phase.RETIRED if end is not None and end <= now else Phase.VERIFYING
        described.append(Described(key.kid, phase, key.signs_from, end))
    return described


def successor(keys: Sequence[SigningKey], kid: str, now: datetime) -> datetime | None:
    """From when a new key has to sign if this one is taken away now; None if none is needed.

    It is, if nothing else is there to sign from now on. A key that has signed before may do so until the new one is
    known everywhere; without any the new one must sign at once.
    """
    kept = [one for one in describe(keys, now) if one.kid != kid]
    if any(one.phase is Phase.SIGNING for one in kept):
        return None
    able = any(one.phase is Phase.VERIFYING and one.retires_at and one.retires_at > now + AGAIN for one in kept)
    if not able:
        return now
    return None if any(one.phase is Phase.NEXT for one in kept) else now + LEAD


def _order(key: SigningKey) -> tuple[datetime, str]:
    return key.signs_from, key.kid
