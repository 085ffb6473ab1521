"""The logs of a real process: one JSON object a line, and the text of no exception, whoever raised it."""

import json
import logging
import subprocess
import sys

import pytest

from openmcp_chain import logs

PROGRAM = """
import asyncio, gc, logging, threading, warnings
from openmcp_chain import logs

logs.configure("DEBUG")
log = logging.getLogger("openmcp_chain.x")
log.debug("ours")
logging.getLogger("pymongo.command").debug("S3CRET document")
log.info("a\\nb\\x1b[31m\\u2028c", extra={"field": "d\\ne", "odd": object()})
try:
    try:
        raise ValueError("S3CRET")
    except ValueError as error:
        raise RuntimeError("S3CRET") from error
except RuntimeError:
    log.exception("caught")

class Finalised:
    def __del__(self):
        raise ValueError("S3CRET")

Finalised()

def fail():
    raise ValueError("S3CRET")

thread = threading.Thread(target=fail)
thread.start()
thread.join()

async def forget():
    logs.guard(asyncio.get_running_loop())
    async def fail_soon():
        raise ValueError("S3CRET")
    task = asyncio.ensure_future(fail_soon())
    await asyncio.wait([task])
    del task
    gc.collect()

asyncio.run(forget())
raise ValueError("S3CRET")
"""


def test_every_way_out_of_a_process_is_json_without_texts() -> None:
    """Logged, forgotten, in a finaliser, in a thread, and the one that ends the process: all by type and place."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "S3CRET" not in done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["message"] for line in lines] == [
        "ours",
        "a\nb\x1b[31m\u2028c",
        "caught",
        "unforeseen, in a finaliser",
        "unforeseen, in a thread",
        "unforeseen, outside of any call",
        "stopped by an exception",
    ]
    assert lines[1]["field"] == "d\ne"
    assert lines[1]["odd"] == "object"
    assert [part["type"] for part in lines[2]["exception"]] == ["builtins.RuntimeError", "builtins.ValueError"]
    for line in lines[3:]:
        assert line["exception"][0]["type"] == "builtins.ValueError"
        assert line["exception"][0]["at"]


def test_what_grpc_logs_has_no_words() -> None:
    """Headers that are no UTF-8 are quoted there, tokens among them: only where that is said is kept, and its type."""
    try:
        b"Bearer S3CRET\xff".decode()
    except UnicodeDecodeError as error:
        caught = (type(error), error, error.__traceback__)
    for name in ("grpc", "grpc._cython.cygrpc"):
        record = logging.LogRecord(name, logging.ERROR, "common.pxi", 7, "on %s", (b"S3CRET",), caught, "_decode")
        line = logs.JsonFormatter().format(record)
        assert "S3CRET" not in line
        entry = json.loads(line)
        assert (entry["logger"], entry["level"], entry["at"]) == (name, "ERROR", "common.pxi:7 _decode")
        assert entry["exception"][0]["type"] == "builtins.UnicodeDecodeError"
    record = logging.LogRecord("grpcish", logging.ERROR, "x", 1, "a %s", ("b",), None)
    assert json.loads(logs.JsonFormatter().format(record))["message"] == "a b"


@pytest.mark.parametrize("text", ["\x1b[2J", "\r\n{}", "\u2028", "\ud800", "\0"])
def test_nothing_that_is_logged_forges_a_line(text: str) -> None:
    """Whatever stands in a message or a field: one line of ASCII that parses."""
    record = logging.makeLogRecord({"msg": "%s", "args": (text,), "field": text, "levelname": "INFO", "name": "x"})
    line = logs.JsonFormatter().format(record)
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["message"] == json.loads(line)["field"] == text
