"""The files of `deploy/` as data, and which environment variables the processes really read.

Nobody changes what is returned: it is read once.
"""

import base64
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from openmcp_chain import config, telemetry
from openmcp_chain.executors.data_pipeline.buckets import S3Settings
from openmcp_chain.executors.worker import PipelineSettings
from openmcp_chain.worker.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"

Json = dict[str, Any]


@cache
def compose() -> Json:
    loaded: Json = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return loaded


@cache
def kustomization() -> Json:
    loaded: Json = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    return loaded


@cache
def resources() -> list[Json]:
    """All that kustomization.yaml names, in its order."""
    return [resource for name in kustomization()["resources"] for resource in documents(KUBERNETES / name)]


@cache
def documents(path: Path) -> list[Json]:
    return list(yaml.safe_load_all(path.read_text()))


def of_kind(kind: str) -> dict[str, Json]:
    """The resources of one kind, by name."""
    return {one["metadata"]["name"]: one for one in resources() if one["kind"] == kind}


def pod(deployment: str) -> Json:
    """A Deployment's pod."""
    spec: Json = of_kind("Deployment")[deployment]["spec"]["template"]["spec"]
    return spec


def containers(deployment: str) -> list[Json]:
    """Those of a Deployment's pod, those that only start it among them."""
    return [*pod(deployment).get("initContainers", ()), *pod(deployment)["containers"]]


def dockerfile() -> list[tuple[str, str]]:
    """The Dockerfile's instructions: name and argument, continued lines joined."""
    joined = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    lines = (line for line in joined.splitlines() if line and not line.startswith("#"))
    return [(name, argument) for name, _, argument in (line.partition(" ") for line in lines)]


def stages() -> dict[str, list[tuple[str, str]]]:
    """The Dockerfile's instructions by stage, `FROM` first; with what a stage takes over from the one below it."""
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for instruction, argument in dockerfile():
        if instruction == "FROM":
            base, _, name = argument.partition(" AS ")
            found[name] = list(found.get(base, ()))
        if name:
            found[name].append((instruction, argument))
    return found


def image_environment(stage: str) -> dict[str, str]:
    """What a stage's ENV instructions set."""
    settings = (argument.split() for instruction, argument in stages()[stage] if instruction == "ENV")
    return dict(setting.split("=", 1) for line in settings for setting in line)


def build_context() -> list[Path]:
    """The files that Dockerfile.dockerignore lets into a build, relative to the repository."""
    allowed = [line[1:] for line in _ignore_lines() if line.startswith("!")]
    return sorted(
        file.relative_to(ROOT)
        for name in allowed
        for file in ([ROOT / name] if (ROOT / name).is_file() else (ROOT / name).rglob("*"))
        if file.is_file() and "__pycache__" not in file.parts
    )


def _ignore_lines() -> Iterator[str]:
    return (line for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] not in ("", "#"))


class _Recorder(dict[str, str]):
    """An environment that notes what is asked of it, and the default that stands for what is missing."""

    def __init__(self, present: Mapping[str, str]) -> None:
        super().__init__(present)
        self.asked: dict[str, str] = {}

    def get(self, name: str, default: str = "") -> str:  # type: ignore[override]
        self.asked[name] = default
        return super().get(name, default)

    def __getitem__(self, name: str) -> str:
        self.asked.setdefault(name, "")
        return super().__getitem__(name)


def read_by_server() -> dict[str, str]:
    """The variables that a server reads, with their defaults ("" if there is none)."""
    present = {"OPENMCP_MONGODB_URI": "mongodb://x", "OPENMCP_MASTER_KEY": base64.b64encode(bytes(32)).decode()}
    recorder = _Recorder(present)
    config.from_environment(recorder)
    return recorder.asked


def read_by_worker() -> dict[str, str]:
    """The variables that a worker reads, S3's among them."""
    recorder = _Recorder(
        {"OPENMCP_SERVER": "x:1", "OPENMCP_WORKSPACE_ID": "x", "OPENMCP_WORKSPACE_SECRET": "x"},
    )
    Settings.from_environment(recorder)
    PipelineSettings.from_environment(recorder)
    S3Settings.from_environment(recorder)
    return recorder.asked


def read_by_all() -> dict[str, str]:
    """The variables of telemetry, which every process reads."""
    recorder = _Recorder({})
    telemetry.configure("x", recorder)
    return recorder.asked
