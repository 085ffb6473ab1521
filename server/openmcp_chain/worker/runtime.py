"""`openmcp worker`: the process that runs the task types that ship with the product."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from openmcp_chain import config
from openmcp_chain.config import ConfigError


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """What a worker process is told."""

    server: str
    """OPENMCP_SERVER: the gRPC target."""
    workspace_id: str
    """OPENMCP_WORKSPACE_ID: the operator, or a workspace."""
    workspace_secret: str
    """OPENMCP_WORKSPACE_SECRET, or the file that OPENMCP_WORKSPACE_SECRET_FILE names."""
    concurrency: int
    """OPENMCP_WORKER_CONCURRENCY: how many tasks at a time."""
    policy: Path | None
    """OPENMCP_PIPELINE_POLICY: what `data_pipeline` may touch for whom."""
    log_level: str


def from_environment(environment: Mapping[str, str] = os.environ) -> WorkerConfig:
    """The settings. Raises ConfigError naming the variable at fault."""
    server, workspace_id = environment.get("OPENMCP_SERVER", ""), environment.get("OPENMCP_WORKSPACE_ID", "")
    for name, value in (("OPENMCP_SERVER", server), ("OPENMCP_WORKSPACE_ID", workspace_id)):
        if not value:
            raise ConfigError(f"{name} must be set")
    concurrency = environment.get("OPENMCP_WORKER_CONCURRENCY", "4")
    if not (concurrency.isascii() and concurrency.isdigit() and 1 <= int(concurrency) <= 1000):
        raise ConfigError(f"OPENMCP_WORKER_CONCURRENCY must be from 1 to 1000, not {concurrency!r}")
    policy = environment.get("OPENMCP_PIPELINE_POLICY", "")
    return WorkerConfig(
        server=server,
        workspace_id=workspace_id,
        workspace_secret=config.secret(environment, "OPENMCP_WORKSPACE_SECRET"),
        concurrency=int(concurrency),
        policy=Path(policy) if policy else None,
        log_level=config.log_level(environment),
    )
