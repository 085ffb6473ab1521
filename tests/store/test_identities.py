"""Workspaces and signing keys, in every store."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from support.samples import KEY, NOW, SECOND, WORKSPACE

from openmcp_chain.domain.audit import Action, Actor, Event
from openmcp_chain.domain.workspace import Kind, Quotas, State
from openmcp_chain.store.base import Store

Connect = Callable[[], Awaitable[Store]]


async def test_a_workspace_comes_back_as_it_was_put(store: Store) -> None:
    """Every field, the order of its secrets, and what makes it another kind."""
    operator = replace(
        WORKSPACE,
        id="operator",
        kind=Kind.OPERATOR,
        state=State.DISABLED,
        quotas=Quotas(5, 6),
        worker_types=frozenset({"a", "b"}),
        secrets=(replace(WORKSPACE.secrets[0], expires_at=NOW + SECOND),),
        updated_at=NOW + SECOND,
    )
    assert await store.put_workspace(WORKSPACE)
    assert await store.put_workspace(operator)
    assert await store.get_workspace("ws-1234") == WORKSPACE
    assert await store.get_workspace("operator") == operator
    assert await store.get_workspace("ws-12") is None


async def test_workspaces_are_listed_by_id(store: Store) -> None:
    """However they were added, page by page, from behind an id, whether there is one like it or not."""
    names = ["b", "a-1", "c", "a", "a1", "0"]
    for name in names:
        await store.put_workspace(replace(WORKSPACE, id=name))

    async def listed(after: str, limit: int) -> list[str]:
        return [workspace.id for workspace in await store.list_workspaces(after, limit)]

    assert await listed("", 10) == sorted(names)
    assert [await listed("", 2), await listed("a", 2), await listed("a1", 2)] == [["0", "a"], ["a-1", "a1"], ["b", "c"]]
    assert await listed("a2", 10) == ["b", "c"]
    assert await listed("c", 10) == await listed("", 0) == []


async def test_workspaces_are_found_by_their_state(store: Store) -> None:
    """As it is now, whatever it was before."""
    states = {"a": State.ACTIVE, "b": State.DISABLED, "c": State.DELETING, "d": State.DISABLED}
    for name, state in states.items():
        await store.put_workspace(replace(WORKSPACE, id=name, state=state))
    await store.put_workspace(replace(WORKSPACE, id="d", version=2, state=State.DELETING))

    async def found(state: State) -> set[str]:
        return {workspace.id for workspace in await store.workspaces_in(state)}

    assert [await found(State.DISABLED), await found(State.DELETING)] == [{"b"}, {"c", "d"}]


async def test_a_workspace_is_added_once(store: Store) -> None:
    """The second of two that would make it is told so, and changes nothing; the same again counts as done."""
    assert await store.put_workspace(WORKSPACE)
    assert not await store.put_workspace(replace(WORKSPACE, plan="free"))
    assert await store.put_workspace(WORKSPACE)
    assert await store.get_workspace(WORKSPACE.id) == WORKSPACE


async def test_a_workspace_is_replaced_only_by_its_next_version(store: Store) -> None:
    """So of two rotations of a secret at once, neither undoes the other unawares."""
    second, other = replace(WORKSPACE, version=2, plan="free"), replace(WORKSPACE, version=2, state=State.DISABLED)
    assert not await store.put_workspace(second)
    assert await store.get_workspace(WORKSPACE.id) is None
    await store.put_workspace(WORKSPACE)
    assert not await store.put_workspace(replace(WORKSPACE, version=3))
    assert await store.put_workspace(second)
    assert not await store.put_workspace(other)
    assert not await store.put_workspace(replace(WORKSPACE, plan="other"))
    assert await store.get_workspace(WORKSPACE.id) == second


async def test_racing_changes_of_a_workspace_have_one_winner(connected: Connect) -> None:
    """In two processes at once."""
    stores = [await connected(), await connected()]
    await stores[0].put_workspace(WORKSPACE)
    changed = [replace(WORKSPACE, version=2, plan=f"plan-{n}") for n in range(10)]
    won = await asyncio.gather(*(stores[n % 2].put_workspace(workspace) for n, workspace in enumerate(changed)))
    assert sum(won) == 1
    assert await stores[0].get_workspace(WORKSPACE.id) == changed[won.index(True)]


async def test_keys_are_listed_by_when_they_sign(store: Store) -> None:
    """Whatever order they were added in; each comes back as it was."""
    later = replace(KEY, kid="kid-0", signs_from=NOW + SECOND)
    await store.add_key(later)
    await store.add_key(KEY)
    assert await store.list_keys() == [KEY, later]


async def test_a_key_that_is_there_stays_as_it_is(store: Store) -> None:
    """Two processes that start at once may both add the first key; adding again is no error."""
    await store.add_key(KEY)
    await store.add_key(replace(KEY, private_pem=b"other"))
    assert await store.list_keys() == [KEY]


async def test_a_key_is_deleted(store: Store) -> None:
    """The others stay; one that is not there is no error."""
    await store.add_key(KEY)
    await store.add_key(replace(KEY, kid="kid-2"))
    for _ in range(2):
        await store.delete_key(KEY.kid)
        assert [key.kid for key in await store.list_keys()] == ["kid-2"]


async def test_several_workspaces_are_read_at_once(store: Store) -> None:
    """Those that there are, by id."""
    other = replace(WORKSPACE, id="other")
    await store.put_workspace(WORKSPACE)
    await store.put_workspace(other)
    assert await store.get_workspaces([WORKSPACE.id, "nobody", "other"]) == {WORKSPACE.id: WORKSPACE, "other": other}
    assert await store.get_workspaces([]) == {}


async def test_the_audit_log_is_listed_backwards(store: Store) -> None:
    """The newest first, of one workspace or of all; an event that is there is not changed."""
    events = [
        Event(
            id=f"event-{number}",
            at=NOW,
            actor=Actor("local:somebody"),
            action=Action.KEY_ROTATE,
            workspace="ws-1" if number % 2 else "",
            details={"a.b": "$c"},
        )
        for number in range(5)
    ]
    for event in events:
        await store.add_audit_event(event)
    await store.add_audit_event(replace(events[0], action=Action.KEY_REVOKE))
    assert await store.list_audit_events("", "", 10) == events[::-1]
    assert await store.list_audit_events("", "event-3", 2) == [events[2], events[1]]
    assert await store.list_audit_events("ws-1", "", 10) == [events[3], events[1]]


async def test_a_store_that_answers_says_so(store: Store) -> None:
    """`ping` returns nothing: it returns."""
    await store.ping()
