"""The Dockerfile, as far as it can be checked without building it. test_wheel.py runs what it installs."""

import re
import tomllib

import pytest
from support import manifests

LOCKED = re.compile(r"^([a-z0-9-]+)==(\S+)", re.MULTILINE)


def test_what_is_copied_may_enter_the_build() -> None:
    """Each COPY from outside is of a path that exists and that Dockerfile.dockerignore lets in, others of a stage."""
    context = {str(path) for path in manifests.build_context()}
    entries = context | {str(folder) for path in manifests.build_context() for folder in path.parents}
    outside = 0
    for instruction, argument in manifests.dockerfile():
        if instruction != "COPY":
            continue
        *sources, _ = argument.split()
        if sources[0].startswith("--from="):
            assert sources[0].removeprefix("--from=") in manifests.stages()
            continue
        outside += 1
        assert {source.rstrip("/") for source in sources} <= entries, argument
    assert outside


def test_nothing_but_sources_may_enter_the_build() -> None:
    """The build gets code, locks and the contract; no secret, no data, no environment, not even by a careless COPY."""
    folders = {path.parts[0] for path in manifests.build_context()}
    assert folders == {"README.md", "deploy", "envoy", "pyproject.toml", "requirements", "server"}
    assert not [path for path in manifests.build_context() if path.is_relative_to("deploy/secrets")]


def test_bases_are_pinned() -> None:
    """Every stage stands on another one or on the one base, which has its full version for a tag."""
    settings = dict(argument.split("=", 1) for name, argument in manifests.dockerfile() if name == "ARG")
    bases = {argument.partition(" AS ")[0] for name, argument in manifests.dockerfile() if name == "FROM"}
    assert bases == {"${PYTHON}", "runtime"}
    assert re.fullmatch(r"python:3\.11\.\d+-slim-[a-z]+", settings["PYTHON"])


@pytest.mark.parametrize("stage", ["server", "worker"])
def test_an_image_runs_as_nobody_in_particular_and_tells_its_health(stage: str) -> None:
    """The user is a number above 0, so that Kubernetes can see it; there is a health check; no setting is a secret."""
    instructions = dict(manifests.stages()[stage])
    user, _, group = instructions["USER"].partition(":")
    assert int(user) == int(group) > 0
    assert "HEALTHCHECK" in instructions
    assert instructions["ENTRYPOINT"] == '["openmcp"]'
    assert instructions["CMD"] == f'["{stage}"]'
    names = [name for name in manifests.image_environment(stage) if re.search("KEY|SECRET|PASSWORD|TOKEN|URI", name)]
    assert not names


def test_packages_come_by_their_hashes_or_from_the_build() -> None:
    """All that is installed is in a lock with its hash, but for the wheel just built, and that without a network."""
    runs = " && ".join(argument for name, argument in manifests.dockerfile() if name == "RUN")
    installs = [command for command in runs.split("&&") if " install " in command and "pip" in command]
    assert len(installs) == 3
    assert all("--require-hashes -r requirements/" in c or "--no-index --no-deps /wheel/" in c for c in installs)


def test_locks_are_of_one_choice() -> None:
    """What the image is built with and runs on are the versions that the tests run on, the build backend among them."""
    locks = {
        name: dict(LOCKED.findall((manifests.ROOT / f"requirements/{name}.lock").read_text()))
        for name in ("dev", "runtime", "build")
    }
    assert locks["runtime"].items() <= locks["dev"].items()
    assert locks["build"].items() <= locks["dev"].items()
    project = tomllib.loads((manifests.ROOT / "pyproject.toml").read_text())
    assert project["build-system"]["requires"] == [f"hatchling=={locks['build']['hatchling']}"]
