"""How the stack runs our own programs."""

from pathlib import Path

from openmcp_chain import config, telemetry
from openmcp_chain.stack import programs, site
from openmcp_chain.stack.site import Options
from openmcp_chain.stack.state import DataFolder


def test_a_server_is_killed_only_when_it_had_its_time(tmp_path: Path) -> None:
    """It may take all that its settings allow, and flush its telemetry to a silent collector, before SIGKILL."""
    options = Options(
        rest_port=0,
        grpc_port=0,
        data_dir=tmp_path,
        mongodb_uri="mongodb://127.0.0.1:1",
        worker=False,
        sample=False,
        once=False,
        tls=False,
        plan="free",
    )
    with DataFolder(tmp_path) as folder:
        server = programs.server(site.choose(options, folder))
        settings = config.from_environment(server.env)
    assert server.grace > settings.lame_duck + settings.drain + telemetry.FLUSH_SECONDS
