"""`deploy/secrets.sh`: its certificates, and what it does when it is run again."""

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from support import manifests

from openmcp_chain.stack.authority import Authority

DAYS = 90
MONTH = timedelta(days=30)


def run(folder: Path, **environment: str) -> Path:
    """Runs the script in a folder; returns where the secrets are."""
    script = folder / "secrets.sh"
    script.write_bytes((manifests.DEPLOY / "secrets.sh").read_bytes())
    done = subprocess.run(
        ["sh", str(script)], env={"PATH": "/usr/bin:/bin", **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / "secrets"


def read(file: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(file.read_bytes())


def names(certificate: x509.Certificate) -> list[str]:
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [*found.get_values_for_type(x509.DNSName), *map(str, found.get_values_for_type(x509.IPAddress))]


def test_what_it_makes(tmp_path: Path) -> None:
    """One authority, whose key is its owner's and is nowhere else; a certificate for each part, and for clients."""
    made = run(tmp_path, OPENMCP_HOST="chain.example.com")
    assert made.stat().st_mode & 0o777 == 0o700
    authority = read(made / "authority/cert.pem")
    key = made / "authority/key.pem"
    assert key.stat().st_mode & 0o777 == 0o600
    copies = [file for file in made.rglob("*") if file.is_file() and file.read_bytes() == key.read_bytes()]
    assert copies == [key]
    for part in ("server", "envoy", "worker", "public"):
        leaf = read(made / part / "cert.pem")
        leaf.verify_directly_issued_by(authority)
        assert (made / part / "ca.pem").read_bytes() == (made / "authority/cert.pem").read_bytes()
        assert leaf.not_valid_after_utc - datetime.now(UTC) <= timedelta(days=DAYS)
        use = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        wanted = {"envoy": "clientAuth", "worker": "clientAuth"}.get(part, "serverAuth")
        assert [one._name for one in use] == [wanted]
    assert names(read(made / "public/cert.pem")) == ["chain.example.com", "localhost", "127.0.0.1"]


def test_again(tmp_path: Path) -> None:
    """Run again, it leaves all as it is, but for a certificate that ends within a month: that, and its key, is new."""
    made = run(tmp_path)
    before = {file: file.read_bytes() for file in made.rglob("*") if file.is_file()}
    run(tmp_path)
    assert before == {file: file.read_bytes() for file in made.rglob("*") if file.is_file()}
    leaf, key = made / "server/cert.pem", made / "server/key.pem"
    script = (tmp_path / "secrets.sh").read_text()
    longer = script.replace("-checkend 2592000", f"-checkend {(DAYS + 1) * 86400}")
    assert longer != script
    (tmp_path / "longer.sh").write_text(longer)
    subprocess.run(["sh", str(tmp_path / "longer.sh")], check=True, capture_output=True)
    assert leaf.read_bytes() != before[leaf]
    assert key.read_bytes() != before[key]
    assert read(leaf).public_key() != x509.load_pem_x509_certificate(before[leaf]).public_key()
    assert (made / "authority/key.pem").read_bytes() == before[made / "authority/key.pem"]


@pytest.mark.parametrize("again", [1, 2])
def test_a_certificate_of_somebody_elses_is_left_alone(tmp_path: Path, again: int) -> None:
    """What was put in place of the public certificate stays, however soon it ends: who put it there renews it."""
    made = run(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    issued = Authority.opened(other).issue("public")  # for less than a month
    (made / "public/cert.pem").write_bytes(issued.certificate.read_bytes())
    (made / "public/key.pem").write_bytes(issued.key.read_bytes())
    for _ in range(again):
        run(tmp_path)
    assert (made / "public/cert.pem").read_bytes() == issued.certificate.read_bytes()
    assert (made / "public/key.pem").read_bytes() == issued.key.read_bytes()
