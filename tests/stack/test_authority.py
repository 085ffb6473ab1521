"""The local authority of `openmcp dev --tls`."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from openmcp_chain.stack.authority import AUTHORITY_LIFE, LIFE, RENEWAL, Authority

NOW = datetime.now(UTC)


def read(file: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(file.read_bytes())


def test_what_it_issues(tmp_path: Path) -> None:
    """A leaf of a few days for this machine's names, of which the authority is the issuer; neither can be the other."""
    authority = Authority.opened(tmp_path, NOW)
    ca, leaf = read(authority.file), read(authority.issue("server", NOW).certificate)
    leaf.verify_directly_issued_by(ca)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    assert leaf.not_valid_after_utc <= NOW + LIFE
    for certificate, is_ca in ((ca, True), (leaf, False)):
        assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
        assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is is_ca
        assert certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign is is_ca
    constraint = ca.extensions.get_extension_for_class(x509.NameConstraints)
    assert (constraint.critical, constraint.value.permitted_subtrees) == (True, [x509.DNSName("localhost")])


def test_it_is_kept_while_it_lives(tmp_path: Path) -> None:
    """The authority is found again, until it would end before what it issues; then there is a new one."""
    first = read(Authority.opened(tmp_path, NOW).file)
    assert read(Authority.opened(tmp_path, NOW + AUTHORITY_LIFE - LIFE - timedelta(days=1)).file) == first
    assert read(Authority.opened(tmp_path, NOW + AUTHORITY_LIFE - LIFE).file) != first


@pytest.mark.parametrize("name", ["ca.pem", "ca.key"])
@pytest.mark.parametrize("content", ["", "garbage", None])
def test_one_that_can_not_be_read_is_replaced(tmp_path: Path, name: str, content: str | None) -> None:
    """A file that is away, or is none of ours, makes a new authority, whose certificate and key fit each other."""
    Authority.opened(tmp_path, NOW)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_text(content)
    authority = Authority.opened(tmp_path, NOW)
    read(authority.issue("server", NOW).certificate).verify_directly_issued_by(read(authority.file))


def test_a_key_of_another_is_not_taken(tmp_path: Path) -> None:
    """A certificate beside another authority's key would vouch for nothing."""
    folders = [tmp_path / name for name in ("ours", "theirs")]
    for folder in folders:
        folder.mkdir()
        Authority.opened(folder, NOW)
    (folders[0] / "ca.key").write_bytes((folders[1] / "ca.key").read_bytes())
    authority = Authority.opened(folders[0], NOW)
    read(authority.issue("server", NOW).certificate).verify_directly_issued_by(read(authority.file))


def test_renewal_comes_long_before_the_end() -> None:
    """What is issued is issued anew many times before it ends, so that a failure, or a laptop asleep, does no harm."""
    assert RENEWAL * 10 < LIFE
