"""`python -m openmcp_chain.cli` is `openmcp`, for whoever must be sure of the interpreter."""

from openmcp_chain.cli import run

run()
