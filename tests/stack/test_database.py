"""Which database the stack runs, and how a mongod of its own becomes a replica set."""

import sys
from pathlib import Path
from typing import Any, cast

import pytest
from pymongo import AsyncMongoClient
from pymongo.errors import OperationFailure

from openmcp_chain.stack import database
from openmcp_chain.stack.database import Database
from openmcp_chain.stack.failure import StackError
from openmcp_chain.stack.probes import DatabaseProbe


@pytest.fixture
def no_mongod(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A PATH of one folder, empty so far."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    return programs


def test_a_given_database_is_used(tmp_path: Path) -> None:
    """With a URI there is nothing to run, and its credentials are not part of what is shown."""
    chosen = database.choose("mongodb://user:pass@db.example:27017/?tls=true", tmp_path)
    assert chosen.program is None
    assert chosen.uri == "mongodb://user:pass@db.example:27017/?tls=true"
    assert chosen.address == "db.example:27017"


def test_mongod_is_preferred(no_mongod: Path, tmp_path: Path) -> None:
    """A mongod on the PATH is run, as a member of a replica set, on loopback only."""
    (no_mongod / "mongod").touch(mode=0o755)
    chosen = database.choose("", tmp_path)
    assert chosen.kind == "mongod"
    assert chosen.program is not None
    argv = list(chosen.program.argv)
    assert argv[0] == str(no_mongod / "mongod")
    assert argv[argv.index("--replSet") + 1] == database.REPLICA_SET
    assert argv[argv.index("--bind_ip") + 1] == "127.0.0.1"


def test_the_embedded_database_is_the_last_choice(no_mongod: Path, tmp_path: Path) -> None:
    """Without mongod it is SecantusDB, with the setting without which kill -9 loses acknowledged writes."""
    chosen = database.choose("", tmp_path)
    assert chosen.kind == "SecantusDB"
    assert chosen.program is not None
    assert chosen.program.env["WIREDTIGER_CONFIG"] == "transaction_sync=(enabled=true,method=none)"
    assert "retryWrites=false" in chosen.uri


class Mongod:
    """What a mongod that is no primary says, and what it is told."""

    def __init__(self, config: dict[str, Any] | None) -> None:
        self._config = config
        self.told: list[tuple[str, dict[str, Any]]] = []

    @property
    def admin(self) -> "Mongod":
        return self

    async def command(self, name: str, value: Any = None, **_: Any) -> dict[str, Any]:
        if name == "hello":
            return {"isWritablePrimary": False}
        if name == "replSetGetConfig":
            if self._config is None:
                raise OperationFailure("no replset config has been received", 94)
            return {"config": self._config}
        self.told.append((name, value))
        return {"ok": 1}


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (None, [("replSetInitiate", {"_id": "openmcp", "members": [{"_id": 0, "host": "127.0.0.1:2"}]})]),
        (
            {"_id": "openmcp", "version": 3, "members": [{"_id": 0, "host": "127.0.0.1:1"}]},
            [
                (
                    "replSetReconfig",
                    {"_id": "openmcp", "version": 4, "members": [{"_id": 0, "host": "127.0.0.1:2"}]},
                )
            ],
        ),
        ({"_id": "openmcp", "version": 4, "members": [{"_id": 0, "host": "127.0.0.1:2"}]}, []),
    ],
    ids=["new", "another port", "electing"],
)
async def test_a_mongod_becomes_a_replica_set(
    config: dict[str, Any] | None, told: list[tuple[str, dict[str, Any]]]
) -> None:
    """A new mongod is initiated, one of an earlier run gets this run's port, one that is still electing is left alone.

    Against a stand-in, since no package index carries mongod; the commands are those of MongoDB's manual.
    """
    probe = DatabaseProbe(Database("mongod", "mongodb://127.0.0.1:2/?directConnection=true", None))
    mongod = Mongod(config)
    probe._client = cast("AsyncMongoClient[dict[str, Any]]", mongod)
    assert not await probe()
    assert mongod.told == told


@pytest.mark.parametrize(("python", "advice"), [((3, 13), "`stack` extra"), ((3, 14), "use Python 3.11 to 3.13")])
def test_no_database_at_all(
    no_mongod: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: tuple[int, int], advice: str
) -> None:
    """What to do is told: on a Python for which there is no embedded database, nobody is sent to install one."""
    monkeypatch.setattr(sys, "executable", str(no_mongod / "python"))
    monkeypatch.setattr(sys, "version_info", python)
    with pytest.raises(StackError, match=rf"^no database to run: put mongod on the PATH, .*{advice}"):
        database.choose("", tmp_path)
