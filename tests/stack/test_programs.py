"""How the stack runs our own programs."""

from pathlib import Path
from typing import Any

import pytest

from openmcp_chain import config, telemetry
from openmcp_chain.executors.data_pipeline import Policy
from openmcp_chain.executors.data_pipeline.uris import parse
from openmcp_chain.stack import demo, programs, site
from openmcp_chain.stack.failure import StackError
from openmcp_chain.stack.site import Options
from openmcp_chain.stack.state import DataFolder, Memory


def options(folder: Path, **more: Any) -> Options:
    """A stack without a sample."""
    asked: dict[str, Any] = {
        "rest_port": 0,
        "grpc_port": 0,
        "data_dir": folder,
        "mongodb_uri": "mongodb://127.0.0.1:1",
        "worker": True,
        "sample": False,
        "once": False,
        "tls": False,
        "plan": "free",
    }
    return Options(**asked | more)


def test_a_server_is_killed_only_when_it_had_its_time(tmp_path: Path) -> None:
    """It may take all that its settings allow, and flush its telemetry to a silent collector, before SIGKILL."""
    with DataFolder(tmp_path) as folder:
        server = programs.server(site.choose(options(tmp_path), folder))
        settings = config.from_environment(server.env)
    assert server.grace > settings.lame_duck + settings.drain + telemetry.FLUSH_SECONDS


def test_a_policy_that_was_changed_is_kept(tmp_path: Path) -> None:
    """What its user added is there after the next start; what nobody changed follows the folder to a new place."""
    first = tmp_path / "first"
    with DataFolder(first) as folder:
        programs.worker(site.choose(options(first), folder), Memory())
    moved = first.rename(tmp_path / 'a "second"')
    with DataFolder(moved) as folder:
        place = site.choose(options(moved), folder)
        programs.worker(place, Memory())
        assert Policy.load(place.policy).access(demo.WORKSPACE).folder_of(parse((folder.files / "a").as_uri()))
        with place.policy.open("a") as policy:
            policy.write('buckets = ["bucket/path/"]\n')
        programs.worker(place, Memory())
        access = Policy.load(place.policy).access(demo.WORKSPACE)
        assert access.allows_object(parse("s3://bucket/path/input.json"))
        assert not access.allows_object(parse("s3://bucket/other/input.json"))


def test_a_policy_of_ones_own(tmp_path: Path) -> None:
    """A policy that was named is the worker's; one that is wrong is told before anything waits for the worker."""
    given = tmp_path / "policy.toml"
    given.write_text("[default]\n")
    with DataFolder(tmp_path / "data") as folder:
        place = site.choose(options(tmp_path, policy=given), folder)
        assert programs.worker(place, Memory()).env["OPENMCP_PIPELINE_POLICY"] == str(given)
        given.write_text("[default]\nbucket = []\n")
        with pytest.raises(StackError, match=r"^the policy of data_pipeline: .*policy\.toml: "):
            programs.worker(place, Memory())
