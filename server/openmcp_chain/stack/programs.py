"""Our own two programs: their command lines, environments and files."""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from openmcp_chain.executors.data_pipeline.policy import Policy, PolicyError
from openmcp_chain.stack import demo, ports
from openmcp_chain.stack.children import Program
from openmcp_chain.stack.failure import StackError
from openmcp_chain.stack.site import Site
from openmcp_chain.stack.state import Memory, write_private

DATABASE_NAME = "openmcp"
LAME_DUCK_SECONDS = 3
"""How long calls are still taken when the stack ends, if they keep coming."""
DRAIN_SECONDS = 5
"""How long those under way get then."""
END_SECONDS = 5
"""What a server may need besides: to let go of the database, and to flush its telemetry."""


def _python(module: str) -> Sequence[str]:
    """What `openmcp server` and `openmcp worker` do, by this interpreter, without the CLI: that is slow to import."""
    return [sys.executable, "-P", "-c", f"from {module} import main; main()"]


def server_environment(site: Site) -> Mapping[str, str]:
    """The server's settings, as `openmcp_chain.config` reads them."""
    return {
        "OPENMCP_MONGODB_URI": site.database.uri,
        "OPENMCP_MONGODB_URI_FILE": "",  # it would win
        "OPENMCP_MONGODB_DATABASE": DATABASE_NAME,
        "OPENMCP_GRPC_LISTEN": site.grpc_target,
        "OPENMCP_MASTER_KEY_FILE": str(site.master_key),
        "OPENMCP_LAME_DUCK_SECONDS": str(LAME_DUCK_SECONDS),
        "OPENMCP_DRAIN_SECONDS": str(DRAIN_SECONDS),
        **_server_certificates(site),
    }


def _server_certificates(site: Site) -> Mapping[str, str]:
    ours = site.certificates
    return {
        "OPENMCP_TLS_CERT_FILE": str(ours.server.certificate) if ours else "",
        "OPENMCP_TLS_KEY_FILE": str(ours.server.key) if ours else "",
        "OPENMCP_TLS_CLIENT_CA_FILE": str(ours.authority.file) if ours else "",
        "OPENMCP_HEALTH_LISTEN": "",
    }


def _client_certificates(site: Site) -> Mapping[str, str]:
    ours = site.certificates
    return {
        "OPENMCP_SECURE": "true" if ours else "false",
        "OPENMCP_CA_FILE": str(ours.authority.file) if ours else "",
        "OPENMCP_CERT_FILE": str(ours.client.certificate) if ours else "",
        "OPENMCP_KEY_FILE": str(ours.client.key) if ours else "",
    }


def server(site: Site) -> Program:
    return Program(
        "server",
        _python("openmcp_chain.app"),
        env=server_environment(site),
        grace=LAME_DUCK_SECONDS + DRAIN_SECONDS + END_SECONDS,
    )


_POLICY = """\
# What data_pipeline may touch (docs/data-pipeline.md). `openmcp dev` writes this file, until you change it.
[workspaces."{workspace}"]
files = [{files}]
"""


def _write_policy(site: Site) -> None:
    """Writes the data folder's own policy, unless its user has changed it; looks at the one that counts."""
    own = site.folder.policy
    # Not equal, but of this form: the folder may have been moved.
    written = re.escape(_POLICY).replace(r"\{workspace\}", re.escape(demo.WORKSPACE)).replace(r"\{files\}", ".*")
    if not own.exists() or re.fullmatch(written, own.read_text(encoding="utf-8", errors="replace")):
        files = json.dumps(str(site.folder.files), ensure_ascii=False)  # a JSON string is a TOML string too
        write_private(own, _POLICY.format(workspace=demo.WORKSPACE, files=files))
    try:
        Policy.load(site.policy)
    except PolicyError as error:
        raise StackError(f"the policy of data_pipeline: {error}") from None


def worker_ready_file(site: Site) -> Path:
    """Is there while the worker is connected."""
    return site.folder.path / "worker.ready"


def worker(site: Site, memory: Memory) -> Program:
    """Writes what it reads, its secret and its policy, and says how to run it. Raises StackError for a bad policy."""
    secret = site.folder.path / "worker.secret"
    write_private(secret, memory.operator_secret + "\n")
    _write_policy(site)
    worker_ready_file(site).unlink(missing_ok=True)  # left by a worker that was killed
    environment = {
        "OPENMCP_SERVER": site.grpc_target,
        "OPENMCP_WORKSPACE_ID": demo.OPERATOR,
        "OPENMCP_WORKSPACE_SECRET_FILE": str(secret),
        "OPENMCP_PIPELINE_POLICY": str(site.policy),
        "OPENMCP_PIPELINE_WORKDIR": str(site.folder.path / "work"),
        "OPENMCP_WORKER_READY_FILE": str(worker_ready_file(site)),
        # The server's, which a worker has no use for.
        "OPENMCP_ADMIN_SECRET": "",
        "OPENMCP_ADMIN_SECRET_FILE": "",
        "no_grpc_proxy": ports.HOST,
        **_client_certificates(site),
    }
    return Program("worker", _python("openmcp_chain.executors.worker"), env=environment)
