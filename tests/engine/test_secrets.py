"""What the database holds of secrets and keys gives none of them away, nor serves under another master key."""

import base64
from dataclasses import replace

import pytest
from support import virtual
from support.engine import Engine
from support.service import LOCAL, SETTINGS

from openmcp_chain.app import App
from openmcp_chain.engine.sealing import MasterKey

ONE, OTHER = MasterKey(bytes(32)), MasterKey(bytes(31) + b"\1")


async def test_of_two_equal_secrets_nothing_equal_is_kept() -> None:
    """Whoever reads the database finds no two that are one, and none in a table made before: each has a salt."""
    secrets = Engine().app.administration.secrets
    _, told = secrets.new()
    kept = [secrets.keep(told) for _ in range(2)]
    assert kept[0].salt != kept[1].salt
    assert kept[0].digest != kept[1].digest
    assert len({told for _, told in (secrets.new() for _ in range(100))}) == 100


async def test_a_secret_counts_under_its_master_key_alone() -> None:
    """What was kept under one is worth nothing to who has the database with another."""
    engine = Engine()
    _, told = await engine.app.administration.workspaces.create(LOCAL, "free", "ws-1")
    assert await engine.app.administration.secrets.accepts("ws-1", told)
    elsewhere = App(replace(SETTINGS, master=OTHER), engine.store, virtual.clock).administration
    assert not await elsewhere.secrets.accepts("ws-1", told)


async def test_a_secret_counts_to_its_last_letter() -> None:
    """Neither its id nor any beginning is enough, nor is another's, nor more than it."""
    secrets = (engine := Engine()).app.administration.secrets
    workspaces = engine.app.administration.workspaces
    _, told = await workspaces.create(LOCAL, "free", "ws-1")
    _, others = await workspaces.create(LOCAL, "free", "ws-2")
    for wrong in (
        told[:-1],
        f"{told[:-1]}{'B' if told[-1] == 'A' else 'A'}",
        f"{told}A",
        told[:14] + others[14:],
        others,
    ):
        assert not await secrets.accepts("ws-1", wrong)


def test_what_is_sealed_is_opened_as_what_it_is_alone() -> None:
    """Not under another master key, not as another thing, not with a bit changed; and never sealed the same twice."""
    sealed = ONE.seal(b"private", "kid-1")
    assert ONE.open(sealed, "kid-1") == b"private"
    assert b"private" not in sealed
    assert ONE.seal(b"private", "kid-1")[:12] != sealed[:12]
    changed = sealed[:-1] + bytes([sealed[-1] ^ 1])
    for key, text, label in ((OTHER, sealed, "kid-1"), (ONE, sealed, "kid-2"), (ONE, changed, "kid-1")):
        with pytest.raises(ValueError, match="sealed under another master key"):
            key.open(text, label)


def test_the_two_uses_of_the_master_key_are_apart() -> None:
    """What digests secrets does not open keys, and neither is the master key itself."""
    master = bytes(range(32))
    pepper = MasterKey(master).pepper
    assert pepper != master
    sealed = MasterKey(master).seal(b"private", "kid-1")
    for raw in (pepper, master):
        with pytest.raises(ValueError, match="sealed"):
            Raw(raw).open(sealed, "kid-1")


class Raw(MasterKey):
    """Opens with these very bytes."""

    @staticmethod
    def _derive(key: bytes, _: bytes) -> bytes:
        return key


async def test_signing_keys_are_sealed_each_for_itself() -> None:
    """One that is put in another's place in the database is not taken for it."""
    engine = Engine()
    keys = engine.app.keys
    await keys.load()
    await keys.rotate(LOCAL)
    first, second = await engine.store.list_keys()
    assert b"PRIVATE" not in first.private_pem + second.private_pem
    await engine.store.delete_key(first.kid)
    await engine.store.add_key(replace(first, private_pem=second.private_pem))
    with pytest.raises(ValueError, match="sealed"):
        await Engine(engine.store).app.keys.load()


def test_a_master_key_has_its_length() -> None:
    """Of 32 bytes, and what is wrong with another is said without it."""
    for wrong in (bytes(31), bytes(33), b""):
        text = base64.b64encode(wrong).decode()
        with pytest.raises(ValueError, match="must have 32 bytes"):
            MasterKey.decode(text)
    with pytest.raises(ValueError, match="in base64") as refused:
        MasterKey.decode("S3CRET!")
    assert "S3CRET" not in str(refused.value)
