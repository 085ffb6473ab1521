"""`openmcp dev`, `openmcp server`, `openmcp worker`: the commands that stay up until they are ended."""

from pathlib import Path
from typing import Annotated

import typer


def dev(
    *,
    rest_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Envoy's port: REST, SSE, gRPC and gRPC-Web. 0 picks a free one.")
    ] = 8080,
    grpc_port: Annotated[
        int, typer.Option(min=0, max=65535, help="The server's own gRPC port. 0 picks a free one.")
    ] = 50051,
    data_dir: Annotated[
        Path, typer.Option(help="Folder for the data, the logs and, while the stack is ready, dev.json.")
    ] = Path(".openmcp"),
    mongodb_uri: Annotated[
        str,
        typer.Option(
            envvar="OPENMCP_MONGODB_URI",
            show_default="start mongod if it is on the PATH, else SecantusDB",
            help="A MongoDB to use.",
        ),
    ] = "",
    no_worker: Annotated[bool, typer.Option("--no-worker", help="Start no worker; then there is no sample.")] = False,
    no_sample: Annotated[bool, typer.Option("--no-sample", help="Run no sample task.")] = False,
    once: Annotated[bool, typer.Option("--once", help="End after the sample; status 0 only if it succeeded.")] = False,
    tls: Annotated[
        bool,
        typer.Option("--tls", help="Speak HTTPS, and mutual TLS inside, with an authority kept in the data folder."),
    ] = False,
    master_key_file: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            show_default="master.key in the data folder",
            help="The master key of the database, if another stack has made it.",
        ),
    ] = None,
    pipeline_policy: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            show_default="pipeline.toml in the data folder",
            help="What data_pipeline may touch: see docs/data-pipeline.md.",
        ),
    ] = None,
    plan: Annotated[str, typer.Option(help="The demo workspace's plan: free, standard or unlimited.")] = "standard",
) -> None:
    """Start everything on this machine: Envoy, the server, a database and a worker; run a sample task; stay up.

    When all is ready, <data-dir>/dev.json says where everything is; it goes when the stack ends. Ctrl-C ends the stack.
    """
    if once and (no_worker or no_sample):
        raise typer.BadParameter("it ends after the sample, so it needs the sample and the worker", param_hint="--once")
    from openmcp_chain.stack import dev as stack  # noqa: PLC0415 - see cli.main
    from openmcp_chain.stack.site import Options  # noqa: PLC0415 - as above

    raise typer.Exit(
        stack.run(
            Options(
                rest_port=rest_port,
                grpc_port=grpc_port,
                data_dir=data_dir,
                mongodb_uri=mongodb_uri,
                worker=not no_worker,
                sample=not (no_sample or no_worker),
                once=once,
                tls=tls,
                plan=plan,
                master_key=master_key_file,
                policy=pipeline_policy,
            )
        )
    )


def server() -> None:
    """Serve gRPC. Configured by environment variables: see docs/operations.md."""
    from openmcp_chain import app  # noqa: PLC0415 - see cli.main

    app.main()


def worker() -> None:
    """Run data_pipeline tasks. Configured by environment variables: see docs/operations.md."""
    from openmcp_chain.executors import worker as shipped  # noqa: PLC0415 - see cli.main

    shipped.main()
