"""The environment that the peers live in, apart from ours: `make bench` makes it of `requirements/peers.lock`."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path

from bench.lab import ROOT

FOLDER = ROOT / ".venv" / "peers"
PYTHON = FOLDER / "bin" / "python"
PACKAGES = ("arq", "celery", "kombu", "procrastinate", "psycopg", "taskiq", "taskiq-redis", "redis")


def installed() -> bool:
    """Is it there?"""
    return PYTHON.exists()


def find(command: str, wheel: str = "") -> str:
    """The path of a program: of the environment (in that folder of its packages, if one is told), else on the PATH.

    Raises RuntimeError if there is none.
    """
    folders = [str(packages / wheel) for packages in _packages()] if wheel else []
    path = os.pathsep.join([*folders, str(FOLDER / "bin"), os.environ.get("PATH", os.defpath)])
    if (found := shutil.which(command, path=path)) is None:
        raise RuntimeError(f"{command} is neither in {FOLDER} nor on the PATH")
    return str(Path(found).resolve())


def versions(*programs: str) -> Sequence[str]:
    """Names and versions of what is measured: of the packages, and of programs by their paths."""
    installed = {one.name: one.version for one in distributions(path=[str(packages) for packages in _packages()])}
    told = [subprocess.check_output([path, "--version"], text=True) for path in programs]
    found = [re.search(r"\d+(\.\d+)+", line) for line in told]
    of_programs = [f"{Path(path).name} {number[0]}" for path, number in zip(programs, found, strict=True) if number]
    return [*(f"{name} {installed[name]}" for name in PACKAGES), *of_programs]


def _packages() -> Sequence[Path]:
    return list(FOLDER.glob("lib/python*/site-packages"))
