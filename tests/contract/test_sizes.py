"""Large tasks through the whole stack: every ordinary read answers, whatever is in the tasks."""

from typing import Any

import pytest
from support.rest import Rest

from openmcp_chain import structs

MANY = 10


def read(rest: Rest, path: str, **query: Any) -> dict[str, Any]:
    answer = rest.http.get(path, params=query)
    assert answer.status_code == 200, answer.text[:500]
    return dict(answer.json())


@pytest.fixture(scope="module")
def large(rest: Rest) -> list[str]:
    """Tasks with 900 KB of payload and as much of result, the oldest first."""
    made = [rest.submit("echo", {"x": "y" * 900_000, "n": n}, labels={"of": "sizes"}) for n in range(MANY)]
    for task_id in made:
        rest.ended(task_id)
    return made


@pytest.mark.parametrize("view", ["BASIC", "", "FULL"])
def test_many_are_read_by_as_many_calls_as_it_takes(rest: Rest, large: list[str], view: str) -> None:
    """What had no room in an answer is named, and comes by the next."""
    left, found = large, list[dict[str, Any]]()
    query = {"view": view} if view else {}
    while left:
        answer = read(rest, "/v1/tasks:batchGet", task_ids=left, **query)
        assert answer["not_found"] == []
        found += answer["tasks"]
        assert len(answer["tasks"]) + len(answer["omitted"]) == len(left)
        left = answer["omitted"]
    assert [task["task_id"] for task in found] == large
    assert [bool(task["result"]) for task in found] == [view != "BASIC"] * MANY


def test_pages_in_full_go_on_to_the_end(rest: Rest, large: list[str]) -> None:
    """A page that has no room for all ends early; the next begins there."""
    listed, token = list[dict[str, Any]](), ""
    while not listed or token:
        page = read(rest, "/v1/tasks", view="FULL", filter='labels.of = "sizes"', page_size=1000, page_token=token)
        listed += page["tasks"]
        token = page["next_page_token"]
    assert [task["task_id"] for task in listed] == list(reversed(large))
    assert [task["payload"]["n"] for task in listed] == list(reversed(range(MANY)))


@pytest.mark.parametrize("character", ["<", "\x01", "é", "😀"])
def test_the_largest_task_is_read_whole(rest: Rest, character: str) -> None:
    """A mebibyte in and out of what JSON escapes at length, with all the metadata that there may be."""
    text = character * ((structs.BYTES - 30) // len(character.encode()))
    # In JSON as it is sent, escapes would make the request too large.
    sent = {"type": "echo", "payload": {"x": text}, "metadata": {f"{n:02}": character * 250 for n in range(60)}}
    if character == "\x01":
        sent["payload"] = {"x": text[: len(text) // 2]}
    answer = rest.http.post("/v1/tasks", json=sent)
    assert answer.status_code == 200, answer.text
    task_id = answer.json()["task_id"]
    assert rest.ended(task_id)["result"] == sent["payload"]
    task = read(rest, f"/v1/tasks/{task_id}", view="FULL")
    assert (task["payload"], task["metadata"]) == (sent["payload"], sent["metadata"])
