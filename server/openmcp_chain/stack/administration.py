"""Direct access to a deployment's workspaces, for whoever holds its database and its master key."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from openmcp_chain.config import Config
from openmcp_chain.engine import clock
from openmcp_chain.engine.administration import Administration
from openmcp_chain.engine.queues import Queues
from openmcp_chain.store.mongo import store as mongo


@asynccontextmanager
async def opened(settings: Config) -> AsyncIterator[Administration]:
    """The administration of the deployment that these settings are for.

    Raises ValueError for a bad URI, errors.Unavailable if no database answers.
    """
    store = await mongo.connect(settings.mongodb_uri, settings.mongodb_database, settings.mongodb_driver)
    try:
        yield Administration(store, settings.master, settings.plans, Queues(store, clock.system), clock.system)
    finally:
        await store.close()
