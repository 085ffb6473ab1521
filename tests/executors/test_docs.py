"""The page for users says what the code does."""

import pathlib
import re
import textwrap

from openmcp_chain.executors import codes
from openmcp_chain.executors.data_pipeline import Limits, payload, policy
from openmcp_chain.executors.transform import guard

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "data-pipeline.md").read_text(encoding="utf-8")


def table(heading: str) -> dict[str, str]:
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE))


def test_the_error_table() -> None:
    """The published codes and their meanings are those of the code, in its order; and every code has a meaning."""
    assert list(table("Errors").items()) == [(code.value, text) for code, text in codes.MEANING.items()]
    assert set(codes.MEANING) == set(codes.Code)


def test_the_payload_table() -> None:
    """The published fields are those that are read."""
    assert tuple(table("Payload")) == payload.FIELDS


def test_the_policy_example() -> None:
    """The page and the module show one example (which `test_policy` runs)."""
    assert policy.__doc__
    example = textwrap.dedent(policy.__doc__.partition("An example:\n")[2]).strip()
    assert f"```toml\n{example}\n```" in PAGE


def test_the_functions_and_bounds() -> None:
    """The functions that SQL may call in FROM and the default bounds are as published."""
    assert ", ".join(f"`{name}`" for name in sorted(guard.TABLE_FUNCTIONS)) in " ".join(PAGE.split())
    limits = Limits()
    assert (limits.input_bytes, limits.output_bytes, limits.memory_bytes) == (256 << 20, 256 << 20, 512 << 20)
    assert (limits.output_rows, limits.spill_bytes) == (10_000_000, 1 << 30)
    assert limits.transform_seconds == limits.transfer_seconds == 300
