"""The allow-list: what it grants, and what is said of one that is wrong."""

import ipaddress
import pathlib
import textwrap

import pytest

from openmcp_chain.executors.data_pipeline import Policy, PolicyError, addresses, policy, uris


def test_without_a_file() -> None:
    """The default grants public https hosts, and no folder, bucket or private address."""
    access = Policy.parse("").access("ws-any")
    assert access.allows_host("example.com")
    assert not access.http_allow_plain
    assert access.folder_of(uris.parse("file:///etc/passwd")) is None
    assert not access.allows_object(uris.parse("s3://bucket/key"))
    assert access.allows_address("example.com", ipaddress.ip_address("93.184.215.14"))


def test_the_documented_example() -> None:
    """The example in the module's docstring works, key by key, and `{workspace}` stands for the workspace."""
    assert policy.__doc__
    found = Policy.parse(textwrap.dedent(policy.__doc__.partition("An example:\n")[2]))
    other = found.access("ws-9")
    assert other.folder_of(uris.parse("file:///srv/openmcp/ws-9/a/b.json")) == pathlib.PurePosixPath(
        "/srv/openmcp/ws-9"
    )
    assert other.folder_of(uris.parse("file:///srv/openmcp/ws-99/b.json")) is None
    assert other.folder_of(uris.parse("file:///srv/openmcp/ws-9")) is None
    assert other.allows_object(uris.parse("s3://openmcp/ws-9/a.json"))
    assert not other.allows_object(uris.parse("s3://openmcp/ws-99/a.json"))
    demo = found.access("ws-demo")
    assert demo.folder_of(uris.parse("file:///srv/shared/a.json"))
    assert demo.allows_object(uris.parse("s3://openmcp/ws-demo/a.json"))
    assert demo.allows_host("a.example.org")
    assert not demo.allows_host("example.org")
    assert not demo.allows_host("evilexample.org")
    assert demo.allows_address("other.internal", ipaddress.ip_address("10.20.3.4"))
    assert demo.allows_address("warehouse.internal", ipaddress.ip_address("10.99.0.1"))
    assert not demo.allows_address("other.internal", ipaddress.ip_address("10.99.0.1"))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "0.0.0.0",  # noqa: S104 - an address to refuse, not to listen on
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "169.254.169.254",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fd00:ec2::254",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "2001:0:4136:e378:8000:63bf:80ff:fffe",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "192.88.99.1",
        "240.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::808:808",
        "::7f00:1",
        "::ffff:0:7f00:1",
        "2002:808:808::",
        "100::1",
        "2001:db8::1",
        "3fff::1",
        "5f00::1",
        "4000::1",
        "fec0::1",
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    """Loopback, private, shared, link-local, metadata, multicast and reserved addresses, however wrapped in IPv6.

    Among them are the metadata services of clouds that stand outside of what is usually called private.
    """
    assert not Policy.parse("").access("ws-any").allows_address("example.com", ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_addresses_that_are_public(address: str) -> None:
    """Ordinary addresses of both families are allowed."""
    assert Policy.parse("").access("ws-any").allows_address("example.com", ipaddress.ip_address(address))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("defaults = 1", "defaults: is not a key"),
        ("default = 1", "default: must be a table"),
        ("workspaces = 1", "workspaces: must be a table"),
        ("[default]\nfile = []", "default.file: is not a key"),
        ('[default]\nfiles = "x"', "default.files: must be a list of texts"),
        ("[default]\nfiles = [1]", "default.files: must be a list of texts"),
        ('[default]\nfiles = ["x"]', "default.files: `x` must be an absolute path"),
        ('[default]\nfiles = ["/a/../b"]', "default.files: `/a/../b` must be an absolute path"),
        ("[default]\nhttp_allow_plain = 1", "default.http_allow_plain: must be true or false"),
        ('[default]\nhttp_allow_private = ["10.0.0.1/8"]', "default.http_allow_private: `10.0.0.1/8`"),
        ('[workspaces."ws-a"]\nbucket = []', 'workspaces."ws-a".bucket: is not a key'),
        ('[workspaces."ws-a"]\nbuckets = [""]', 'workspaces."ws-a".buckets: must be a list of texts'),
        ('[workspaces."Ws A"]', 'workspaces."Ws A": is not a workspace id'),
        ("[default]\nnonsense\nfiles = []", "line 2"),
    ],
)
def test_a_wrong_file_is_told_by_its_key(text: str, message: str) -> None:
    """The error names the key and says what would be right."""
    with pytest.raises(PolicyError) as caught:
        Policy.parse(text)
    assert message in str(caught.value)


def test_a_file_is_named(tmp_path: pathlib.Path) -> None:
    """Errors from a file begin with its path, and a missing one is an error too."""
    path = tmp_path / "policy.toml"
    with pytest.raises(PolicyError, match="No such file"):
        Policy.load(path)
    path.write_text("[default]\nfile = []")
    with pytest.raises(PolicyError, match=r"policy\.toml: default\.file"):
        Policy.load(path)


def test_own_addresses_are_not_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address of this machine is not reached even if it is a public one, since its services may trust it."""
    own, other = ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("192.0.2.1")
    monkeypatch.setattr(addresses, "is_public", lambda _: True)
    access = Policy.parse("").access("ws-any")
    assert not access.allows_address("example.com", own)
    assert access.allows_address("example.com", other)
    allowed = Policy.parse('[default]\nhttp_allow_private = ["127.0.0.1"]').access("ws-any")
    assert allowed.allows_address("example.com", own)
