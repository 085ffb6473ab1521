"""What a worker is told by its environment."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from openmcp_chain.client import connection
from openmcp_chain.client.connection import Credentials, Server
from openmcp_chain.client.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Settings:
    """Where a worker works, as whom, and how much."""

    server: Server
    """OPENMCP_SERVER: `host:port`; OPENMCP_SECURE, OPENMCP_CA_FILE, OPENMCP_CERT_FILE, OPENMCP_KEY_FILE, if need be."""
    credentials: Credentials
    """OPENMCP_WORKSPACE_ID: a workspace, or an operator; and OPENMCP_WORKSPACE_SECRET, or the file that
    OPENMCP_WORKSPACE_SECRET_FILE names."""
    concurrency: int
    """OPENMCP_WORKER_CONCURRENCY: how many tasks at a time."""
    ready_file: Path | None
    """OPENMCP_WORKER_READY_FILE: a file that is there while a server gives this worker tasks; for probes."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """The settings. Raises SettingsError naming the variable at fault."""
        server, credentials = connection.from_environment(environment)
        concurrency = environment.get("OPENMCP_WORKER_CONCURRENCY", "4")
        if re.fullmatch("[1-9][0-9]{0,2}|1000", concurrency) is None:
            raise SettingsError(f"OPENMCP_WORKER_CONCURRENCY: must be from 1 to 1000, not {concurrency!r}")
        ready_file = environment.get("OPENMCP_WORKER_READY_FILE", "")
        return cls(server, credentials, int(concurrency), Path(ready_file) if ready_file else None)
