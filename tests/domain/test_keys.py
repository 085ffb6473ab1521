"""What each signing key does, from when to when."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from support.samples import KEY, NOW, SECOND

from openmcp_chain.domain import keys
from openmcp_chain.domain.keys import CLOCK_SKEW, LEAD, LIFETIME, VERIFIES, Phase
from openmcp_chain.domain.workspace import SigningKey


def made(*seconds: float) -> list[SigningKey]:
    """Keys that sign from so many seconds after NOW."""
    return [replace(KEY, kid=f"kid-{n}", signs_from=NOW + second * SECOND) for n, second in enumerate(seconds)]


def phases(known: Sequence[SigningKey], now: datetime) -> list[Phase]:
    return [one.phase for one in keys.describe(known, now)]


def test_a_keys_life() -> None:
    """Next, signing, verifying, retired: each from the very moment that it is said to begin."""
    known = made(0, 100)
    millisecond = timedelta(milliseconds=1)
    turn, end = NOW + 100 * SECOND, NOW + 100 * SECOND + VERIFIES
    assert phases(known, turn - millisecond) == [Phase.SIGNING, Phase.NEXT]
    assert phases(known, turn) == [Phase.VERIFYING, Phase.SIGNING]
    assert phases(known, end - millisecond) == [Phase.VERIFYING, Phase.SIGNING]
    assert phases(known, end) == [Phase.RETIRED, Phase.SIGNING]
    assert keys.describe([], NOW) == []


def test_the_first_key_signs_before_its_time() -> None:
    """Where the clock is behind that of the process which made it, or them."""
    assert phases(made(30), NOW) == [Phase.SIGNING]
    assert phases(made(30, 40), NOW) == [Phase.SIGNING, Phase.NEXT]


some_keys = st.lists(st.floats(-7200, 7200), min_size=1, max_size=6).map(lambda seconds: made(*seconds))
skews = st.floats(-0.5, 0.5).map(lambda part: part * CLOCK_SKEW)
"""How far a clock is off, so that no two differ by more than CLOCK_SKEW."""


@given(some_keys)
def test_one_key_signs(known: list[SigningKey]) -> None:
    """Always, and only one, whatever keys there are."""
    assert phases(known, NOW).count(Phase.SIGNING) == 1


@given(some_keys, skews, skews, skews, st.floats(0, 1))
def test_no_token_outlives_the_publication_of_its_key(
    known: list[SigningKey], signer: timedelta, verifier: timedelta, publisher: timedelta, part: float
) -> None:
    """While some verifier could still take a token by its times, no process has its key for retired.

    The clocks of the one that signs, the one that verifies and the one that publishes differ as they may.
    """
    kid = keys.signing(known, NOW + signer).kid
    expires_at = NOW + signer + LIFETIME
    last = expires_at + CLOCK_SKEW - verifier
    then = NOW + part * (last - NOW)
    (key,) = [one for one in keys.describe(known, then + publisher) if one.kid == kid]
    assert key.phase is not Phase.RETIRED


@given(some_keys, st.data())
def test_a_revoked_key_leaves_one_that_signs(known: list[SigningKey], data: st.DataObject) -> None:
    """One whose time has come, which is known everywhere or was made just now for want of any."""
    doomed = data.draw(st.sampled_from(known))
    before = {one.kid: one for one in keys.describe(known, NOW)}
    new = keys.successor(known, doomed.kid, NOW)
    left = [key for key in known if key is not doomed]
    if new is not None:
        left.append(replace(KEY, kid="new", signs_from=new))
    signs = keys.signing(left, NOW)
    assert signs.signs_from <= NOW or before[doomed.kid].signs_from > NOW
    if signs.kid != "new":
        assert before[signs.kid].phase in (Phase.SIGNING, Phase.VERIFYING)
    else:
        assert new == NOW


def test_what_takes_a_revoked_keys_place() -> None:
    """Nothing, unless it signed; then the one before it, until a new one is known; without any, a new one at once."""
    now = NOW + 100 * SECOND
    assert keys.successor(made(0, 50), "kid-0", now) is None
    assert keys.successor(made(0, 150), "kid-1", now) is None
    assert keys.successor(made(0, 50), "kid-1", now) == now + LEAD
    assert keys.successor(made(0, 50, 150), "kid-1", now) is None
    assert keys.successor(made(0), "kid-0", now) == now
    assert keys.successor(made(0, 150), "kid-0", now) == now
    late = NOW + 50 * SECOND + VERIFIES
    assert keys.successor(made(0, 50), "kid-1", late - keys.AGAIN) == late - keys.AGAIN
