"""What `openmcp worker` makes of its environment before it works."""

import os
import pathlib

import pytest

from openmcp_chain.config import ConfigError
from openmcp_chain.executors.worker import own_folder


def test_the_default_folder_is_ones_own(tmp_path: pathlib.Path) -> None:
    """It is made for its owner alone, and found again."""
    for _ in range(2):
        assert own_folder(tmp_path / "work").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("trap", ["link", "open", "file", "others"])
def test_a_folder_that_others_may_change(tmp_path: pathlib.Path, trap: str) -> None:
    """Made first by somebody else, under a name that can be guessed: the worker does not start on it."""
    path = tmp_path / "work"
    if trap == "link":
        (tmp_path / "elsewhere").mkdir()
        path.symlink_to(tmp_path / "elsewhere")
    elif trap == "open":
        path.mkdir()
        path.chmod(0o777)
    elif trap == "file":
        path.touch()
    elif os.getuid() != 0:
        pytest.skip("only root can give a folder away")
    else:
        path.mkdir(0o700)
        os.chown(path, 1, 1)
    with pytest.raises(ConfigError, match="OPENMCP_PIPELINE_WORKDIR"):
        own_folder(path)
