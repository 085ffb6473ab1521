"""Direct access to a deployment's identities, for whoever holds its database and its master key."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from openmcp_chain.config import Config
from openmcp_chain.engine import clock
from openmcp_chain.engine.identity import Identity
from openmcp_chain.engine.tokens import Tokens
from openmcp_chain.store.mongo import store as mongo


@asynccontextmanager
async def opened(settings: Config) -> AsyncIterator[Identity]:
    """Identities of the deployment that these settings are for: to make and change them, not to issue tokens.

    Raises ValueError for a bad URI, errors.Unavailable if no database answers.
    """
    store = await mongo.connect(settings.mongodb_uri, settings.mongodb_database, settings.mongodb_driver)
    try:
        tokens = Tokens(store, settings.master, clock.system)
        yield Identity(store, settings.master, tokens, settings.plans, clock.system)
    finally:
        await store.close()
