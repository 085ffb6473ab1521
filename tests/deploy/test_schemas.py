"""Every file of `deploy/` is what the tool that reads it takes."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import manifests

NEWEST = "1.37.0"
OLDEST = "1.32.0"
"""The oldest Kubernetes for which the manifests are kept: the preStop `sleep` needs one newer than 1.29."""

FILES = [*manifests.kustomization()["resources"], "secrets.example.yaml"]


@pytest.fixture(scope="module")
def validate() -> Callable[..., None]:
    """Holds a resource to the schemas of one version."""
    import kubernetes_validate  # noqa: PLC0415 - takes seconds, in every process that collects tests

    checked: Callable[..., None] = kubernetes_validate.validate
    return checked


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("name", FILES)
def test_a_manifest_follows_the_schemas_of_kubernetes(validate: Callable[..., None], name: str, version: str) -> None:
    """Each resource has no unknown and no missing field, for the oldest and the newest Kubernetes meant."""
    for resource in manifests.documents(manifests.KUBERNETES / name):
        validate(resource, version, strict=True)


def test_the_compose_file_follows_its_specification() -> None:
    """The compose specification's own schema takes the file."""
    command = [str(Path(sys.executable).with_name("check-jsonschema")), "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, manifests.DEPLOY / "compose.yaml"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl on this machine")
def test_kustomize_renders_what_a_cluster_takes(validate: Callable[..., None]) -> None:
    """Rendered, all is in the namespace, each image has its tag, and ConfigMaps go by their hashed names."""
    rendered = subprocess.run(
        ["kubectl", "kustomize", manifests.KUBERNETES], capture_output=True, text=True, check=True
    ).stdout
    resources: list[dict[str, Any]] = list(yaml.safe_load_all(rendered))
    for resource in resources:
        validate(resource, NEWEST, strict=True)
        assert resource["kind"] == "Namespace" or resource["metadata"]["namespace"] == "openmcp"
    made = {one["metadata"]["name"] for one in resources if one["kind"] == "ConfigMap"}
    pods = [one["spec"]["template"]["spec"] for one in resources if one["kind"] == "Deployment"]
    assert {v["configMap"]["name"] for pod in pods for v in pod["volumes"] if "configMap" in v} == made
    images = {c["image"] for pod in pods for c in [*pod.get("initContainers", ()), *pod["containers"]]}
    assert all(":" in image and not image.endswith(":latest") for image in images), images
