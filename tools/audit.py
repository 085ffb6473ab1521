"""`make audit`: whether what is pinned is known to be vulnerable, and pinned as it should be.

Offline, by `requirements/advisories.toml`; what that cannot know is said at the end. With `--online` pip-audit asks its
service as well; if that cannot be reached it is said, and fails nothing.
"""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
LOCKS = ("dev", "runtime", "build", "peers", "peers-arq")
PIP_AUDIT = "pip-audit==2.10.1"
_LINE = re.compile(r"^\s*(?:#.*)?$|^[A-Za-z0-9._-]+(?:\[[^]]*\])?==[^\s;\\]+[^@]*$|^    (?:--hash=sha256:|#)")
"""What a line of a lock may be. Others, such as an index or an address, would have pip take what nobody has pinned."""
_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)(.*(?:\n(?:[ #].*)?)*)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Pin:
    """A line of a lock."""

    name: str
    version: Version
    hashed: bool


@dataclass(frozen=True, slots=True)
class Advisory:
    """What is known to be wrong with some versions of a package."""

    id: str
    package: str
    affected: tuple[SpecifierSet, ...]
    why: str

    def concerns(self, pin: Pin) -> bool:
        """Whether the pinned version is one of those."""
        return pin.name == self.package and any(
            versions.contains(pin.version, prereleases=True) for versions in self.affected
        )


def pins(lock: str) -> Sequence[Pin]:
    """What a lock's text pins."""
    return [
        Pin(canonicalize_name(name), Version(version), "--hash=sha256:" in rest)
        for name, version, rest in _PIN.findall(lock)
    ]


def advisories(text: str) -> tuple[date, Sequence[Advisory]]:
    """When the file was written, and what is in it. Raises ValueError or KeyError for one that is wrong."""
    tree = tomllib.loads(text)
    return tree["as_of"], [_advisory(one) for one in tree["advisory"]]


def _advisory(table: Mapping[str, Any]) -> Advisory:
    affected = table["affected"]
    versions = [affected] if isinstance(affected, str) else affected
    if unknown := set(table) - {"id", "package", "affected", "why"}:
        raise ValueError(f"{table['id']}: has no key {', '.join(sorted(unknown))}")
    if table["package"] != canonicalize_name(table["package"]) or not all(versions):
        raise ValueError(f"{table['id']}: needs a package by its normal name, and the versions that it affects")
    return Advisory(table["id"], table["package"], tuple(map(SpecifierSet, versions)), table.get("why", ""))


def strays(lock: str) -> Sequence[str]:
    """The lines of a lock's text that pin nothing, and are not about what is pinned."""
    return [line for line in lock.splitlines() if not _LINE.match(line)]


def faults(locks: Mapping[str, Sequence[Pin]], known: Sequence[Advisory]) -> Iterator[str]:
    """What is wrong with the locks."""
    for lock, pinned in locks.items():
        if not pinned:
            yield f"{lock}.lock: pins nothing"
        for pin in pinned:
            if not pin.hashed:
                yield f"{lock}.lock: {pin.name} {pin.version} has no hash"
            for advisory in known:
                if advisory.concerns(pin):
                    why = f": {advisory.why}" if advisory.why else ""
                    yield f"{lock}.lock: {pin.name} {pin.version} is affected by {advisory.id}{why}"


def online() -> tuple[str, bool]:
    """What pip-audit says of what is shipped, and whether that is a fault."""
    command = [str(Path(sys.executable).with_name("uv")), "tool", "run", PIP_AUDIT, "--disable-pip", "--require-hashes"]
    command += ["--progress-spinner=off", "--timeout=10", "-r", str(ROOT / "requirements/runtime.lock")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = (done.stdout + done.stderr).strip()
    if done.returncode == 0:
        return "pip-audit: nothing found in runtime.lock", False
    if done.returncode == 1 and "Found " in said:
        return said, True
    return "pip-audit: its service could not be reached, or it does not run here", False


def main() -> int:
    """Says what was found; returns the exit status."""
    as_of, known = advisories((ROOT / "requirements/advisories.toml").read_text())
    texts = {name: (ROOT / f"requirements/{name}.lock").read_text() for name in LOCKS}
    locks = {name: pins(text) for name, text in texts.items()}
    found = [f"{name}.lock: {line!r} is no pin" for name, text in texts.items() for line in strays(text)]
    found += faults(locks, known)
    if "--online" in sys.argv[1:]:
        said, bad = online()
        print(said)
        found += ["pip-audit has found something"] if bad else []
    for fault in found:
        print(f"FAILED  {fault}")
    packages = {pin.name for pinned in locks.values() for pin in pinned}
    told = packages & {advisory.package for advisory in known}
    print(f"{len(packages)} packages in {len(locks)} locks held against {len(known)} advisories: {len(found)} faults")
    print(f"not known here: what was published after {as_of}; anything of the {len(packages - told)} packages that the")
    print("file does not name; what container images bring along (Python's and MongoDB's base, the collector)")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
