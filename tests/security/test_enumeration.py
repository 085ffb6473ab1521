"""Whoever tries names learns nothing of which there are: by message here, by time in the bench."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from security.conftest import AUTHENTICATE, People
from support.doors import Door, Told


def wrong(secret: str) -> str:
    """A secret that differs in its last character."""
    return secret[:-1] + ("A" if secret[-1] != "A" else "B")


def test_sign_in_tells_one_thing(door: Door, people: People) -> None:
    """One answer, to the letter, for all that is wrong with a name or a secret.

    An unknown name; a known one, of every kind, with a wrong secret, another's, or one of the right beginning; one that
    is disabled.
    """
    # The more wrong secrets a name gets, the longer they wait; so each door has a name of its own to try, all at once.
    owner, other = (people.owner, people.stranger) if door.name == "native" else (people.stranger, people.owner)
    secret = owner.secret
    nobody = f"omcp_00000000_{'x' * 43}"
    pairs = [
        *((one.workspace_id, wrong(one.secret)) for one in people.all),
        (owner.workspace_id, nobody),
        ("nobody", secret),
        ("nobody", "x"),
        (owner.workspace_id, other.secret),
        (owner.workspace_id, secret.upper()),
        (owner.workspace_id, secret + " "),
        (owner.workspace_id, "x" * 10_000),
    ]
    # No names at all count as one.
    odd = [owner.workspace_id.upper(), f" {owner.workspace_id}", "$ne", "x" * 1000, f"../{owner.workspace_id}", "ä"]
    pairs += [(name, secret) for name in odd[door.name == "native" :: 2]]
    if door.name == "native":
        pairs.append((people.disabled.workspace_id, people.disabled.secret))

    def ask(pair: tuple[str, str]) -> Told:
        return door.ask(AUTHENTICATE, workspace_id=pair[0], workspace_secret=pair[1])

    with ThreadPoolExecutor(len(pairs)) as pool:
        told = list(pool.map(ask, pairs))
    assert all(one == told[0] for one in told), [one for one in told if one != told[0]]
    assert told[0].code == "CREDENTIALS_INVALID"


@pytest.mark.parametrize("field", ["workspace_id", "workspace_secret"])
def test_a_missing_field_is_no_oracle(door: Door, people: People, field: str) -> None:
    """Half of the credentials is refused before it is looked at: alike for a known name and an unknown one."""
    told = []
    for name, secret in ((people.owner.workspace_id, people.owner.secret), ("nobody", "x")):
        given = {"workspace_id": name, "workspace_secret": secret}
        del given[field]
        told.append(door.ask(AUTHENTICATE, **given))
    assert told[0] == told[1]
    assert told[0].fields == [field]
