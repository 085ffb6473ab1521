"""A certificate authority for one machine: what `openmcp dev --tls` has its certificates from.

It may vouch for no name but `localhost`, so that whoever trusts it trusts it for no other site. What it issues lives
for days and is issued anew long before its end: there is nothing to revoke. Each file is replaced as a whole.
"""

import ipaddress
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from openmcp_chain.stack.state import write_private

LIFE = timedelta(days=7)
"""Of what it issues."""
RENEWAL = timedelta(hours=6)
"""How often that is issued anew."""
AUTHORITY_LIFE = timedelta(days=2 * 365)
"""The authority's own; with less than LIFE left, it gives way to a new one."""
_SKEW = timedelta(hours=1)
"""By how much another clock may be behind ours."""
_PEM = serialization.Encoding.PEM


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """The authority that is kept in a folder."""

    def __init__(self, folder: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._folder, self._certificate, self._key = folder, certificate, key

    @classmethod
    def opened(cls, folder: Path, now: datetime | None = None) -> Self:
        """The folder's authority; a new one if there is none that can be read and lives long enough. Raises OSError."""
        now = now or datetime.now(UTC)
        with suppress(FileNotFoundError, ValueError, TypeError):
            certificate = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
            key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
            lasts = certificate.not_valid_after_utc - now > LIFE
            if lasts and isinstance(key, ec.EllipticCurvePrivateKey) and key.public_key() == certificate.public_key():
                return cls(folder, certificate, key)
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "OpenMCP Chain, this machine only")])
        # Addresses can't be constrained: BoringSSL, which is gRPC's and Envoy's, takes no certificate under such a
        # constraint.
        permitted = [x509.DNSName("localhost")]
        certificate = (
            _begun(name, name, key.public_key(), now, AUTHORITY_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(authority=True), critical=True)
            .add_extension(x509.NameConstraints(permitted, None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        _write(folder / "ca", certificate, key)
        return cls(folder, certificate, key)

    @property
    def file(self) -> Path:
        """The authority's certificate, which its clients trust."""
        return self._folder / "ca.pem"

    def issue(self, name: str, now: datetime | None = None) -> Issued:
        """Writes a certificate for this machine, and a new key, as `<name>.pem` and `<name>.key`. Raises OSError."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"OpenMCP Chain {name}")])
        addresses = [x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", "::1")]
        uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            _begun(subject, self._certificate.subject, key.public_key(), now or datetime.now(UTC), LIFE)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost"), *addresses]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return _write(self._folder / name, certificate, key)


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + life)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write(stem: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Issued:
    """The key first: who finds the certificate, and reads both, has its key."""
    private = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    issued = Issued(stem.with_suffix(".pem"), stem.with_suffix(".key"))
    write_private(issued.key, private.decode())
    write_private(issued.certificate, certificate.public_bytes(_PEM).decode())
    return issued
