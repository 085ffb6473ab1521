"""TLS on both sides of Envoy: before it, to its clients; behind it, to the servers.

Certificates stay in their files. Envoy is told of them by files of its own (SDS), because only what comes this way is
read again when it changes: whoever renews a certificate moves the new one into its place, and connections from then on
have it. A certificate and a key that don't belong together are not taken; the old ones stay until both are there.
"""

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Json = dict[str, Any]

HSTS = "max-age=31536000"
"""What clients are told with every answer: to come by HTTPS only, for a year."""
TOLD = f'%CEL(connection.tls_version == "" ? "" : "{HSTS}")%'
"""The same as a format of Envoy's, empty on a connection without TLS: a header that is empty is not sent."""
_SECRETS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
_TLS = "envoy.transport_sockets.tls"
_OWN, _CLIENT, _AUTHORITY = "listener", "client", "authority"


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its key, as PEM files, absolute paths."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Servers:
    """How Envoy knows the servers, and shows itself to them."""

    ca: Path
    """The PEM file of the authorities that vouch for the servers; an absolute path."""
    name: str
    """The DNS name, or the address, that a server's certificate must have."""
    identity: Identity | None = None
    """What Envoy shows; None: the servers ask for nothing."""


def secrets(listener: Identity | None, servers: Servers | None) -> Mapping[str, Json]:
    """The files that tell Envoy where the certificates are, by name; JSON."""
    return {f"{name}.json": {"resources": [secret]} for name, secret in _secrets(listener, servers)}


def downstream(identity: Identity | None, folder: Path) -> Json | None:
    """The transport socket to clients; `folder` has the files of `secrets`. None for plain text."""
    if identity is None:
        return None
    common = _common(["h2", "http/1.1"]) | {"tls_certificate_sds_secret_configs": [_by_sds(_OWN, folder)]}
    return {"name": _TLS, "typed_config": {"@type": f"{_SECRETS}.DownstreamTlsContext", "common_tls_context": common}}


def loopback(identity: Identity | None) -> Json | None:
    """The transport socket to Envoy's own listener. None for plain text.

    It looks at no certificate: the listener is this process, and the name that its certificate has is not known here.
    """
    if identity is None:
        return None
    config = {"@type": f"{_SECRETS}.UpstreamTlsContext", "common_tls_context": {"alpn_protocols": ["http/1.1"]}}
    return {"name": _TLS, "typed_config": config}


def upstream(servers: Servers | None, folder: Path) -> Json | None:
    """The transport socket to the servers. None for plain text."""
    if servers is None:
        return None
    kind = subject_kind(servers.name)
    name = {"san_type": kind, "matcher": {"exact": servers.name}}
    common = _common(["h2"]) | {
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": [name]},
            "validation_context_sds_secret_config": _by_sds(_AUTHORITY, folder),
        }
    }
    if servers.identity is not None:
        common["tls_certificate_sds_secret_configs"] = [_by_sds(_CLIENT, folder)]
    config = {"@type": f"{_SECRETS}.UpstreamTlsContext", "common_tls_context": common}
    if kind == "DNS":  # an address is no name to ask for (RFC 6066, 3)
        config["sni"] = servers.name
    return {"name": _TLS, "typed_config": config}


def subject_kind(name: str) -> str:
    """What Envoy calls the kind of subject alternative name that a name or address is."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return "DNS"
    return "IP_ADDRESS"


def inspector() -> list[Json]:
    """The listener filters that tell TLS from plain text."""
    kind = "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"
    return [{"name": "envoy.filters.listener.tls_inspector", "typed_config": {"@type": kind}}]


def _common(alpn: list[str]) -> Json:
    # The ciphers are BoringSSL's, which have no weak ones in TLS 1.2 but CBC; those are left out.
    return {
        "alpn_protocols": alpn,
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_2",
            "tls_maximum_protocol_version": "TLSv1_3",
            "cipher_suites": [
                "[ECDHE-ECDSA-AES128-GCM-SHA256|ECDHE-ECDSA-CHACHA20-POLY1305]",
                "[ECDHE-RSA-AES128-GCM-SHA256|ECDHE-RSA-CHACHA20-POLY1305]",
                "ECDHE-ECDSA-AES256-GCM-SHA384",
                "ECDHE-RSA-AES256-GCM-SHA384",
            ],
        },
    }


def _secrets(listener: Identity | None, servers: Servers | None) -> Iterator[tuple[str, Json]]:
    for name, identity in ((_OWN, listener), (_CLIENT, servers.identity if servers else None)):
        if identity is not None:
            certificate = {
                "certificate_chain": {"filename": str(identity.certificate)},
                "private_key": {"filename": str(identity.key)},
                "watched_directory": {"path": str(identity.certificate.parent)},
            }
            yield name, {"@type": f"{_SECRETS}.Secret", "name": name, "tls_certificate": certificate}
    if servers is not None:
        authority = {
            "trusted_ca": {"filename": str(servers.ca)},
            "watched_directory": {"path": str(servers.ca.parent)},
        }
        yield _AUTHORITY, {"@type": f"{_SECRETS}.Secret", "name": _AUTHORITY, "validation_context": authority}


def _by_sds(name: str, folder: Path) -> Json:
    return {
        "name": name,
        "sds_config": {
            "resource_api_version": "V3",
            "path_config_source": {"path": str(folder / f"{name}.json")},
        },
    }
