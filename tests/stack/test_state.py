"""The data folder: its lock, its private files, its memory."""

import json
import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest

from openmcp_chain.stack.failure import StackError
from openmcp_chain.stack.state import DataFolder, Info, Memory, write_private

INFO = Info(
    rest_url="http://127.0.0.1:1",
    grpc_target="127.0.0.1:2",
    envoy_grpc_target="127.0.0.1:1",
    mongodb_uri="mongodb://127.0.0.1:3",
    workspace_id="ws-demo",
    workspace_secret="s3cret",
    files_dir="/files",
    pids={"envoy": 1},
)


def test_what_is_published(tmp_path: Path) -> None:
    """dev.json holds every field, and only its owner may read it; it goes when the folder is closed."""
    with DataFolder(tmp_path / "data") as folder:
        folder.publish(INFO)
        tls = {"ca_file", "cert_file", "key_file"}
        assert set(json.loads(folder.dev_json.read_text())) == {field.name for field in fields(Info)} - tls
        folder.publish(replace(INFO, ca_file="/ca.pem", cert_file="/c.pem", key_file="/c.key"))
        assert set(json.loads(folder.dev_json.read_text())) == {field.name for field in fields(Info)}
        assert folder.dev_json.stat().st_mode & 0o777 == 0o600
    assert not folder.dev_json.exists()


def test_secrets_are_private(tmp_path: Path) -> None:
    """The master key and what is remembered of secrets may be read by their owner only."""
    with DataFolder(tmp_path / "data") as folder:
        folder.remember(Memory(workspace_secret="s3cret"))
        for path in folder.path.iterdir():
            assert path.stat().st_mode & 0o077 == 0, path


def test_a_private_file_is_whole_and_takes_the_place_of_files_only(tmp_path: Path) -> None:
    """An open one is replaced by one that is closed to others; what is no file stays, and nothing is left behind."""
    file, pipe = tmp_path / "file", tmp_path / "pipe"
    file.write_text("before")
    file.chmod(0o644)
    os.mkfifo(pipe)
    write_private(file, "after")
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("after", 0o600)
    for taken in (pipe, tmp_path):
        with pytest.raises(FileExistsError, match="is no file"):
            write_private(taken, "after")
    assert pipe.is_fifo()
    assert sorted(tmp_path.iterdir()) == [file, pipe]


def test_a_second_user_is_refused(tmp_path: Path) -> None:
    """Another process can't have the folder at the same time; it is told who has it."""
    script = f"from openmcp_chain.stack.state import *; DataFolder(Path({str(tmp_path)!r}))"
    with DataFolder(tmp_path):
        second = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert f"is in use by process {os.getpid()}; stop it, or choose another with --data-dir" in second.stderr
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_the_rest_of_a_killed_run_is_cleared(tmp_path: Path) -> None:
    """A dev.json that a killed stack left behind doesn't look like a stack that is ready."""
    (tmp_path / "dev.json").write_text("{}")
    with DataFolder(tmp_path) as folder:
        assert not folder.dev_json.exists()


def test_memory_lasts(tmp_path: Path) -> None:
    """What is remembered, and the master key, are the same at the next start."""
    memory = Memory(workspace_secret="a", operator_secret="b", last_task="c")
    with DataFolder(tmp_path) as folder:
        assert folder.recall() == Memory()
        folder.remember(memory)
        key = folder.master_key.read_text()
    with DataFolder(tmp_path) as folder:
        assert folder.recall() == memory
        assert folder.master_key.read_text() == key


def test_spoilt_memory_is_none(tmp_path: Path) -> None:
    """A memory that can't be read doesn't keep the stack from starting."""
    (tmp_path / "memory.json").write_text('{"workspace_secret": ')
    with DataFolder(tmp_path) as folder:
        assert folder.recall() == Memory()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    """A data folder that can't be one is refused with the reason."""
    (tmp_path / "data").write_text("")
    with pytest.raises(StackError, match=r"^data folder .*data can't be used: File exists"):
        DataFolder(tmp_path / "data")


def test_a_folder_whose_name_is_not_utf8(tmp_path: Path) -> None:
    """It is refused before anything is made in it: databases, JSON and URIs have no form for its name."""
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    with pytest.raises(StackError, match=r"^data folder '.*/\\udcff' can't be used: its name is not UTF-8$"):
        DataFolder(odd)
    assert not odd.exists()
