"""`make check`: all that can be said of the code without running it. Every check runs; a line tells how each went."""

import filecmp
import importlib.metadata
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet

ROOT = Path(__file__).parent.parent
RELEASE = "tests/contract/v1.0.binpb"
"""The contract as last released: nothing that clients were promised may be taken back."""


def run(*command: str) -> str:
    """What the command complains of; empty if it passes."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else (done.stdout + done.stderr) or f"exit status {done.returncode}"


def generated() -> str:
    """Whether the committed code is what the contract generates."""
    with tempfile.TemporaryDirectory() as folder:
        if fault := run("buf", "generate", "-o", folder):
            return fault
        fresh, committed = Path(folder, "server/gen"), ROOT / "server/gen"
        names = {
            p.relative_to(base) for base in (fresh, committed) for p in base.rglob("*.py*") if "cache" not in str(p)
        }
        stale = [str(n) for n in sorted(names) if not _same(fresh / n, committed / n)]
    return f"not what the contract generates (run `make generate`): {', '.join(stale)}" if stale else ""


def routes() -> str:
    """Whether every REST route of the released contract is still there; to buf, an option is no breaking change."""
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "now.binpb")
        if fault := run("buf", "build", "proto", "-o", str(image)):
            return fault
        now = _routes(image)
    gone = [f"{method} {route}" for method, route in _routes(ROOT / RELEASE).items() if now.get(method) != route]
    return f"changed or gone: {', '.join(gone)}" if gone else ""


def _routes(image: Path) -> dict[str, str]:
    """Each method's route, as the text of its `google.api.http`."""
    files = FileDescriptorSet.FromString(image.read_bytes()).file
    return {
        f"{file.package}.{service.name}.{method.name}": str(method.options.Extensions[annotations_pb2.http]).strip()
        for file in files
        for service in file.service
        for method in service.method
    }


def vendored() -> str:
    """Whether the googleapis files are those of the pinned googleapis-common-protos."""
    base = ROOT / "third_party/googleapis"
    names = [p.relative_to(base) for p in base.rglob("*.proto")]
    package = Path(str(importlib.metadata.distribution("googleapis-common-protos").locate_file("")))
    stale = [str(n) for n in names if not _same(package / n, base / n)]
    return f"not those of googleapis-common-protos: {', '.join(stale)}" if stale or not names else ""


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and filecmp.cmp(one, other, shallow=False)


CHECKS: dict[str, Callable[[], str]] = {
    "types": lambda: run("mypy"),
    "lint": lambda: run("ruff", "check", "."),
    "format": lambda: run("ruff", "format", "--check", "."),
    "import directions": lambda: run("lint-imports", "--no-cache"),
    "contract: lint": lambda: run("buf", "lint"),
    "contract: format": lambda: run("buf", "format", "--diff", "--exit-code", "proto"),
    "contract: breaking": lambda: run("buf", "breaking", "proto", "--against", RELEASE),
    "contract: routes": routes,
    "contract: generated code": generated,
    "contract: googleapis": vendored,
    "docs made from code": lambda: run(sys.executable, "tools/docs.py", "--check"),
}


def main() -> int:
    """Runs all checks, two at a time; returns the exit status."""
    failed = 0
    started = time.monotonic()
    with ThreadPoolExecutor(max_workers=2) as pool:
        results = {name: pool.submit(check) for name, check in CHECKS.items()}
        for name, result in results.items():
            fault = result.result()
            print(f"{'FAILED' if fault else 'ok':<8}{name}", flush=True)
            if fault:
                failed += 1
                print(fault, flush=True)
    print(f"{len(CHECKS) - failed} of {len(CHECKS)} checks passed in {time.monotonic() - started:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
