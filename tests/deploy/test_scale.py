"""docs/scale.md shows what was measured, and what the code does: its tables and numbers are not copied by hand."""

import json
import re
from functools import cache
from typing import Any

from bench import markdown
from bench.scale import model, pages, shards
from bench.scale.model import Load, Prices
from openmcp_chain import config
from openmcp_chain.domain.task import PRIORITIES
from openmcp_chain.engine import identity, looks, queues, room, signals, sweep
from openmcp_chain.store.mongo import client

PRICES = Prices(busy=((100, 3),), follow=1, envoy=0.5, signal=0.5, changed=0.002, waiting=0.01, idle=20, document=1000)


@cache
def measured() -> dict[str, Any]:
    kept: dict[str, Any] = json.loads(pages.KEPT.read_text())
    return kept


def test_tables_are_those_of_what_was_measured() -> None:
    """If this fails after a measurement: `python -m bench.scale --render`."""
    assert pages.PAGE.read_text() == pages.filled(pages.PAGE.read_text(), measured())
    assert (markdown.RESULTS / "scale.md").read_text() == pages.results(measured())


def test_links_lead_somewhere() -> None:
    """Files and headings."""
    for link in re.findall(r"\]\(([^)]+)\)", pages.PAGE.read_text()):
        path, _, heading = link.partition("#")
        if "://" not in link:
            target = pages.PAGE.parent / path if path else pages.PAGE
            assert target.exists(), link
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE) if heading else []
            anchors = [one.lower().replace(",", "").replace(" ", "-") for one in headings]
            assert not heading or heading in anchors, link


def test_numbers_are_those_of_the_code() -> None:
    """Those in the prose."""
    prose = " ".join(pages.PAGE.read_text().split())
    heard = signals.HEARD_A_SECOND
    pause = 1000 / heard
    assert f"pauses {pause:g} ms for each other server" in prose
    assert f"heard {heard} times a second" in prose
    assert f"`hearing = {heard} × signal" in prose
    assert f"{model.told_late(20):.1f} s with 20 servers, {model.told_late(100):.0f} s with 100" in prose
    assert f"names {signals.KEYS:,} at most" in prose
    assert f"busy for {model.BUSY} of its core" in prose
    assert f"unless the same server did within {identity.RECALL_SECONDS:g} s" in prose
    assert 1 / queues.REFRESH_SECONDS == 2  # "twice a second"
    assert "each server asks for changes twice a second" in prose
    assert f"{model.beats(100):,.0f} documents a second with 100 servers" in prose
    assert model.looks(60) == len(PRIORITIES)  # of one, in a minute
    assert f"{len(PRIORITIES)} for each quiet type of a workspace in a minute" in prose
    assert looks.RARELY_SECONDS == 60
    assert f"it keeps {room.TASKS:,} at most" in prose
    assert f"deletes {sweep.DELETED:,} at a time, twice a second" in prose
    assert sweep.INTERVAL_SECONDS == 0.5
    assert f"Each server has {client.CONNECTIONS} connections" in prose
    free = config.load_plans({})["free"]
    assert f"burst of {free.burst}: **{free.burst} Envoys are the most**" in prose
    assert f"{pages.KEPT_DAYS} days" in prose


def test_first_limits_are_where_the_page_says() -> None:
    """By the prices that were measured: if they change so much, the prose has to."""
    prices = pages.prices(measured())
    small, large = model.servers(prices, Load(1_000)), model.servers(prices, Load(10_000))
    half = model.servers(prices, Load(5_000))
    assert small
    assert small < 12  # "a handful"
    assert large
    assert half
    assert 2 * half < large
    assert model.left(prices, 10_000) < 0.8 * model.BUSY * 1000  # "a fifth and more"
    assert model.servers(prices, Load(100_000)) is None
    assert pages.CELL * 20 == 100_000


def test_what_is_left_to_a_server_is_what_others_tasks_leave() -> None:
    """More servers carry more, until all that they may use goes into hearing; then none are enough."""
    few, many = model.servers(PRICES, Load(1_000)), model.servers(PRICES, Load(10_000))
    assert few
    assert many
    assert many > 10 * few
    end = model.ceiling(PRICES)
    assert model.left(PRICES, end) == 0 or abs(model.left(PRICES, end)) < 1e-6
    assert model.servers(PRICES, Load(end * 1.01)) is None
    assert model.alone(PRICES, Load(end * 1.01)) > 0


def test_the_largest_workspace_bounds_a_cluster_of_ranges() -> None:
    """However many shards there are, its part of the load is on one of them; hashed keys have no such bound."""
    parts = shards.shares()
    for count in (3, 60):
        even = shards.simulate(count)
        assert even.balanced >= max(1, parts[0] * count) - 1e-9
        assert even.by_chance >= even.balanced
        assert even.hashed < 1.1
