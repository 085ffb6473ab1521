"""Structured logs: one JSON object a line, with the ids by which a call or a task is found again.

What is never in them: tokens, secrets, payloads, and the text of exceptions. An exception is logged by its type and the
places it passed, because nobody can promise what its text holds (a database driver's may hold a password, a decoder's a
piece of the request). So is what gRPC logs: it quotes headers that it can't decode, `authorization` among them.
"""

import asyncio
import json
import logging
import sys
import threading
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from opentelemetry import trace

request_id: ContextVar[str] = ContextVar("request_id", default="")
method: ContextVar[str] = ContextVar("method", default="")
workspace: ContextVar[str] = ContextVar("workspace", default="")
"""Whose call it is: by its token, whether or not that still counts, or at a sign-in by what it says."""
trace_id: ContextVar[str] = ContextVar("trace_id", default="")

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: control characters escaped, so that nothing logged can forge a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
        }
        if record.name.partition(".")[0] == "grpc":
            entry["message"] = "gRPC's own words, not shown"
            entry["at"] = f"{record.pathname}:{record.lineno} {record.funcName}"
        else:
            entry["message"] = record.getMessage()
        if current := request_id.get():
            entry["request_id"] = current
        if current := method.get():
            entry["method"] = current
        if current := workspace.get():
            entry["workspace"] = current
        span = trace.get_current_span().get_span_context()
        if current := trace.format_trace_id(span.trace_id) if span.is_valid else trace_id.get():
            entry["trace_id"] = current
        entry.update({key: value for key, value in vars(record).items() if key not in _STANDARD})
        if record.exc_info and record.exc_info[1]:
            entry["exception"] = describe(record.exc_info[1])
        return json.dumps(entry, default=lambda value: type(value).__name__)


def describe(error: BaseException) -> list[dict[str, object]]:
    """The chain of exceptions, each with its type and the places it passed; no texts. Of a group, its first one."""
    chain: list[dict[str, object]] = []
    current: BaseException | None = error
    while current is not None and len(chain) < 5:
        if isinstance(current, BaseExceptionGroup):  # says nothing by itself
            current = current.exceptions[0]
        frames = traceback.extract_tb(current.__traceback__)[-8:]
        chain.append(
            {
                "type": f"{type(current).__module__}.{type(current).__qualname__}",
                "at": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
            }
        )
        current = current.__cause__ or current.__context__
    return chain


def configure(level: str) -> None:
    """Sends all logs of this process to standard error, as JSON; fatal exceptions as well."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    # The level is that of our own logs. Others' debug logs hold what ours never do: a database driver's, each document.
    logging.basicConfig(level=max(logging.INFO, logging.getLevelNamesMapping()[level]), handlers=[handler], force=True)
    logging.getLogger(__package__).setLevel(level)
    # What no line of ours has need not be looked up for each.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_fatal
    sys.unraisablehook = _log_unraisable
    threading.excepthook = _log_thread


def tells_fatal() -> bool:
    """Whether what ends this process is logged, if it is raised: then nobody need show its text."""
    return sys.excepthook is _log_fatal


def guard(loop: asyncio.AbstractEventLoop) -> None:
    """Logs by our rules what a forgotten task raised; asyncio's own report would show the exception's text."""
    loop.set_exception_handler(_log_forgotten)


def _log_fatal(_: type[BaseException], error: BaseException, __: TracebackType | None) -> None:
    logging.getLogger(__name__).critical("stopped by an exception", exc_info=error)


def _log_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    logging.getLogger(__name__).error("unforeseen, in a finaliser", exc_info=unraisable.exc_value)


def _log_thread(ended: threading.ExceptHookArgs) -> None:
    logging.getLogger(__name__).error("unforeseen, in a thread", exc_info=ended.exc_value)


def _log_forgotten(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    logging.getLogger(__name__).error("unforeseen, outside of any call", exc_info=context.get("exception"))
