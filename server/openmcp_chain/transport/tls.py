"""The server's certificates: TLS, and mutual TLS where an authority for its clients is named.

They are read again when their files have changed, at the next connection: connections that are up keep what they
have, and nobody need restart anything. Files that don't fit together (a certificate that was replaced a moment before
its key) or can't be read are left for the next connection; until then the certificates that are in use stay.

gRPC speaks TLS 1.2 or newer only.
"""

import logging
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

log = logging.getLogger(__name__)


class Certificates:
    """What is in the files, as gRPC wants it."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        """All are PEM files.

        `certificate` has the server's, and those between it and an authority that clients trust; `client_ca` those of
        the authorities that vouch for clients. None: anybody may connect.
        """
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        self._seen: tuple[object, ...] = ()
        self._faulty: tuple[object, ...] = ()

    def credentials(self) -> grpc.ServerCredentials:
        """Raises ValueError saying which file is at fault."""
        self._seen = self._look()
        renewed: Any = self._renewed  # its type denies that it may be None
        return grpc.dynamic_ssl_server_credentials(
            self._read(), renewed, require_client_authentication=self._client_ca is not None
        )

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """What is to be used from here on; None for what is. gRPC asks on threads of its own, before each handshake."""
        now = self._look()
        if now == self._seen:
            return None
        try:
            renewed = self._read()
        except ValueError as error:
            if now != self._faulty:
                log.warning("certificates not replaced", extra={"reason": str(error)})
            self._faulty = now
            return None
        self._seen = now
        log.info("certificates replaced")
        return renewed

    def _look(self) -> tuple[object, ...]:
        """Something that changes when a file does, through however many links."""
        return tuple(_state(file) for file in (self._certificate, self._key, self._client_ca) if file is not None)

    def _read(self) -> grpc.ServerCertificateConfiguration:
        chain, key = _bytes(self._certificate), _bytes(self._key)
        certificate = _certificates(self._certificate, chain)[0]
        try:
            private = serialization.load_pem_private_key(key, password=None)
        except (ValueError, TypeError):
            raise ValueError(f"{self._key} is no private key in PEM without a password") from None
        if _public(private.public_key()) != _public(certificate.public_key()):
            raise ValueError(f"{self._key} is not the key of the certificate {self._certificate}")
        authorities = None
        if self._client_ca is not None:
            authorities = _bytes(self._client_ca)
            _certificates(self._client_ca, authorities)
        return grpc.ssl_server_certificate_configuration([(key, chain)], authorities)


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file} can't be read: {error.strerror}") from None


def _certificates(file: Path, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise ValueError(f"{file} has no certificate in PEM") from None


def _public(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _state(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
