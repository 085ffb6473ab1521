"""`python -m openmcp_chain.cli` is `openmcp`, for whoever must be sure of the interpreter."""

from openmcp_chain.cli.main import app

app(prog_name="openmcp")
