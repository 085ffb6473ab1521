"""`openmcp envoy-config`: Envoy's configuration for a deployment, from the same source as `openmcp dev`'s."""

import os
from pathlib import Path
from typing import Annotated

import typer


def envoy_config(
    *,
    server: Annotated[
        str, typer.Option(help="Where the gRPC servers are, as host:port. All addresses of a DNS name are used.")
    ],
    listen: Annotated[str, typer.Option(help="Where clients reach Envoy, as address:port.")] = "0.0.0.0:8080",
    admin: Annotated[
        str, typer.Option(help="Where Envoy's admin interface listens; it can stop Envoy. By default it is off.")
    ] = "",
    otlp: Annotated[
        str,
        typer.Option(
            help="The collector of spans, as http://host:port or https://host:port; "
            "by default what OTEL_EXPORTER_OTLP_ENDPOINT says."
        ),
    ] = "",
    peers: Annotated[
        list[str] | None,
        typer.Option(
            help="This Envoy and those that share its limits, as host:port: a DNS name for all of them, or one by one.",
            show_default="each grants the whole limit",
        ),
    ] = None,
    trusted_hops: Annotated[
        int,
        typer.Option(min=0, help="How many proxies in front tell in x-forwarded-for who calls them."),
    ] = 0,
    sign_ins_per_second: Annotated[
        int | None, typer.Option(min=1, help="How often one address may sign in, on average.", show_default="5")
    ] = None,
    sign_in_burst: Annotated[
        int | None, typer.Option(min=1, help="How often it may do so at once.", show_default="100")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="The file to write; by default standard output.")] = None,
) -> None:
    """Write Envoy's configuration, for the plans that OPENMCP_PLANS_FILE names or the shipped ones."""
    from openmcp_chain import config  # noqa: PLC0415 - see cli.main
    from openmcp_chain.stack import envoy  # noqa: PLC0415
    from openmcp_chain.stack.envoy.collector import Collector  # noqa: PLC0415

    usual = envoy.SIGN_INS
    try:
        settings = envoy.Settings(
            listen=envoy.Address.parse(listen),
            server=envoy.Address.parse(server),
            peers=[envoy.Address.parse(peer) for peer in peers or ()],
            plans=config.load_plans(os.environ),
            admin=envoy.Address.parse(admin) if admin else None,
            sign_ins=envoy.Rate(sign_ins_per_second or usual.per_second, sign_in_burst or usual.burst),
            trusted_hops=trusted_hops,
            otlp=Collector.from_environment(
                {**os.environ, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": otlp} if otlp else os.environ
            ),
        )
        text = envoy.render(settings)
        if output is None:
            typer.echo(text)
        else:
            output.write_text(text)
    except (config.ConfigError, ValueError, OSError) as error:
        typer.echo(f"openmcp envoy-config: {error}", err=True)
        raise typer.Exit(1) from None
