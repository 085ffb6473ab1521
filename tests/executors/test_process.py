"""The transforming process: what it has, and what it leaves."""

import asyncio
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import psutil
import pytest
from support.pipelines import LONG

from openmcp_chain.executors.codes import Code, Refused
from openmcp_chain.executors.transform import process
from openmcp_chain.executors.transform.job import Done, Format, Job, decode_reply, encode_reply


def job(sql: str | None = None) -> Job:
    return Job(
        input_format=Format.JSON,
        output_format=Format.JSON,
        sql=sql,
        memory_bytes=256 << 20,
        spill_bytes=64 << 20,
        output_bytes=1 << 20,
        output_rows=1000,
        threads=2,
    )


def test_what_goes_over_the_pipe() -> None:
    """Jobs and all kinds of reply come out as they went in."""
    assert Job.decode(job("SELECT 'é\n'").encode()) == job("SELECT 'é\n'")
    assert decode_reply(encode_reply(Done(1, 2, 3))) == Done(1, 2, 3)
    with pytest.raises(Refused) as refused:
        decode_reply(encode_reply(Refused(Code.SQL_INVALID, "no")))
    assert (refused.value.code, refused.value.message) == (Code.SQL_INVALID, "no")
    with pytest.raises(RuntimeError, match="KeyError"):
        decode_reply(encode_reply("KeyError"))


async def test_a_fault_of_ours_tells_no_value(tmp_path: pathlib.Path) -> None:
    """A fault comes back as its type and its place in the code: no message, which could hold data."""
    with pytest.raises(RuntimeError) as caught:
        await process.run(job(), tmp_path, seconds=30)  # there is no input
    assert "met a fault: FileNotFoundError\n" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


async def test_it_has_none_of_the_workers_environment(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials in the worker's environment do not reach the process that runs tenants' SQL."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    seen: dict[str, str] = {}
    start = asyncio.create_subprocess_exec

    async def spy(*arguments: str, **options: Any) -> asyncio.subprocess.Process:
        started = await start(*arguments, **options)
        while not seen:  # there is none before the new program has begun
            seen.update(psutil.Process(started.pid).environ())
        return started

    monkeypatch.setattr(asyncio, "create_subprocess_exec", spy)
    (tmp_path / "input").write_text('[{"a":1}]')
    assert await process.run(job(), tmp_path, seconds=30) == Done(1, 1, 1)
    assert seen["TZ"] == "UTC"
    assert not [name for name in seen if name.startswith("AWS")]


def test_it_dies_with_its_worker(tmp_path: pathlib.Path) -> None:
    """When the worker's end of the pipe closes, as it does when the worker is killed, the process ends mid-query."""
    (tmp_path / "input").write_text("[]")
    with subprocess.Popen(
        [sys.executable, "-I", "-m", "openmcp_chain.executors.transform"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        env={name: os.environ[name] for name in ("PATH",)},
    ) as child:
        assert child.stdin
        child.stdin.write(job(LONG).encode())
        child.stdin.close()
        assert child.wait(30) == 1


def test_a_job_is_one_line() -> None:
    """The process reads one line, so a job must not have a second."""
    assert job("SELECT\n1").encode().count(b"\n") == 1
    assert json.loads(job().encode())["input_format"] == "json"
