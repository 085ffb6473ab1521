"""Files in and out: inside the allowed folder only, and whole or not at all."""

import asyncio
import contextlib
import hashlib
import json
import os
import pathlib
import resource
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import psutil
import pytest
from support.pipelines import LONG, Bench, context

from openmcp_chain.executors.codes import Refused
from openmcp_chain.executors.data_pipeline import Limits, Policy, files, uris
from openmcp_chain.worker.task import TaskFailed

MakeBench = Callable[..., Bench]


async def test_the_result(bench: Bench) -> None:
    """The artifact is where the result says, with the checksum, size and counts that it says."""
    uri = bench.put("input.json", '[{"city":"Oslo","n":2},{"city":"Bergen","n":3}]')
    result = await bench.run(input_uri=uri, sql="SELECT sum(n) AS n FROM input", output_format="csv")
    data = (bench.files / "output.csv").read_bytes()
    assert data == b"n\n5\n"
    assert result == {
        "artifact_uri": bench.uri("output.csv"),
        "checksum": f"sha256:{hashlib.sha256(data).hexdigest()}",
        "rows_in": 2,
        "rows": 1,
        "columns": 1,
        "bytes": 4,
        "format": "csv",
    }
    assert bench.names() == {"input.json", "output.csv"}
    assert not any(path.is_file() for path in bench.work.rglob("*"))


async def test_a_default_never_replaces(bench: Bench) -> None:
    """Two tasks with one input: equal artifacts share the name, a different one gets its own, and both results hold."""
    uri = bench.put("input.json", '[{"a":1}]')
    first = await bench.run("task-a", input_uri=uri)
    again = await bench.run("task-b", input_uri=uri)
    other = await bench.run("task-c", input_uri=uri, sql="SELECT 2 AS a")
    assert first["artifact_uri"] == again["artifact_uri"] == bench.uri("output.json")
    assert other["artifact_uri"] == bench.uri("output-task-c.json")
    for result in (first, again, other):
        path = bench.files / str(result["artifact_uri"]).rpartition("/")[2]
        assert result["checksum"] == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


async def test_an_explicit_output_replaces(bench: Bench) -> None:
    """A payload that names its output means it; missing folders are made."""
    uri = bench.put("input.json", '[{"a":1}]')
    for value in (1, 2):
        await bench.run(input_uri=uri, output_uri=bench.uri("new/deep/out.json"), sql=f"SELECT {value} AS a")
    assert json.loads((bench.files / "new/deep/out.json").read_text()) == [{"a": 2}]


async def test_a_uri_is_decoded(bench: Bench) -> None:
    """Names with spaces, percent signs and letters of any script work, and come back as a URI that works."""
    (bench.files / "å 100%.json").write_text('[{"a":1}]')
    result = await bench.run(input_uri=bench.uri("å 100%.json"))
    assert (bench.files / "å 100%.output.json").exists()
    assert result["artifact_uri"] == bench.uri("å 100%.output.json")


async def test_a_missing_input(bench: Bench) -> None:
    """What is not there is told by the URI as it was given."""
    failed = await bench.fails(input_uri=bench.uri("input.json"))
    assert (failed.code, failed.retryable) == ("INPUT_NOT_FOUND", False)
    assert failed.message == f"{bench.uri('input.json')}: there is no such file"


async def test_a_name_too_long(bench: Bench) -> None:
    """A file or folder whose name no file system takes is not there, and will not be at another attempt."""
    for path in ("x" * 300, f"{'x' * 300}/input.json"):
        failed = await bench.fails(input_uri=bench.uri(path), input_format="json", output_uri=bench.uri("out.json"))
        assert (failed.code, failed.retryable) == ("INPUT_NOT_FOUND", False)


async def test_a_bad_input_is_told_by_its_uri(bench: Bench) -> None:
    """The place in the input is told after the URI, and the folder gets no artifact."""
    failed = await bench.fails(input_uri=bench.put("input.json", '[{"a":1},\n{"a":}]'))
    assert failed.code == "INPUT_INVALID"
    assert failed.message == f"{bench.uri('input.json')}: record 2, line 2, column 6: Expecting value"
    assert bench.names() == {"input.json"}


async def test_an_input_too_large(make_bench: MakeBench) -> None:
    """An input past the limit is refused at the limit."""
    bench = make_bench(limits=Limits(input_bytes=10))
    failed = await bench.fails(input_uri=bench.put("input.json", '[{"a":1,"b":2}]'))
    assert (failed.code, failed.retryable) == ("INPUT_TOO_LARGE", False)


async def test_a_sparse_input(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that says it has a terabyte is refused by its size, and not a byte of it is copied."""
    with (bench.files / "input.json").open("wb") as file:
        file.truncate(1 << 40)
    monkeypatch.setattr(files, "_read", None)
    assert (await bench.fails(input_uri=bench.uri("input.json"))).code == "INPUT_TOO_LARGE"


@pytest.mark.parametrize("name", ["folder.json", "pipe.json", "socket.json"])
async def test_what_is_no_file(bench: Bench, name: str) -> None:
    """Folders, named pipes and sockets are no inputs, nor at another attempt; opening a pipe does not hang."""
    (bench.files / "folder.json").mkdir()
    os.mkfifo(bench.files / "pipe.json")
    with socket.socket(socket.AF_UNIX) as listening, contextlib.chdir(bench.files):  # a socket's path must be short
        listening.bind("socket.json")
        failed = await bench.fails(input_uri=bench.uri(name))
    assert (failed.code, failed.retryable) == ("INPUT_INVALID", False)


async def test_a_device_is_no_file(tmp_path: pathlib.Path) -> None:
    """Nor is a device, which has no end; not even where the operator allows its folder."""
    access = Policy.parse('[default]\nfiles = ["/dev"]').access("ws-test")
    with pytest.raises(Refused) as refused:
        await files.fetch(uris.parse("file:///dev/zero"), access, tmp_path / "copy", Limits())
    assert refused.value.code == "INPUT_INVALID"


async def test_a_file_with_another_name(bench: Bench, tmp_path: pathlib.Path) -> None:
    """A hard link is not read, for its other name may be outside; writing to it leaves what the other name has."""
    outside = tmp_path / "secret.json"
    outside.write_text('[{"a":1}]')
    (bench.files / "link.json").hardlink_to(outside)
    failed = await bench.fails(input_uri=bench.uri("link.json"))
    assert failed.code == "ACCESS_DENIED"
    assert "hard link" in failed.message
    inside = bench.put("input.json", '[{"b":2}]')
    await bench.run(input_uri=inside, output_uri=bench.uri("link.json"))
    assert outside.read_text() == '[{"a":1}]'
    assert json.loads((bench.files / "link.json").read_text()) == [{"b": 2}]


async def test_a_path_of_many_parts(bench: Bench) -> None:
    """However deep a path is, the worker has no more files open for it, so that other tasks have theirs."""
    uri = bench.put("input.json", '[{"a":1}]')
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (psutil.Process().num_fds() + 60, hard))
    try:
        await bench.run(input_uri=uri, output_uri=bench.files.as_uri() + "/a" * 200 + "/out.json")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert list(bench.files.rglob("out.json"))


async def test_outside_the_folder(bench: Bench, tmp_path: pathlib.Path) -> None:
    """Nothing outside the allowed folder is read or written, there or not, and the answer does not tell which."""
    (tmp_path / "secret.json").write_text("[]")
    (tmp_path / "files-2").mkdir()
    inside = bench.put("input.json", "[]")
    for name in ("secret.json", "absent.json", "files-2/x.json"):
        uri = (tmp_path / name).as_uri()
        for fields in ({"input_uri": uri}, {"input_uri": inside, "output_uri": uri}):
            failed = await bench.fails(**fields)
            assert (failed.code, failed.message) == ("ACCESS_DENIED", f"{uri}: this workspace may not touch it")
    assert list((tmp_path / "files-2").iterdir()) == []
    assert (tmp_path / "secret.json").read_text() == "[]"


async def test_another_workspace(bench: Bench) -> None:
    """A workspace that the policy does not name may touch no folder."""
    uri = bench.put("input.json", "[]")
    stranger = replace(context(), workspace_id="ws-stranger")
    with pytest.raises(TaskFailed) as caught:
        await bench.pipeline({"input_uri": uri}, stranger)
    assert caught.value.code == "ACCESS_DENIED"


async def test_symbolic_links_are_not_followed(bench: Bench, tmp_path: pathlib.Path) -> None:
    """Neither a linked file nor a linked folder is gone through, to read or to write."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.json").write_text('[{"a":1}]')
    (bench.files / "link.json").symlink_to(outside / "secret.json")
    (bench.files / "folder").symlink_to(outside)
    inside = bench.put("input.json", "[]")
    for fields in (
        {"input_uri": bench.uri("link.json")},
        {"input_uri": bench.uri("folder/secret.json")},
        {"input_uri": inside, "output_uri": bench.uri("folder/out.json")},
    ):
        failed = await bench.fails(**fields)
        assert failed.code == "ACCESS_DENIED"
        assert "symbolic link" in failed.message
        assert str(outside) not in failed.message
    assert [path.name for path in outside.iterdir()] == ["secret.json"]


async def test_a_link_at_the_final_name_is_replaced_not_followed(bench: Bench, tmp_path: pathlib.Path) -> None:
    """An artifact takes the place of a link; what the link pointed to stays as it was."""
    victim = tmp_path / "victim.json"
    victim.write_text("untouched")
    (bench.files / "out.json").symlink_to(victim)
    await bench.run(input_uri=bench.put("input.json", '[{"a":1}]'), output_uri=bench.uri("out.json"))
    assert victim.read_text() == "untouched"
    assert not (bench.files / "out.json").is_symlink()


async def test_a_folder_swapped_for_a_link_meanwhile(
    bench: Bench, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder replaced by a link after it was opened changes nothing: the artifact stays in what was opened."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (bench.files / "sub").mkdir()
    write = files._write

    def swap_then_write(*arguments: object) -> str:
        (bench.files / "sub").rename(bench.files / "moved")
        (bench.files / "sub").symlink_to(outside)
        return write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(files, "_write", swap_then_write)
    await bench.run(input_uri=bench.put("input.json", '[{"a":1}]'), output_uri=bench.uri("sub/out.json"))
    assert list(outside.iterdir()) == []
    assert (bench.files / "moved" / "out.json").exists()


def test_a_folder_that_keeps_changing_into_a_link(bench: Bench, tmp_path: pathlib.Path) -> None:
    """Whenever it is looked at, a folder that somebody swaps for a link again and again leads nowhere else."""
    outside = tmp_path / "outside"
    for folder, text in ((bench.files / "real", "inside"), (outside, "outside")):
        folder.mkdir()
        (folder / "x.json").write_text(text)
    (bench.files / "link").symlink_to(outside)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for name in ("real", "link"):
                (bench.files / name).rename(bench.files / "sub")
                (bench.files / "sub").rename(bench.files / name)

    uri, copy = uris.parse(bench.uri("sub/x.json")), tmp_path / "copy"
    access = Policy.parse(f'[default]\nfiles = ["{bench.files}"]').access("ws-test")
    seen = Counter[str]()
    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for _ in range(3000):
            try:
                files._fetch(uri, access, copy, Limits(), threading.Event())
                seen[copy.read_text()] += 1
            except Refused as refused:
                seen[refused.code] += 1
    finally:
        stop.set()
        swapping.join()
    assert set(seen) <= {"inside", "ACCESS_DENIED", "INPUT_NOT_FOUND"}
    assert {"inside", "ACCESS_DENIED"} <= set(seen), "the swaps were never met"


async def test_a_folder_in_the_artifacts_place(bench: Bench) -> None:
    """An artifact that cannot take its place is OUTPUT_FAILED, and leaves nothing beside it."""
    (bench.files / "out.json").mkdir()
    failed = await bench.fails(input_uri=bench.put("input.json", '[{"a":1}]'), output_uri=bench.uri("out.json"))
    assert (failed.code, failed.retryable) == ("OUTPUT_FAILED", False)
    assert bench.names() == {"input.json", "out.json"}


async def test_a_full_disk_may_be_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the disk half-way leaves nothing at any name, and another attempt may help."""

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    failed = await bench.fails(input_uri=bench.put("input.json", '[{"a":1}]'))
    assert (failed.code, failed.retryable) == ("OUTPUT_FAILED", True)
    assert bench.names() == {"input.json"}


async def test_cancelled_while_the_artifact_is_written(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelling waits for the writing to stop, and leaves nothing at any name."""
    entered, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    read = files._read

    def read_when_told(file: int, stop: threading.Event) -> bytes:
        loop.call_soon_threadsafe(entered.set)
        go_on.wait(30)
        stop.wait(30)
        return read(file, stop)

    uri = bench.put("input.json", '[{"a":1}]')
    fetch = files._fetch

    def fetch_then_arm(*arguments: object) -> None:
        fetch(*arguments)  # type: ignore[arg-type]
        monkeypatch.setattr(files, "_read", read_when_told)

    monkeypatch.setattr(files, "_fetch", fetch_then_arm)
    running = asyncio.ensure_future(bench.run(input_uri=uri))
    await entered.wait()
    running.cancel()
    go_on.set()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert running.cancelled()
    assert bench.names() == {"input.json"}


KILLED = """
import asyncio, pathlib, sys, threading
from support.pipelines import Bench
from openmcp_chain.executors.data_pipeline import files

def stop(*arguments):
    print("written", flush=True)
    threading.Event().wait()

files._place = stop
bench = Bench(pathlib.Path(sys.argv[1]))
asyncio.run(bench.run("task-k", 1, input_uri=bench.put("input.json", '[{"a":1}]')))
"""


async def test_killed_before_the_artifact_has_its_name(make_bench: MakeBench, tmp_path: pathlib.Path) -> None:
    """A kill -9 just before the rename: no artifact. The next attempt makes it and removes what the dead one left."""
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parent.parent)}
    with subprocess.Popen(  # noqa: ASYNC220 - nothing else runs meanwhile
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    ) as worker:
        assert worker.stdout
        assert worker.stdout.readline() == "written\n"
        worker.kill()
    assert {path.name for path in (tmp_path / "files").iterdir()} == {"input.json", ".task-k.1.part"}
    assert list((tmp_path / "work").glob("worker-*/*/input"))
    bench = make_bench()
    await bench.run("task-k", 2, input_uri=bench.uri("input.json"))
    assert bench.names() == {"input.json", "output.json"}
    assert len(list(bench.work.glob("worker-*"))) == 1


async def test_workers_share_a_folder(make_bench: MakeBench) -> None:
    """A worker that starts sweeps up after dead ones, not after the living."""
    first = make_bench()
    second = make_bench()
    uri = first.put("input.json", '[{"a":1}]')
    await asyncio.gather(first.run("task-1", input_uri=uri), second.run("task-2", input_uri=uri))
    assert len(list(first.work.glob("worker-*"))) == 2


async def until(condition: Callable[[], object]) -> None:
    """Waits for another process, which has no event to wait on; the test's timeout bounds it."""
    while not condition():  # noqa: ASYNC110 - see above
        await asyncio.sleep(0.01)


def transforming() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):  # it may end while it is looked at
            if "openmcp_chain.executors.transform" in child.cmdline():
                found.append(child)
    return found


async def test_cancelled_in_the_middle_of_a_query(bench: Bench) -> None:
    """Cancelling ends the query at once, its process is gone when the call returns, and no file is left."""
    uri = bench.put("input.json", '[{"a":1}]')
    running = asyncio.ensure_future(bench.run(input_uri=uri, sql=LONG))
    # The query has begun when DuckDB has opened the output.
    await until(lambda: running.done() or list(bench.work.rglob("output")))
    assert not running.done()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert running.cancelled()
    assert transforming() == []
    assert bench.names() == {"input.json"}
    assert not any(path.is_file() for path in bench.work.rglob("*"))


async def test_a_query_past_its_time(make_bench: MakeBench) -> None:
    """A query that takes too long ends FAILED, and its process with it."""
    bench = make_bench(limits=Limits(transform_seconds=1.0))
    failed = await bench.fails(input_uri=bench.put("input.json", "[]"), sql=LONG)
    assert (failed.code, failed.message) == ("LIMIT_EXCEEDED", "the task: takes longer than 1 s")
    assert transforming() == []


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT list_sum(range(1000000000)) AS n",
        "SELECT repeat('x', 2000000000) AS t",
        "SELECT list(range) AS l FROM range(1000000000)",
        "SELECT range, hash(range) AS h, repeat('x', 100) AS t FROM range(1200000) ORDER BY h LIMIT 1200000 OFFSET 1",
    ],
)
async def test_a_query_past_its_memory(make_bench: MakeBench, sql: str) -> None:
    """Neither one huge value, nor a huge list, nor a huge sort takes more of the machine than it may."""
    bench = make_bench(limits=Limits(memory_bytes=64 << 20, spill_bytes=16 << 20, transform_seconds=60))
    failed = await bench.fails(input_uri=bench.put("input.json", "[]"), sql=sql)
    assert failed.code == "LIMIT_EXCEEDED"
    assert "memory" in failed.message  # and not its time
    assert str(bench.work) not in failed.message


async def test_a_transforming_process_that_dies(bench: Bench) -> None:
    """If the process is killed from outside, the task may be tried again."""
    running = asyncio.ensure_future(bench.run(input_uri=bench.put("input.json", "[]"), sql=LONG))
    await until(transforming)
    transforming()[0].kill()
    with pytest.raises(TaskFailed) as caught:
        await running
    assert (caught.value.code, caught.value.retryable) == ("LIMIT_EXCEEDED", True)


def test_limits_are_checked() -> None:
    """A limit of nothing, or of more than S3 can take, is an error at start."""
    with pytest.raises(ValueError, match="input_bytes: must be more than 0"):
        Limits(input_bytes=0)
    with pytest.raises(ValueError, match="output_bytes: S3 takes"):
        Limits(output_bytes=6 << 30)
