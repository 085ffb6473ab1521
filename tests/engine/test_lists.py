"""What a workspace reads of its tasks: one, many, pages, counts."""

import asyncio
import base64
import gc
import json
from collections.abc import Mapping

import pytest
from support.engine import DistantStore, Engine, tenant

from openmcp_chain.domain import errors
from openmcp_chain.domain.task import Status, Task, View
from openmcp_chain.engine import answers
from openmcp_chain.engine import lists as engine_lists
from openmcp_chain.engine import tasks as engine_tasks
from openmcp_chain.engine.counts import COUNT_SECONDS, COUNTS, WAITING, WITHIN_SECONDS
from openmcp_chain.engine.submission import new_task_id
from openmcp_chain.engine.tasks import Listed
from openmcp_chain.store.base import TooMuch
from openmcp_chain.store.memory import MemoryStore


async def some(engine: Engine, count: int, **labels: str) -> list[str]:
    """Submits so many, of which some have the same time; their ids, the newest first."""
    made = []
    for number in range(count):
        await asyncio.sleep(0.001 * (number % 3 == 0))
        made.append(await engine.submit(labels=labels, payload=b"payload"))
    return [task.id for task in sorted(made, key=lambda task: (task.submitted_at, task.id), reverse=True)]


async def pages(engine: Engine, text: str = "", size: int = 7) -> list[list[Task]]:
    """All pages of the list."""
    found, token = [], ""
    while True:
        listed = await engine.app.tasks.list(tenant(), text, size, token, View.BASIC)
        found.append(list(listed.tasks))
        token = listed.next_page_token
        if not token:
            return found


async def test_pages_have_every_task_once_the_newest_first() -> None:
    """Those of one millisecond too; without payloads unless they are asked for; without another workspace's."""
    engine = Engine()
    ids = await some(engine, 30)
    await engine.submit(tenant("ws-2"))
    found = await pages(engine)
    assert [len(page) for page in found] == [7, 7, 7, 7, 2]
    assert [task.id for page in found for task in page] == ids
    assert {task.payload for page in found for task in page} == {b""}
    full = await engine.app.tasks.list(tenant(), "", 30, "", View.FULL)
    assert {task.payload for task in full.tasks} == {b"payload"}
    assert not full.next_page_token


async def test_pages_stay_when_tasks_come_and_change() -> None:
    """What is submitted while somebody turns the pages moves none of them, and nothing is shown twice."""
    engine = Engine()
    ids = await some(engine, 20)
    seen, token = [], ""
    for _ in range(4):
        listed = await engine.app.tasks.list(tenant(), "", 5, token, View.BASIC)
        seen += [task.id for task in listed.tasks]
        token = listed.next_page_token
        await some(engine, 5)
        await engine.app.tasks.cancel(tenant(), seen[-1], "")
    assert seen == ids


async def test_a_filter_selects_on_every_page() -> None:
    """And an empty list is a page without a next one."""
    engine = Engine()
    search = await some(engine, 10, team="search")
    await some(engine, 10, team="ads")
    await engine.app.tasks.cancel(tenant(), search[3], "")
    found = await pages(engine, 'labels.team = "search" AND status = PENDING', 4)
    assert [task.id for page in found for task in page] == [*search[:3], *search[4:]]
    assert await pages(engine, 'labels.team = "none"') == [[]]
    with pytest.raises(errors.InvalidArgument) as refusal:
        await pages(engine, "status = SLEEPING")
    assert refusal.value.violations[0].field == "filter"


async def test_a_page_token_is_of_its_list_alone() -> None:
    """With another filter, in another workspace, or made up, it is refused; never an error of ours, never a right."""
    engine = Engine()
    await some(engine, 5)
    tasks = engine.app.tasks
    token = (await tasks.list(tenant(), "priority = 3", 2, "", View.BASIC)).next_page_token
    place = base64.urlsafe_b64decode(token + "==")
    made_up = [
        base64.urlsafe_b64encode(json.dumps(value).encode()).decode()
        for value in (
            [],
            5,
            None,
            {"a": 1},
            ["x", "y", "z"],
            [1e300, "a", "b"],
            [10**30, "a", "b"],
            [float("nan"), "a", "b"],
            [-(10**15), "a", "b"],
            [[1], "a", "b"],
            [1, "\ud800", "b"],
            [1, "\ud800", json.loads(place)[-1]],
        )
    ]
    tries = [
        (tenant(), "priority = 4", token),
        (tenant(), "", token),
        (tenant("ws-2"), "priority = 3", token),
        (tenant(), "priority = 3", token[:-4]),
        (tenant(), "priority = 3", "é"),
        (tenant(), "priority = 3", "\ud800"),
        (tenant(), "priority = 3", "A"),
        (tenant(), "priority = 3", base64.urlsafe_b64encode(b"[" * 100_000).decode()),
        (tenant(), "priority = 3", base64.urlsafe_b64encode(b"\xff" + place).decode()),
        *((tenant(), "priority = 3", text) for text in made_up),
    ]
    for principal, text, used in tries:
        with pytest.raises(errors.InvalidArgument) as refusal:
            await tasks.list(principal, text, 2, used, View.BASIC)
        assert refusal.value.violations[0].field == "page_token"
    with pytest.raises(errors.InvalidArgument) as refusal:
        await tasks.list(tenant(), "priority = 3", 2, token, View.FULL)
    assert refusal.value.violations[0].field == "page_token"
    rest = await tasks.list(tenant(), "priority = 3", 1000, token, View.BASIC)
    assert len(rest.tasks) == 3


async def test_many_are_read_at_once_and_each_by_itself() -> None:
    """In the order asked for, in one read; what does not exist, or is another's, is None."""
    store = DistantStore()
    engine = Engine(store)
    ids = await some(engine, 5)
    foreign = await engine.submit(tenant("ws-2"))
    store.calls.clear()
    found = await engine.app.tasks.get_many(
        tenant(), [ids[2], "task-1f7f", ids[0].upper(), new_task_id(), foreign.id, ids[2]], View.FULL
    )
    assert [task and task.id for task in found] == [ids[2], None, ids[0], None, None, ids[2]]
    assert store.calls["get_tasks"] <= 2


async def test_another_workspaces_task_does_not_exist() -> None:
    """Nor does an id that is none: the same answer."""
    engine = Engine()
    task = await engine.submit()
    assert (await engine.app.tasks.get(tenant(), task.id.upper(), View.BASIC)).id == task.id
    for principal, task_id in ((tenant("ws-2"), task.id), (tenant(), "task-1f7f"), (tenant(), "")):
        with pytest.raises(errors.TaskNotFound):
            await engine.app.tasks.get(principal, task_id, View.BASIC)


async def test_counts_are_by_status() -> None:
    """Of the workspace's tasks that the filter selects; a status that none has is left out."""
    engine = Engine()
    ids = await some(engine, 6, team="search")
    await some(engine, 3, team="ads")
    await engine.submit(tenant("ws-2"))
    await engine.app.tasks.cancel(tenant(), ids[0], "")
    assert await engine.app.tasks.count(tenant(), "") == {Status.PENDING: 8, Status.CANCELLED: 1}
    assert await engine.app.tasks.count(tenant(), "labels.team = ads") == {Status.PENDING: 3}
    assert await engine.app.tasks.count(tenant(), "labels.team = none") == {}
    with pytest.raises(errors.InvalidArgument):
        await engine.app.tasks.count(tenant(), "team ~ x")


async def test_counting_costs_the_database_no_more_however_often_it_is_asked_for() -> None:
    """What was counted is told to all who ask for some seconds; then it is counted anew."""
    store = DistantStore()
    store.delay = 0.5
    engine = Engine(store)
    await some(engine, 2)
    store.calls.clear()
    for _ in range(3):
        counts = await asyncio.gather(*(engine.app.tasks.count(tenant(), "") for _ in range(50)))
        assert counts == [{Status.PENDING: 2}] * 50
    assert store.calls["count_tasks"] == 1
    assert await engine.app.tasks.count(tenant("ws-2"), "") == {}
    await some(engine, 1)
    await asyncio.sleep(COUNT_SECONDS)
    assert await engine.app.tasks.count(tenant(), "") == {Status.PENDING: 3}
    assert store.calls["count_tasks"] == 3


async def test_a_count_that_fails_is_not_kept() -> None:
    """All who wait for it hear why, and the next one counts anew; a caller that gives up takes nobody's answer away."""
    store = DistantStore()
    engine = Engine(store)
    await some(engine, 1)
    store.cut = "count_tasks"
    results = await asyncio.gather(*(engine.app.tasks.count(tenant(), "") for _ in range(5)), return_exceptions=True)
    assert {type(result) for result in results} == {errors.Unavailable}
    store.cut = ""
    store.gates["count_tasks"] = asyncio.Event()
    first, second = (asyncio.create_task(engine.app.tasks.count(tenant(), "")) for _ in range(2))
    await asyncio.sleep(1)
    first.cancel()
    store.gates["count_tasks"].set()
    assert await second == {Status.PENDING: 1}


async def test_counts_have_a_bound_for_each_workspace_and_one_for_all() -> None:
    """Whatever filters somebody thinks of: one count of it is under way, and two of all; others wait, so many."""
    store = DistantStore()
    engine = Engine(store)
    gate = store.gates["count_tasks"] = asyncio.Event()

    def count(workspace: str, number: int) -> asyncio.Task[Mapping[Status, int]]:
        return asyncio.create_task(engine.app.tasks.count(tenant(workspace), f"labels.n = {number}"))

    crowd = [count("ws-1", number) for number in range(WAITING + 1)]
    await asyncio.sleep(1)
    assert store.calls["count_tasks"] == 1
    again = count("ws-1", 0)  # what is being counted already takes no place
    with pytest.raises(errors.Overloaded):
        await count("ws-1", WAITING + 1)
    crowd.pop().cancel()
    crowd.append(count("ws-1", WAITING + 1))
    others = [count("ws-2", 0), count("ws-3", 0)]
    await asyncio.sleep(1)
    assert store.calls["count_tasks"] == 2
    gate.set()
    assert await asyncio.gather(*crowd, *others, again) == [{}] * (WAITING + 4)
    assert store.calls["count_tasks"] == WAITING + 3


async def test_a_count_that_takes_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workspace's next one has its turn then."""
    limits = []

    async def count_tasks(*_: object) -> None:
        limits.append(_[-1])
        raise TooMuch

    engine = Engine()
    with monkeypatch.context() as patched:
        patched.setattr(MemoryStore, "count_tasks", count_tasks)
        with pytest.raises(errors.DeadlineExceeded):
            await engine.app.tasks.count(tenant(), "")
    assert limits == [WITHIN_SECONDS]
    assert await engine.app.tasks.count(tenant(), "") == {}


async def test_counts_that_are_kept_are_bounded() -> None:
    """Whatever filters a workspace thinks of; those that were counted last are kept."""
    store = DistantStore()
    engine = Engine(store)
    for number in range(COUNTS + 1):
        await engine.app.tasks.count(tenant(), f"labels.n = {number}")
    await engine.app.tasks.count(tenant(), "labels.n = 1")
    assert store.calls["count_tasks"] == COUNTS + 1
    await engine.app.tasks.count(tenant(), "labels.n = 0")
    assert store.calls["count_tasks"] == COUNTS + 2
    assert len(engine.app.tasks._counts._known) == COUNTS


async def test_a_batch_is_answered_task_by_task() -> None:
    """A crowd of submits in one write: one that is refused stops no other."""
    store = DistantStore()
    engine = Engine(store)
    await engine.submit(dedupe_key="taken")
    store.calls.clear()
    results = await asyncio.gather(
        *(engine.submit(dedupe_key="taken" if number == 7 else "") for number in range(20)), return_exceptions=True
    )
    assert [number for number, result in enumerate(results) if isinstance(result, errors.DedupeKeyTaken)] == [7]
    assert sum(isinstance(result, Task) for result in results) == 19
    assert store.calls["insert_tasks"] <= 3


LARGE = b"x" * 600_000


async def test_a_page_ends_where_the_answer_is_full() -> None:
    """Large payloads and metadata end a page early; its token goes on from there, and each task comes once."""
    store = DistantStore()
    engine = Engine(store)
    made = []
    for number in range(12):
        await asyncio.sleep(0.001)
        made.append(await engine.submit(payload=LARGE if number % 2 else b"small"))
    tasks, seen, token = engine.app.tasks, list[Task](), ""
    turned = 0
    while not turned or token:
        listed = await tasks.list(tenant(), "", 100, token, View.FULL)
        assert sum(len(task.payload) for task in listed.tasks) <= answers.BYTES
        seen += listed.tasks
        token, turned = listed.next_page_token, turned + 1
    assert turned == 2
    assert [(task.id, task.payload) for task in seen] == [(task.id, task.payload) for task in reversed(made)]
    assert [len(page) for page in await pages(engine, size=12)] == [12]

    wordy = {f"{number}": "x" * 1000 for number in range(60)}
    for _ in range(50):
        await engine.submit(labels=wordy)
    first, second = await pages(engine, size=1000)
    assert len(first) + len(second) == 62
    assert answers.BYTES - 70_000 < sum(map(answers.weight, first)) <= answers.BYTES


async def test_many_are_read_as_far_as_they_fit() -> None:
    """The first always is; what was not asked for in full is not read, so more of them fit."""
    engine = Engine(DistantStore())
    ids = [(await engine.submit(payload=LARGE)).id for _ in range(6)]
    huge = await engine.submit(payload=b"x" * (answers.BYTES + 1))
    read = engine.app.tasks.get_many
    assert [task and task.id for task in await read(tenant(), ids, View.FULL)] == ids[:4]
    assert len(await read(tenant(), ids, View.RESULT)) == 6
    assert [task and task.id for task in await read(tenant(), [huge.id, *ids], View.FULL)] == [huge.id]
    assert await read(tenant(), [new_task_id(), "x", *ids], View.FULL) == [
        None,
        None,
        *await read(tenant(), ids, View.FULL),
    ]


async def test_lists_leave_the_database_to_others() -> None:
    """One of a workspace's is read at a time, and two of all; of the rest so many wait, in their order."""
    store = DistantStore()
    engine = Engine(store)
    store.gates["list_tasks"] = gate = asyncio.Event()

    def lists(workspace: str, count: int) -> list[asyncio.Task[Listed]]:
        caller = tenant(workspace)
        return [asyncio.create_task(engine.app.tasks.list(caller, "", 5, "", View.BASIC)) for _ in range(count)]

    asked = lists("ws-1", engine_lists.WAITING + 2)
    with pytest.raises(errors.Overloaded):
        await asked.pop()
    await asyncio.sleep(0.1)
    assert store.calls["list_tasks"] == 1
    asked += lists("ws-2", 1) + lists("ws-3", 1)
    await asyncio.sleep(0.1)
    assert store.calls["list_tasks"] == 2
    for given_up in asked[-2:]:
        given_up.cancel()
    asked[-2:] = lists("ws-4", 1)
    await asyncio.sleep(0.1)
    assert store.calls["list_tasks"] == 2  # what was begun goes on in the database
    asked.pop(1).cancel()
    gate.set()
    assert not any(listed.tasks for listed in await asyncio.gather(*asked))
    assert store.calls["list_tasks"] == len(asked) + 1  # what only waited was not read
    assert not engine.app.tasks._lists._asked


async def test_while_a_list_is_made_its_workspaces_others_keep_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several pages the first are kept until the last is there: by one list of a workspace at a time."""
    monkeypatch.setattr(engine_tasks, "PART", 2)
    store = DistantStore()
    engine = Engine(store)
    for _ in range(4):
        await engine.submit()
    store.gates["large_tasks"] = gate = asyncio.Event()
    lists = [asyncio.create_task(engine.app.tasks.list(tenant(), "", 4, "", View.RESULT)) for _ in range(3)]
    await asyncio.sleep(1)
    assert store.calls["list_tasks"] == 1
    gate.set()
    assert [len((await listed).tasks) for listed in lists] == [4, 4, 4]
    assert store.calls["list_tasks"] == 6


@pytest.mark.parametrize("view", [View.BASIC, View.RESULT])
async def test_of_a_page_no_more_is_kept_than_fits_into_the_answer(view: View) -> None:
    """While another is read: twenty calls at once would keep twenty pages, of tasks with much metadata 59 MB each."""
    store = DistantStore()
    engine = Engine(store)
    metadata = {f"key-{number}": "x" * 4096 for number in range(64)}
    for _ in range(20):
        await engine.submit(metadata=metadata)
    store.gates["large_tasks"] = gate = asyncio.Event()
    calls = [asyncio.create_task(engine.app.tasks.list(tenant(), "", 20, "", view)) for _ in range(3)]
    await asyncio.sleep(1)
    gc.collect()
    listed = [one for one in gc.get_objects() if type(one) is Task and one.metadata and not one.events]
    assert len(listed) <= 3 * answers.BYTES / (64 * 4096)
    gate.set()
    for call in calls:
        assert 0 < len((await call).tasks) < 12
