"""Every file of `deploy/` is what the tool that reads it takes."""

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from typing import Any

import pytest
import yaml
from support import manifests

NEWEST = "1.37.0"
OLDEST = "1.32.0"
"""The oldest Kubernetes for which the manifests are kept: the preStop `sleep` needs one newer than 1.29."""

COMPOSE_SCHEMA = "builtin_schemas/vendor/compose-spec.json"

FILES = [*manifests.kustomization()["resources"], "secrets.example.yaml"]


@pytest.fixture(scope="module")
def jsonschema() -> Any:
    """The module."""
    with pytest.MonkeyPatch.context() as patch:
        # What it knows of internationalized addresses takes seconds to import, and no schema here has such.
        patch.setitem(sys.modules, "rfc3987_syntax", None)
        return importlib.import_module("jsonschema")


@pytest.fixture(scope="module")
def validate(jsonschema: Any) -> Callable[..., None]:
    """Holds a resource to the schemas of one version."""
    checked: Callable[..., None] = importlib.import_module("kubernetes_validate").validate
    return checked


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("name", FILES)
def test_a_manifest_follows_the_schemas_of_kubernetes(validate: Callable[..., None], name: str, version: str) -> None:
    """Each resource has no unknown and no missing field, for the oldest and the newest Kubernetes meant."""
    for resource in manifests.documents(manifests.KUBERNETES / name):
        validate(resource, version, strict=True)


def test_the_compose_file_follows_its_specification(jsonschema: Any) -> None:
    """The compose specification's own schema takes the file, and does not take what it does not know."""
    schema = json.loads(resources.files("check_jsonschema").joinpath(COMPOSE_SCHEMA).read_bytes())
    kind = jsonschema.validators.validator_for(schema)
    kind.check_schema(schema)
    compose = yaml.safe_load((manifests.DEPLOY / "compose.yaml").read_text())
    validator = kind(schema, format_checker=kind.FORMAT_CHECKER)
    validator.validate(compose)
    compose["services"][next(iter(compose["services"]))]["imagee"] = "x"
    assert not validator.is_valid(compose)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl on this machine")
def test_kustomize_renders_what_a_cluster_takes(validate: Callable[..., None]) -> None:
    """Rendered, all is in the namespace, each image has its tag, and ConfigMaps go by their hashed names."""
    rendered = subprocess.run(
        ["kubectl", "kustomize", manifests.KUBERNETES], capture_output=True, text=True, check=True
    ).stdout
    found: list[dict[str, Any]] = list(yaml.safe_load_all(rendered))
    for resource in found:
        validate(resource, NEWEST, strict=True)
        assert resource["kind"] == "Namespace" or resource["metadata"]["namespace"] == "openmcp"
    made = {one["metadata"]["name"] for one in found if one["kind"] == "ConfigMap"}
    pods = [one["spec"]["template"]["spec"] for one in found if one["kind"] == "Deployment"]
    assert {v["configMap"]["name"] for pod in pods for v in pod["volumes"] if "configMap" in v} == made
    images = {c["image"] for pod in pods for c in [*pod.get("initContainers", ()), *pod["containers"]]}
    assert all(":" in image and not image.endswith(":latest") for image in images), images
