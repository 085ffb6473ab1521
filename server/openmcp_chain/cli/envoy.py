"""`openmcp envoy-config`: Envoy's configuration for a deployment, from the same source as `openmcp dev`'s."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openmcp_chain.cli import LARGEST

if TYPE_CHECKING:
    from openmcp_chain.stack.envoy.tls import Identity, Servers


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
        typer.Option(min=0, max=LARGEST, help="How many proxies in front tell in x-forwarded-for who calls them."),
    ] = 0,
    sign_ins_per_second: Annotated[
        int | None,
        typer.Option(min=1, max=LARGEST, help="How often one address may sign in, on average.", show_default="5"),
    ] = None,
    sign_in_burst: Annotated[
        int | None, typer.Option(min=1, max=LARGEST, help="How often it may do so at once.", show_default="100")
    ] = None,
    cert_file: Annotated[
        Path | None,
        typer.Option(
            help="PEM file with the certificate to show clients; with it, HTTPS only.", show_default="plain HTTP"
        ),
    ] = None,
    key_file: Annotated[Path | None, typer.Option(help="PEM file with its key.", show_default=False)] = None,
    server_ca_file: Annotated[
        Path | None,
        typer.Option(
            help="PEM file with the authorities that vouch for the servers.", show_default="plain text to them"
        ),
    ] = None,
    server_name: Annotated[
        str, typer.Option(help="The name that a server's certificate must have.", show_default="the host of --server")
    ] = "",
    client_cert_file: Annotated[
        Path | None, typer.Option(help="PEM file with the certificate to show the servers.", show_default=False)
    ] = None,
    client_key_file: Annotated[Path | None, typer.Option(help="PEM file with its key.", show_default=False)] = None,
    output: Annotated[Path | None, typer.Option(help="The file to write; by default standard output.")] = None,
) -> None:
    """Write Envoy's configuration, for the plans that OPENMCP_PLANS_FILE names or the shipped ones.

    OPENMCP_CORS_ORIGINS names the sites whose pages may call, such as https://app.example,http://localhost:3000.
    """
    from openmcp_chain import config  # noqa: PLC0415 - see cli.main
    from openmcp_chain.stack import envoy  # noqa: PLC0415 - as above
    from openmcp_chain.stack.envoy import cors  # noqa: PLC0415 - as above
    from openmcp_chain.stack.envoy.collector import Collector  # noqa: PLC0415 - as above
    from openmcp_chain.stack.envoy.rates import Rate  # noqa: PLC0415 - as above

    usual = envoy.SIGN_INS
    try:
        to_servers = envoy.Address.parse(server)
        shown = _identity("--client-cert-file, --client-key-file", client_cert_file, client_key_file)
        settings = envoy.Settings(
            listen=envoy.Address.parse(listen),
            server=to_servers,
            identity=_identity("--cert-file, --key-file", cert_file, key_file),
            server_tls=_servers(server_ca_file, server_name, to_servers.host, shown),
            peers=[envoy.Address.parse(peer) for peer in peers or ()],
            plans=config.load_plans(os.environ),
            admin=envoy.Address.parse(admin) if admin else None,
            sign_ins=Rate(sign_ins_per_second or usual.per_second, sign_in_burst or usual.burst),
            trusted_hops=trusted_hops,
            origins=cors.from_environment(os.environ),
            otlp=Collector.from_environment(
                {**os.environ, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": otlp, "OTEL_TRACES_EXPORTER": ""}
                if otlp
                else os.environ
            ),
        )
        if output is None:
            typer.echo(envoy.render(settings))
        else:
            envoy.write(settings, output.absolute().parent, output.name)
    except (config.ConfigError, ValueError, OSError) as error:
        typer.echo(f"openmcp envoy-config: {error}", err=True)
        raise typer.Exit(1) from None


def _identity(options: str, certificate: Path | None, key: Path | None) -> "Identity | None":
    """Raises ValueError if one is given without the other."""
    from openmcp_chain.stack.envoy.tls import Identity  # noqa: PLC0415 - see cli.main

    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise ValueError(f"{options}: both are needed, or neither")
    return Identity(certificate.absolute(), key.absolute())


def _servers(ca: Path | None, name: str, host: str, shown: "Identity | None") -> "Servers | None":
    """Raises ValueError if something is said of a TLS that is not spoken."""
    from openmcp_chain.stack.envoy.tls import Servers  # noqa: PLC0415 - see cli.main

    if ca is None and (shown or name):
        raise ValueError("--server-ca-file is needed: without it, no TLS is spoken to the servers")
    return Servers(ca.absolute(), name or host, shown) if ca else None
