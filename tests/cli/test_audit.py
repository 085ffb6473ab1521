"""`openmcp audit`: what it shows of a log into which others may write words of their own."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from support.service import SETTINGS
from typer.testing import CliRunner

from openmcp_chain.cli.main import app
from openmcp_chain.config import Config
from openmcp_chain.domain.audit import Action, Actor
from openmcp_chain.engine import clock
from openmcp_chain.engine.administration import Administration
from openmcp_chain.engine.queues import Queues
from openmcp_chain.stack import administration
from openmcp_chain.store.memory import MemoryStore

MALLORY = Actor("mallory", "request-1")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Administration:
    """The administration that the commands get."""
    store = MemoryStore()
    made = Administration(store, SETTINGS.master, SETTINGS.plans, Queues(store, clock.system), clock.system)

    @asynccontextmanager
    async def open_it(_: Config) -> AsyncIterator[Administration]:
        yield made

    monkeypatch.setattr(administration, "opened", open_it)
    return made


def shown(*arguments: str) -> str:
    command = ["audit", "list", "--mongodb-uri=mongodb://not-used", *arguments]
    key = base64.b64encode(bytes(32)).decode()
    result = CliRunner().invoke(app, command, env={"OPENMCP_MASTER_KEY": key})
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(
    "reason",
    [
        "x\n2026-01-01T00:00:00Z  local:root  key.revoke",
        "x\r2026-01-01T00:00:00Z  local:root  key.revoke",
        "x\u2028y\x1b[2K\x9b1A\u202e",
        "x secret_id=0123abcd",
        'x" secret_id="0123abcd',
    ],
)
def test_nobodys_words_are_taken_for_the_logs_own(opened: Administration, reason: str) -> None:
    """However a reason is written, it stays in its quotes, on the one line of its event, as it was."""
    write(opened, Action.WORKSPACE_DISABLE, "ws-1", {"reason": reason})
    (line,) = shown().splitlines()
    assert line.isprintable()
    told = line.split("  workspace.disable  ws-1  reason=")[1]
    assert told.startswith('"')
    assert '"' not in told[1:-1].replace('\\"', "")
    (event,) = json.loads(shown("--json"))
    assert event["details"] == {"reason": reason}


def test_words_of_the_product_stand_bare(opened: Administration) -> None:
    """Ids, plans and numbers are read, and found by grep, as they are."""
    details = {"plan": "free", "secret_id": "0123abcd", "overlap": "0.5s", "signs_from": "2026-01-01T00:00:00+00:00"}
    write(opened, Action.SECRET_CREATE, "ws-1", details)
    assert shown().rstrip().endswith(f"mallory  secret.create  ws-1  {_flat(details)}")


def test_as_many_as_are_asked_for(opened: Administration) -> None:
    """The newest first, page after page, however long the log is."""
    for number in range(1100):
        write(opened, Action.WORKSPACE_UPDATE, f"ws-{number}")
    for limit in (1, 1050, 2000):
        lines = shown(f"--limit={limit}").splitlines()
        assert [line.split()[-1] for line in lines] == [f"ws-{1099 - n}" for n in range(min(limit, 1100))]


def write(opened: Administration, *event: Any) -> None:
    asyncio.run(opened.audit.write(MALLORY, *event))


def _flat(details: dict[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in details.items())
