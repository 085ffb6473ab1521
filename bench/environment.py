"""The environments that the peers live in, apart from ours: `make bench` makes them of `requirements/peers*.lock`."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from bench.lab import ROOT


@dataclass(frozen=True, slots=True)
class Environment:
    """One of them."""

    name: str
    packages: Sequence[str]
    """Whose versions matter."""

    @property
    def folder(self) -> Path:
        """Where it is."""
        return ROOT / ".venv" / self.name

    @property
    def python(self) -> str:
        """The path of its interpreter."""
        return str(self.folder / "bin" / "python")

    def packaged(self, place: str) -> Sequence[Path]:
        """Folders of this name among its packages."""
        return list(self.folder.glob(f"lib/python*/site-packages/{place}"))

    def versions(self) -> str:
        """Of the packages that matter."""
        all_ = {one.name: one.version for one in distributions(path=[str(one) for one in self.packaged("")])}
        return f"{', '.join(f'{name} {all_[name]}' for name in self.packages)} (redis-py {all_['redis']})"


ARQ = Environment("peers-arq", ("arq",))
PEERS = Environment("peers", ("celery", "kombu", "procrastinate", "psycopg", "taskiq", "taskiq-redis"))
ALL = (ARQ, PEERS)


def missing() -> Sequence[str]:
    """The folders of those that aren't there."""
    return [str(one.folder) for one in ALL if not Path(one.python).exists()]


def find(command: str, place: str = "") -> str:
    """The path of a program: of the peers' (in that folder of their packages, if one is told), else on the PATH.

    Raises RuntimeError if there is none.
    """
    folders = [str(folder) for folder in PEERS.packaged(place)] if place else []
    path = os.pathsep.join([*folders, str(PEERS.folder / "bin"), os.environ.get("PATH", os.defpath)])
    if (found := shutil.which(command, path=path)) is None:
        raise RuntimeError(f"{command} is neither in {PEERS.folder} nor on the PATH")
    return str(Path(found).resolve())


def version(program: str) -> str:
    """Name and version of a program, by its path."""
    told = re.search(r"\d+(\.\d+)+", subprocess.check_output([program, "--version"], text=True))
    return f"{Path(program).name} {told[0] if told else '?'}"
