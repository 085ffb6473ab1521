"""What every room's tests may ask for."""

import pytest

pytest_plugins = ("support.database",)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of single rooms; pytest takes none from further down."""
    parser.addoption("--seeds", type=int, default=1, help="tests/faults: how many rounds of each kind (default: 1)")
