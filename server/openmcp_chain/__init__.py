"""OpenMCP Chain: a multi-tenant task service. `app` puts the rooms together; `cli` is the `openmcp` command."""

__version__ = "1.0.0"
