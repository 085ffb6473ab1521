"""What every room's tests may ask for."""

import copy
import gc
import logging
import os
import random
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest
from _pytest.logging import LogCaptureHandler
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

pytest_plugins = ("support.database", "support.logscan")


def pytest_configure(config: pytest.Config) -> None:
    """Programs of this environment (Envoy, buf, …) are found, whether it is activated or not."""
    # What is frozen below is let go of after pytest's own last look, for those who look for leaks at the very end.
    config.add_cleanup(gc.unfreeze)
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # Not installed; httpcore looks for it once more, in every folder that Python has, whenever a client takes a lock.
    sys.modules.setdefault("sniffio", None)  # type: ignore[arg-type]  # which makes the look a short one
    LogCaptureHandler.emit = keep_without_frames  # type: ignore[method-assign]
    # How long an example takes says something of the machine, and nothing of the code.
    hypothesis.settings.register_profile("untimed", deadline=None)
    hypothesis.settings.load_profile("untimed")


def keep_without_frames(self: LogCaptureHandler, record: logging.LogRecord) -> None:
    """Keeps what was logged to the test's end, of an exception its text: its frames hold calls of gRPC's.

    To let go of these after gRPC itself has been shut down has crashed the process.
    """
    if record.exc_info:
        text, record = logging.Formatter().formatException(record.exc_info), copy.copy(record)
        record.exc_text, record.exc_info = text, None
    self.records.append(record)
    logging.StreamHandler.emit(self, record)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is collected stays to the end: the garbage collector need not look for more in it, then or later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Each process looks through folders in an order of its own: what one has compiled, the others find.

    In a fresh clone all would else compile all at once, which is most of what collecting costs.
    """
    report = yield
    if isinstance(collector, pytest.Directory):
        random.Random(os.environ.get("PYTEST_XDIST_WORKER", "")).shuffle(report.result)  # noqa: S311 - an order
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All processes have the tests in one order again, as they must."""
    items.sort(key=lambda item: item.path)


TOGETHER = ("tests/contract", "tests/envoy", "tests/readme", "tests/security")
"""Folders whose tests share what takes long to start: one process runs them all."""
FIRST = ("tests/contract", "tests/stack/test_dev.py", "tests/security", "tests/readme", "tests/fleet/test_keys.py")
"""What takes longest, whatever the number of its tests: begun last, it would end last, beside idle processes."""

SEEDS = 3
"""Rounds of a test with seeds that are not slow."""


class InUnits(LoadScopeScheduling):  # type: ignore[misc]  # its base ships no types
    """The processes share the run file by file, or folder by folder where a folder's tests share what is dear."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        folder = file.rpartition("/")[0]
        return folder if folder in TOGETHER else file

    def _assign_work_unit(self, node: WorkerController) -> None:
        """The units named above come first, the others by how many tests they have."""
        for unit in reversed(FIRST):
            if unit in self.workqueue:
                self.workqueue.move_to_end(unit, last=False)
        super()._assign_work_unit(node)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> InUnits:
    """Of our own: the groups of pytest-xdist 3.8 are without effect under pytest 9.2."""
    return InUnits(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of single rooms; pytest takes none from further down."""
    parser.addoption(
        "--seeds", type=int, default=SEEDS, help=f"how many rounds a test with seeds has (default: {SEEDS})"
    )
    parser.addoption("--examples", type=int, default=0, help="tests/model: how many, at random (default: a fixed few)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for a `seed` has a round for each from 1 to --seeds; those past SEEDS are slow."""
    if "seed" in metafunc.fixturenames:
        few = range(1, SEEDS + 1)
        seeds = range(1, metafunc.config.getoption("seeds") + 1)
        marked = [seed if seed in few else pytest.param(seed, marks=pytest.mark.slow) for seed in seeds]
        metafunc.parametrize("seed", marked)
