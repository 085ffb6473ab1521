"""The small rules: retries and pauses, what an id is, whose a secret is, what a plans file says."""

import uuid
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.samples import NOW, SECOND, WORKSPACE, make_task

from openmcp_chain.domain import ids, plans, queue, retry, workspace
from openmcp_chain.domain.plans import Plan
from openmcp_chain.domain.queue import QueueState, Waiting
from openmcp_chain.domain.retry import RetryPolicy
from openmcp_chain.domain.task import Queue
from openmcp_chain.domain.workspace import SECRET_PREFIX, Kind, Scope, Secret, State, Workspace

LATER = NOW + SECOND
JITTER = st.floats(min_value=0, max_value=1, exclude_max=True)
POLICIES = st.builds(
    RetryPolicy,
    st.integers(0, 3_600_000).map(lambda milliseconds: timedelta(milliseconds=milliseconds)),
    st.floats(1, 10),
    st.integers(0, 86_400_000).map(lambda milliseconds: timedelta(milliseconds=milliseconds)),
    st.integers(1, 100),
)
"""All that the contract lets a submit name."""
PEPPER = b"pepper"


@given(policy=POLICIES, attempt=st.integers(1, 10_000), jitter=JITTER)
def test_a_backoff_is_between_nothing_and_the_attempts_ceiling(
    policy: RetryPolicy, attempt: int, jitter: float
) -> None:
    """In whole milliseconds, under every policy that a submit may name, however many attempts there were."""
    delay = policy.backoff(attempt, jitter)
    ceiling = policy.initial_interval.total_seconds() * policy.backoff_coefficient ** min(attempt - 1, 300)
    assert timedelta() <= delay <= policy.maximum_interval
    assert delay.total_seconds() <= ceiling + 0.001
    assert delay % timedelta(milliseconds=1) == timedelta()


@given(policy=POLICIES, attempt=st.integers(1, 100), jitter=JITTER)
def test_a_backoff_does_not_shrink_with_attempts(policy: RetryPolicy, attempt: int, jitter: float) -> None:
    """For the same luck, the next wait is no shorter."""
    assert policy.backoff(attempt, jitter) <= policy.backoff(attempt + 1, jitter)


def test_backoffs_spread_over_the_whole_interval() -> None:
    """Full jitter: twice the luck, twice the wait."""
    waits = [retry.DEFAULT.backoff(3, jitter) / timedelta(milliseconds=1) for jitter in (0, 0.25, 0.5, 0.75)]
    assert waits == [0, 500, 1000, 1500]


def test_a_slow_backoff_comes_to_its_maximum() -> None:
    """With a coefficient of 1.1, some 50 attempts take it from one second to a hundred."""
    policy = RetryPolicy(timedelta(seconds=1), 1.1, timedelta(seconds=100), 100)
    waits = [policy.backoff(attempt, 1.0).total_seconds() for attempt in (1, 2, 31, 49, 50, 100)]
    assert waits == [1, 1.1, 17.449, 97.017, 100, 100]


def test_a_queue_is_paused_and_resumed_once() -> None:
    """The same again changes nothing, not even its reason; a change raises the version."""
    new = queue.new(Queue("ws-1", "data_pipeline"), NOW)
    assert (new.paused_at, new.version) == (None, 1)
    assert new.resumed(LATER) is new
    paused = new.paused("upkeep", LATER)
    assert (paused.paused_at, paused.reason, paused.changed_at, paused.version) == (LATER, "upkeep", LATER, 2)
    assert paused.paused("another reason", LATER + SECOND) is paused
    resumed = paused.resumed(LATER + SECOND)
    assert resumed == QueueState(new.queue, None, "", NOW, LATER + SECOND, 3)


def test_a_hint_of_a_task_names_its_queue() -> None:
    """The one in which the task itself is."""
    task = make_task()
    assert Waiting(task.key, task.type, task.priority, task.submitted_at, task.due_at).queue == task.queue


@given(st.uuids())
def test_every_uuid_is_one(value: uuid.UUID) -> None:
    """In lower case, in upper case; with anything around it, or in another notation, it is none."""
    text = str(value)
    assert ids.is_uuid(text)
    assert ids.is_uuid(text.upper())
    assert not any(map(ids.is_uuid, [value.hex, f"{{{text}}}", f"{text}\n", f" {text}", value.urn, text[:-1]]))


@given(st.text())
def test_what_is_taken_for_a_uuid_is_one(text: str) -> None:
    """No text passes that Python's parser would refuse."""
    if ids.is_uuid(text):
        assert str(uuid.UUID(text)) == text.lower()


@pytest.mark.parametrize("text", ["ws-1234", "a", "0", "a" * 64, str(uuid.UUID(int=0)), "a--b"])
def test_workspace_ids(text: str) -> None:
    """Those of the specification, and every lower-case UUID."""
    assert ids.is_workspace_id(text)


@pytest.mark.parametrize("text", ["", "A", "a" * 65, "-a", "a-", "a/b", "a.b", "a b", "a\n", "é", "٣", "a_b"])
def test_no_workspace_ids(text: str) -> None:
    """Above all none with a slash, which separates it from a task's id in storage."""
    assert not ids.is_workspace_id(text)


@given(st.uuids(), st.uuids())
def test_a_request_id_makes_one_task_id_in_each_workspace(one: uuid.UUID, other: uuid.UUID) -> None:
    """The same one every time, in whatever case it is written; another one for another request or workspace."""
    made = ids.from_request_id("ws-1", str(one))
    assert ids.is_uuid(made)
    assert made == ids.from_request_id("ws-1", str(one).upper())
    assert made != ids.from_request_id("ws-2", str(one))
    assert (made == ids.from_request_id("ws-1", str(other))) is (one == other)


def with_secret(number: int) -> tuple[str, Secret]:
    """A secret as its owner has it, and as it is kept."""
    shown = f"{SECRET_PREFIX}{number:08x}_{'s' * 42}{number}"
    salt = bytes([number]) * 16
    return shown, Secret(f"{number:08x}", salt, workspace.digest(PEPPER, salt, shown), NOW)


FIRST, SECOND_ONE = with_secret(1), with_secret(2)
TENANT = replace(WORKSPACE, secrets=(FIRST[1], SECOND_ONE[1]))


def test_each_valid_secret_matches_and_says_which_it_is() -> None:
    """Two are valid during a rotation."""
    assert workspace.matches(TENANT, FIRST[0], PEPPER, NOW) == FIRST[1]
    assert workspace.matches(TENANT, SECOND_ONE[0], PEPPER, NOW) == SECOND_ONE[1]


@pytest.mark.parametrize(
    ("tenant", "presented", "pepper"),
    [
        (None, FIRST[0], PEPPER),
        (replace(TENANT, state=State.DISABLED), FIRST[0], PEPPER),
        (replace(TENANT, secrets=()), FIRST[0], PEPPER),
        (replace(TENANT, secrets=(SECOND_ONE[1],)), FIRST[0], PEPPER),
        (TENANT, FIRST[0], b"another pepper"),
        (TENANT, FIRST[0][:-1] + "x", PEPPER),
        (TENANT, FIRST[0].replace("00000001", "00000002"), PEPPER),
        (TENANT, FIRST[0] + "\n", PEPPER),
        (TENANT, FIRST[0].upper(), PEPPER),
        (TENANT, "", PEPPER),
        (TENANT, "x" * 100_000, PEPPER),
        (TENANT, "é😀", PEPPER),
    ],
)
def test_anything_else_does_not_match(tenant: Workspace | None, presented: str, pepper: bytes) -> None:
    """Unknown, disabled, revoked, mistyped, shapeless: one and the same answer."""
    assert workspace.matches(tenant, presented, pepper, NOW) is None


@given(st.text())
def test_no_text_breaks_the_comparison(presented: str) -> None:
    """Whatever a client sends for a secret, the answer is an answer."""
    assert workspace.matches(TENANT, presented, PEPPER, NOW) is None


def test_each_kind_may_do_its_own_and_nothing_else() -> None:
    """An operator's token can neither submit nor read a tenant's tasks, and no tenant's token manages workspaces."""
    assert Kind.TENANT.scopes == {Scope.TASKS_READ, Scope.TASKS_WRITE, Scope.WORKER}
    assert Kind.OPERATOR.scopes == {Scope.WORKER}
    assert Kind.ADMINISTRATOR.scopes == {Scope.ADMIN}


def test_a_secret_ends_when_it_expires() -> None:
    """From that very moment on."""
    ending = replace(TENANT, secrets=(replace(FIRST[1], expires_at=NOW + SECOND), SECOND_ONE[1]))
    assert workspace.matches(ending, FIRST[0], PEPPER, NOW) is not None
    assert workspace.matches(ending, FIRST[0], PEPPER, NOW + SECOND) is None
    assert workspace.matches(ending, SECOND_ONE[0], PEPPER, NOW + SECOND) is not None


def test_plans_are_read_from_their_tables() -> None:
    """Each by its name; 0 requests a second means no limit; a plan that gives no weight weighs 1."""
    free = {"requests_per_second": 5, "burst": 10, "streams": 2}
    unlimited = {"requests_per_second": 0, "burst": 0, "streams": 1, "weight": 3}
    assert plans.parse({"free": free, "unlimited": unlimited}) == {
        "free": Plan("free", 5, 10, 2, weight=1),
        "unlimited": Plan("unlimited", 0, 0, 1, weight=3),
    }


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (5, r"must be a table, \[gold\]"),
        ({"requests_per_second": 5, "burst": 10}, "lacks streams"),
        ({"requests_per_second": 5, "burst": 10, "streams": 2, "other": 1}, "has no limit other; only requests_per_"),
        ({"requests_per_second": 5, "burst": 10, "streams": True}, "streams must be a whole number"),
        ({"requests_per_second": -1, "burst": 10, "streams": 2}, "needs requests_per_second >= 0"),
        ({"requests_per_second": 5, "burst": 4, "streams": 2}, "burst >= requests_per_second"),
        ({"requests_per_second": 5, "burst": 10, "streams": 0}, "streams, pending_tasks and weight >= 1"),
        ({"requests_per_second": 5, "burst": 10, "streams": 2, "weight": 0}, "and weight >= 1"),
    ],
)
def test_a_wrong_plan_is_named(wrong: object, words: str) -> None:
    """So whoever wrote the file finds the line, in words that are not Python's."""
    with pytest.raises(ValueError, match=f"plan gold: .*{words}"):
        plans.parse({"gold": wrong})
