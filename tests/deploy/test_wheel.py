"""The images without an engine: what the Dockerfile builds is built, what it installs installed, what compose runs run.

The wheel comes from the files that may enter the build and nothing else; the environment has what the lock names and
nothing else; the commands, variables and files are those of the compose file, only paths and ports are this machine's.
Not covered: the base images, users, networks, volumes and MongoDB itself.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from support import manifests
from support.database import Database

from openmcp_chain.stack import ports

READY_SECONDS = 50.0
END_SECONDS = 25.0
PLACES = ("/run/secrets", "/run/openmcp", "/var/lib/openmcp", "/etc/openmcp", "/tmp")  # noqa: S108 - in the containers


ADDRESSES = {
    "server:50051": "server",
    "0.0.0.0:50051": "server",
    "127.0.0.1:50052": "probes",
    "0.0.0.0:8443": "envoy",
    "envoy:8443": "envoy",
}
"""Where compose has what listen."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Stands for the containers: an installed environment, and folders for the paths that they mount."""

    folder: Path
    environment: Path
    """The virtual environment."""
    ports: Mapping[str, int]
    """Of `server`, its `probes`, and `envoy`, for the fixed ones that compose gives them."""

    def program(self, name: str) -> str:
        return str(self.environment / "bin" / name)

    def here(self, text: str, service: str) -> str:
        """A value or argument of compose, with this machine's paths and ports."""
        # The first writes for the second, in whose container the paths are.
        mounts = manifests.compose()["services"]["envoy" if service == "envoy-config" else service].get("volumes", ())
        folders = {place: f"{self.folder}{place}" for place in PLACES}
        for source, _, target in (mount.removesuffix(":ro").partition(":") for mount in mounts):
            if source.startswith("./secrets/"):
                folders[target] = f"{self.folder}/{source}"
        text = re.sub("|".join(folders), lambda place: folders[place[0]], text.replace("$$", "$"))
        for address, name in ADDRESSES.items():
            text = text.replace(address, f"127.0.0.1:{self.ports[name]}")
        return text

    def variables(self, service: str) -> dict[str, str]:
        """What the service's container has: the image's variables, then compose's."""
        image = manifests.image_environment("worker" if service == "worker" else "server")
        composed = manifests.compose()["services"][service].get("environment", {})
        settings = {name: self.here(value, service) for name, value in (image | composed).items() if "${" not in value}
        del settings[
            "PYTHONDONTWRITEBYTECODE"
        ]  # pip has compiled the image's packages, uv leaves that to the first import
        return settings | {"PATH": f"{self.environment / 'bin'}:/usr/bin:/bin"}

    def command(self, service: str) -> list[str]:
        """Its entry point and command."""
        described = manifests.compose()["services"][service]
        entrypoint = described.get("entrypoint", ["openmcp"])
        return [self.here(part, service) for part in (*entrypoint, *described["command"])]

    def run(self, service: str, command: list[str] | None = None) -> "subprocess.CompletedProcess[str]":
        """Runs a service, or another command in its place, to its end."""
        first, *rest = command or self.command(service)
        return subprocess.run(
            [shutil.which(first, path=self.variables(service)["PATH"]) or first, *rest],
            env=self.variables(service),
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=READY_SECONDS,
        )

    @contextlib.contextmanager
    def running(self, service: str, program: str, ready: Callable[[], bool]) -> Iterator[None]:
        """Runs a service for the length of the block; on SIGTERM it must end by itself, with status 0."""
        log = self.folder / f"{service}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [program, *self.command(service)[1:]],
                env=self.variables(service),
                cwd=self.folder,
                stdout=out,
                stderr=out,
            )
        try:
            end = time.monotonic() + READY_SECONDS
            while not ready():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.05)
            yield
            process.send_signal(signal.SIGTERM)
            assert process.wait(END_SECONDS) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that the Dockerfile's build stage makes."""
    folder = tmp_path_factory.mktemp("context")
    for file in manifests.build_context():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(manifests.ROOT / file, folder / file)
    _done([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "out"], folder)
    (built,) = (folder / "out").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def machine(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """The image's environment: the lock by its hashes, then the wheel alone."""
    folder = tmp_path_factory.mktemp("machine")
    environment = folder / "venv"
    uv = str(Path(sys.executable).with_name("uv"))
    into = [uv, "pip", "install", "--quiet", "--python", str(environment)]
    _done([uv, "venv", "--quiet", "--python", sys.executable, str(environment)], folder)
    _done([*into, "--require-hashes", "-r", str(manifests.ROOT / "requirements/runtime.lock")], folder)
    _done([*into, "--no-index", "--no-deps", str(wheel)], folder)
    for place in PLACES:
        Path(f"{folder}{place}").mkdir(parents=True)
    shutil.copyfile(manifests.KUBERNETES / "pipeline.toml", f"{folder}/etc/openmcp/pipeline.toml")
    names = ("server", "probes", "envoy")
    return Machine(folder, environment, dict(zip(names, ports.choose(dict.fromkeys(names, 0)), strict=True)))


def test_the_wheel_is_whole(wheel: Path) -> None:
    """It has the code and its types, the generated code, the plans, and all that Envoy's configuration is made from."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert {"openmcp_chain/py.typed", "openmcp/chain/v1/tasks_pb2.py", "openmcp_chain/plans.toml"} <= names
        for file in (manifests.ROOT / "envoy").iterdir():
            assert archive.read(f"openmcp_chain/stack/envoy/source/{file.name}") == file.read_bytes()
        (points,) = (name for name in names if name.endswith("entry_points.txt"))
        assert b"openmcp = openmcp_chain.cli:run" in archive.read(points)


@pytest.fixture
def secrets(machine: Machine, database: Database) -> None:
    """The secrets that the script makes, but for the database's URI: here it is the embedded one."""
    script = str(shutil.copy(manifests.DEPLOY / "secrets.sh", machine.folder))
    _done(["sh", script], machine.folder)

    def contents() -> dict[str, str]:
        folder = machine.folder / "secrets"
        return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}

    first = contents()
    _done(["sh", script], machine.folder)
    assert first == contents()
    made = {name: text for name, text in first.items() if "/" not in name}
    assert set(made) == set(manifests.compose()["secrets"])
    made["mongodb-uri"] = database.uri
    for name, text in made.items():
        Path(f"{machine.folder}/run/secrets/{name}").write_text(text)


@pytest.mark.slow
@pytest.mark.usefixtures("secrets")
def test_what_compose_runs_serves_and_works(machine: Machine) -> None:
    """Server, Envoy, enrolment and worker, each with its command, variables and files: a task goes in by REST and ends.

    Its input is a local file, which the shipped policy allows nobody: the refusal is the worker's own.
    """
    health = [machine.program("python"), str(manifests.DEPLOY / "healthcheck.py")]
    assert machine.run("server", health).returncode == 1
    with machine.running("server", machine.program("openmcp"), lambda: machine.run("server", health).returncode == 0):
        for _ in range(2):  # the second time there is nothing to do
            enrolled = machine.run("enrol")
            assert enrolled.returncode == 0, enrolled.stderr
        rendered = machine.run("envoy-config")
        assert rendered.returncode == 0, rendered.stderr
        created = machine.run("server", ["openmcp", "workspaces", "create", "--plan", "standard", "--json"])
        assert created.returncode == 0, created.stderr
        trust = ssl.create_default_context(cafile=machine.folder / "secrets/authority/cert.pem")
        rest = httpx.Client(base_url=f"https://localhost:{machine.ports['envoy']}", timeout=10, verify=trust)
        ready_file = Path(machine.variables("worker")["OPENMCP_WORKER_READY_FILE"])
        envoy = machine.running("envoy", str(Path(sys.executable).with_name("envoy")), lambda: _healthy(rest))
        worker = machine.running("worker", machine.program("openmcp"), ready_file.exists)
        with rest, envoy, worker:
            task = _submitted_and_ended(rest, json.loads(created.stdout), "file:///etc/data.csv")
        assert task["status"] == "FAILED"
        assert "ACCESS_DENIED" in task["error"]
        assert not ready_file.exists()


def _submitted_and_ended(rest: httpx.Client, workspace: Mapping[str, str], uri: str) -> Any:
    """The task that this input made, when it has ended."""
    bearer: dict[str, str] = {}
    end = time.monotonic() + READY_SECONDS
    while True:
        # Envoy listens before it has the keys; until then it refuses every token.
        token = rest.post("/v1/auth/token", json=dict(workspace)).raise_for_status().json()["access_token"]
        bearer["authorization"] = f"Bearer {token}"
        body = {"workspace_id": workspace["workspace_id"], "type": "data_pipeline", "payload": {"input_uri": uri}}
        answer = rest.post("/v1/tasks", json=body, headers=bearer)
        if answer.status_code == httpx.codes.OK:
            break
        assert time.monotonic() < end, answer.text
        time.sleep(0.05)
    while True:
        task = rest.get(f"/v1/tasks/{answer.json()['task_id']}", headers=bearer).raise_for_status().json()
        if task["status"] in ("SUCCEEDED", "FAILED"):
            return task
        assert time.monotonic() < end, task
        time.sleep(0.05)


def _healthy(rest: httpx.Client) -> bool:
    try:
        return rest.get("/healthz").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _done(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
