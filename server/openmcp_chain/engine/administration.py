"""All that an administrator may do, put together over a store: for a server, and for commands on the database."""

import os
import pwd
from collections.abc import Mapping

from openmcp_chain.domain.audit import LOCAL, Actor
from openmcp_chain.domain.plans import Plan
from openmcp_chain.engine.auditing import AuditLog
from openmcp_chain.engine.clock import Clock
from openmcp_chain.engine.keys import Keys
from openmcp_chain.engine.queues import Queues
from openmcp_chain.engine.registry import Registry
from openmcp_chain.engine.sealing import MasterKey
from openmcp_chain.engine.secrets import Secrets
from openmcp_chain.engine.workspaces import Workspaces
from openmcp_chain.store.base import Store


class Administration:
    """Workspaces, their secrets, the keys that tokens are signed with, and the log of what was done to them."""

    def __init__(
        self, store: Store, master: MasterKey, plans: Mapping[str, Plan], queues: Queues, clock: Clock
    ) -> None:
        self.audit = AuditLog(store, clock)
        registry = Registry(store, self.audit, clock)
        self.secrets = Secrets(registry, self.audit, master, clock)
        self.keys = Keys(store, master, clock)
        self.workspaces = Workspaces(store, registry, self.secrets, queues, plans)


def local_actor() -> Actor:
    """Whoever runs this process, as the audit log has them: by the kernel's word, not by what the environment says."""
    uid = os.getuid()
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:  # a container's user may have a number only
        user = str(uid)
    return Actor(LOCAL + user)
