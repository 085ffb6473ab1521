"""How many bytes of a workspace's may be held, and who is told when there is room again."""

from collections.abc import Iterator

import pytest

from openmcp_chain.domain import errors
from openmcp_chain.engine import volume
from openmcp_chain.engine.volume import SMALL, Volume, Wake

BIG = SMALL + 1


@pytest.fixture(autouse=True)
def bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volume, "WORKSPACE_BYTES", 3 * BIG)
    monkeypatch.setattr(volume, "ALL_BYTES", 5 * BIG)
    monkeypatch.setattr(volume, "OWN_BYTES", SMALL)


@pytest.fixture
def at() -> Iterator[Volume]:
    """Nothing is left of it when all have left."""
    at = Volume()
    yield at
    assert not at.total
    assert not at._bytes
    assert not at._waiting


def test_it_is_bounded_for_each_and_for_all(at: Volume) -> None:
    """But every workspace may have something of its own, whatever others have."""
    for workspace in ("a", "a", "a", "b", "b"):
        at.ask(workspace, BIG)
        at.enter(workspace, BIG)
    for workspace in ("a", "b", "c"):
        with pytest.raises(errors.Overloaded):
            at.ask(workspace, BIG)
    assert [at.fits(workspace, SMALL) for workspace in ("a", "b", "c")] == [False, False, True]
    at.leave("a", BIG)
    assert at.fits("c", BIG)
    for workspace in ("a", "a", "b", "b"):
        at.leave(workspace, BIG)


def test_what_was_done_may_exceed_it(at: Volume) -> None:
    at.enter("a", 3 * BIG)
    assert not at.exceeded("a")
    at.enter("a", 1)
    assert at.exceeded("a")
    assert not at.exceeded("b")
    at.leave("a", 3 * BIG + 1)


def test_who_waits_is_told_in_turn(at: Volume) -> None:
    """One for each that leaves, passing over who takes nothing; all of a workspace's when nothing of its is held."""
    told: list[str] = []

    def wake(name: str, *, takes: bool = True) -> Wake:
        return lambda: bool(told.append(name) or takes)  # type: ignore[func-returns-value]  # it is what is noted

    at.enter("a", BIG)
    at.enter("a", BIG)
    at.enter("b", BIG)
    for name in ("gone", "first", "second", "third"):
        at.wait("a", wake(name, takes=name != "gone"))
    at.wait("c", wake("of no use", takes=False))
    at.wait("d", wake("other"))
    at.leave("b", BIG)
    assert told == ["gone", "first"]
    at.leave("a", BIG)
    assert told == ["gone", "first", "second", "of no use", "other"]
    at.leave("a", BIG)
    assert told[5:] == ["third"]


def test_who_was_told_is_told_again_when_more_was_let_go_of(at: Volume) -> None:
    """Not when another passes on what it could not use: two of them would tell each other without end."""
    told: list[str] = []

    def wake(name: str) -> Wake:
        def told_so() -> bool:
            told.append(name)
            at.wait("a", told_so)
            return False

        return told_so

    at.enter("a", 3)
    wakes = [wake(name) for name in ("one", "other")]
    for one in wakes:
        at.wait("a", one)
    at.leave("a", 1)
    assert told == ["one", "other"]
    at.pass_on("a")
    assert told == ["one", "other"]
    at.leave("a", 1)
    assert told == ["one", "other"] * 2
    for one in wakes:
        at.forget("a", one)
    at.leave("a", 1)
