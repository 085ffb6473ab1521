"""Fetching over HTTP, from real servers on loopback."""

import asyncio
import datetime as dt
import pathlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support.pipelines import Bench

from openmcp_chain.executors.data_pipeline import Limits

MakeBench = Callable[..., Bench]
LOOPBACK = 'http_allow_plain = true\nhttp_allow_private = ["127.0.0.1"]'
DATA = b'[{"a":1}]'

Reply = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]


def ok(body: bytes, headers: str = "") -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def redirect(to: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode()


class Host:
    """A server that answers each path with the bytes that the test gives it."""

    def __init__(self) -> None:
        self.replies: dict[str, Reply] = {}
        self.requests: list[str] = []
        self.port = 0

    def url(self, path: str, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.requests.append(request)
            reply = self.replies[request.split(" ")[1]]
            if isinstance(reply, bytes):
                writer.write(reply)
                await writer.drain()
            else:
                await reply(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client went away, as some tests want it to
        finally:
            writer.close()


@asynccontextmanager
async def serving(tls: ssl.SSLContext | None = None) -> AsyncIterator[Host]:
    host = Host()
    server = await asyncio.start_server(host.answer, "127.0.0.1", 0, ssl=tls)
    host.port = server.sockets[0].getsockname()[1]
    try:
        yield host
    finally:
        server.close()


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    async with serving() as running:
        yield running


@pytest.fixture
def near(make_bench: MakeBench) -> Bench:
    """A pipeline whose workspace may use this machine's loopback."""
    return make_bench(policy=LOOPBACK)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Host names and the addresses that they have, in place of DNS: one for each question, the last for ever."""
    known: dict[str, list[str]] = {}

    resolve = asyncio.BaseEventLoop.getaddrinfo

    async def getaddrinfo(self: asyncio.BaseEventLoop, host: str, port: int, **more: Any) -> list[Any]:
        if not host.endswith(".test"):  # a number in some spelling, for the real resolver
            return await resolve(self, host, port, **more)
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        answers = known[host]
        address = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (part, port)) for part in address.split(",")]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return known


async def fetch(bench: Bench, url: str, **fields: Any) -> Mapping[str, Any]:
    return await bench.run(input_uri=url, input_format="json", output_uri=bench.uri("out.json"), **fields)


async def fails(bench: Bench, url: str, code: str, *, retryable: bool = False) -> str:
    failed = await bench.fails(input_uri=url, input_format="json", output_uri=bench.uri("out.json"))
    assert (failed.code, failed.retryable) == (code, retryable), failed.message
    assert bench.names() == set()
    return failed.message


async def test_an_input_from_the_web(near: Bench, host: Host) -> None:
    """A body is fetched and transformed; the server sees the host's name, no credentials, and asks for no encoding."""
    host.replies["/a.json?x=1"] = ok(DATA)
    result = await near.run(input_uri=host.url("/a.json?x=1"), output_uri=near.uri("out.csv"))
    assert (near.files / "out.csv").read_bytes() == b"a\n1\n"
    assert result["rows_in"] == 1
    head = host.requests[0].lower()
    assert f"host: 127.0.0.1:{host.port}\r\n" in head
    assert "accept-encoding: identity\r\n" in head
    assert "authorization" not in head


@pytest.mark.parametrize(
    ("reply", "code", "retryable"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "INPUT_NOT_FOUND", False),
        (b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n", "INPUT_NOT_FOUND", False),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "ACCESS_DENIED", False),
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "INPUT_UNAVAILABLE", False),
        (b"HTTP/1.1 206 Partial Content\r\nContent-Length: 0\r\n\r\n", "INPUT_UNAVAILABLE", False),
        (b"HTTP/1.1 429 Too Many\r\nContent-Length: 0\r\n\r\n", "INPUT_UNAVAILABLE", True),
        (b"HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\n\r\n", "INPUT_UNAVAILABLE", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + DATA, "INPUT_UNAVAILABLE", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n" + DATA, "INPUT_UNAVAILABLE", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n" + DATA, "INPUT_UNAVAILABLE", True),
        (b"SSH-2.0-OpenSSH\r\n", "INPUT_UNAVAILABLE", True),
        (b"", "INPUT_UNAVAILABLE", True),
        (ok(DATA, "Content-Encoding: gzip\r\n"), "INPUT_UNAVAILABLE", False),
    ],
)
async def test_answers_that_are_no_input(near: Bench, host: Host, reply: bytes, code: str, retryable: bool) -> None:
    """Refusals, errors, and responses that are cut off or malformed: told, and tried again where that can help."""
    host.replies["/a.json"] = reply
    await fails(near, host.url("/a.json"), code, retryable=retryable)


async def test_more_than_was_announced(near: Bench, host: Host) -> None:
    """What follows the announced length is not part of the body."""
    host.replies["/a.json"] = ok(DATA) + b"trailing garbage"
    assert (await fetch(near, host.url("/a.json")))["rows_in"] == 1


async def test_nobody_listens(near: Bench) -> None:
    """A refused connection may be tried again."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: nobody else gets the port meanwhile
        await fails(near, f"http://127.0.0.1:{taken.getsockname()[1]}/a", "INPUT_UNAVAILABLE", retryable=True)


async def test_a_host_that_falls_silent(make_bench: MakeBench, host: Host) -> None:
    """A body that stops coming is given up after the longest silence allowed."""
    bench = make_bench(policy=LOOPBACK, limits=Limits(stall_seconds=0.2))
    closed = asyncio.Event()

    async def stall(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[")
        await writer.drain()
        await closed.wait()

    host.replies["/a.json"] = stall
    assert "fell silent" in await fails(bench, host.url("/a.json"), "INPUT_UNAVAILABLE", retryable=True)
    closed.set()


async def test_a_host_that_drips(make_bench: MakeBench, host: Host) -> None:
    """A body that comes too slowly, though never silent, is given up after the time for the whole."""
    bench = make_bench(policy=LOOPBACK, limits=Limits(transfer_seconds=0.5))

    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.02)

    host.replies["/a.json"] = drip
    assert "longer than 0.5 s" in await fails(bench, host.url("/a.json"), "INPUT_UNAVAILABLE", retryable=True)


@pytest.mark.parametrize("announced", [True, False])
async def test_too_large(make_bench: MakeBench, host: Host, announced: bool) -> None:
    """A body past the limit is refused when it is announced, and otherwise as soon as it passes."""
    bench = make_bench(policy=LOOPBACK, limits=Limits(input_bytes=1000))

    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while True:
            writer.write(b"x" * 1000)
            await writer.drain()

    host.replies["/a.json"] = b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n" if announced else endless
    await fails(bench, host.url("/a.json"), "INPUT_TOO_LARGE")


async def test_redirects_are_followed(near: Bench, host: Host) -> None:
    """Absolute and relative redirects lead to the body, each checked on the way."""
    host.replies |= {"/a": redirect("/b", 301), "/b": redirect(host.url("/c"), 307), "/c": ok(DATA)}
    assert (await fetch(near, host.url("/a")))["rows_in"] == 1


async def test_redirects_without_end(near: Bench, host: Host) -> None:
    """A loop of redirects is given up."""
    host.replies["/a"] = redirect("/a")
    assert "redirects more than 5 times" in await fails(near, host.url("/a"), "INPUT_UNAVAILABLE")


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]:{port}/b",
        "http://[::ffff:127.0.0.2]:{port}/b",
        "http://127.0.0.2:{port}/b",
        "http://2130706434:{port}/b",
        "http://0x7f000002:{port}/b",
        "http://127.2:{port}/b",
        "http://0.0.0.0:{port}/b",
        "http://10.0.0.1/",
        "http://inside.test:{port}/b",
        "http://user:secret@127.0.0.1:{port}/b",
        "file:///etc/passwd",
        "s3://bucket/key",
        "gopher://127.0.0.1/",
        "//127.0.0.2:{port}/b",
        "http://[::1",
        "http://[::1]x/",
        "http://127.0.0.1:99999/b",
        "http://127.0.0.1:25/b",
        "http://017700000002:{port}/b",
        "http://[::127.0.0.2]:{port}/b",
        "http://[64:ff9b::7f00:2]:{port}/b",
        "http://127。0。0。2:{port}/b",
        "https://" + "x" * 70_000,
    ],
)
async def test_a_redirect_to_where_it_may_not_go(
    near: Bench, host: Host, names: dict[str, list[str]], target: str
) -> None:
    """A redirect to a private address, in any spelling, or to another scheme, is refused and never connected to."""
    names["inside.test"] = ["127.0.0.2"]
    host.replies |= {"/a": redirect(target.format(port=host.port)), "/b": ok(DATA)}
    message = await fails(near, host.url("/a"), "ACCESS_DENIED")
    assert message.startswith(host.url("/a"))
    assert len(host.requests) == 1


async def test_private_addresses_are_refused(make_bench: MakeBench, host: Host, names: dict[str, list[str]]) -> None:
    """Without a word in the policy, no private address is reached: by number, by name, or as one address of several."""
    names |= {"inside.test": ["127.0.0.1"], "both.test": ["93.184.215.14,127.0.0.1"]}
    bench = make_bench(policy="http_allow_plain = true")
    for name in ("127.0.0.1", "inside.test", "both.test", "[::1]"):
        message = await fails(bench, host.url("/a", name), "ACCESS_DENIED")
        assert "not public" in message
    assert host.requests == []


async def test_a_name_that_changes_its_address(make_bench: MakeBench, host: Host, names: dict[str, list[str]]) -> None:
    """DNS rebinding: the address that was checked is the one connected to, also after a redirect."""
    bench = make_bench(policy=LOOPBACK)
    names["moving.test"] = ["127.0.0.1", "127.0.0.2"]
    host.replies |= {"/a": ok(DATA), "/r": redirect("/a")}
    assert (await fetch(bench, host.url("/a", "moving.test")))["rows_in"] == 1
    (bench.files / "out.json").unlink()
    names["moving.test"] = ["127.0.0.1", "127.0.0.2"]
    await fails(bench, host.url("/r", "moving.test"), "ACCESS_DENIED")


async def test_hosts_are_allowed_by_name(make_bench: MakeBench, host: Host, names: dict[str, list[str]]) -> None:
    """A list of hosts allows those alone; a host that may be private is reached at whatever address it has."""
    bench = make_bench(policy='http_allow_plain = true\nhttp_hosts = ["data.test"]\nhttp_allow_private = ["data.test"]')
    names |= {"data.test": ["127.0.0.1"], "other.test": ["127.0.0.1"]}
    host.replies["/a"] = ok(DATA)
    assert (await fetch(bench, host.url("/a", "DATA.test")))["rows_in"] == 1
    (bench.files / "out.json").unlink()
    assert "may not use this host" in await fails(bench, host.url("/a", "other.test"), "ACCESS_DENIED")


async def test_an_unknown_name(near: Bench, names: dict[str, list[str]]) -> None:
    """A name without an address may have one later."""
    await fails(near, "http://nowhere.test/a", "INPUT_UNAVAILABLE", retryable=True)


@pytest.mark.parametrize("name", ["a..test", ".test", "x" * 64 + ".test"])
async def test_a_name_that_cannot_be_one(near: Bench, host: Host, name: str) -> None:
    """A host's name that no host can have will have no address later either, be it the input's or a redirect's."""
    assert "no host can have" in await fails(near, f"http://{name}/a", "INPUT_UNAVAILABLE")
    host.replies["/a"] = redirect(f"http://{name}/b")
    assert "no host can have" in await fails(near, host.url("/a"), "INPUT_UNAVAILABLE")


@pytest.mark.parametrize("port", [0, 22, 25, 53, 111, 1023])
async def test_ports_of_other_services(near: Bench, port: int) -> None:
    """No request goes to a port that is known to be another service's, whatever host it is on."""
    assert "port that is not HTTP's" in await fails(near, f"http://127.0.0.1:{port}/a", "ACCESS_DENIED")


async def test_plain_http_needs_the_policy(make_bench: MakeBench, host: Host) -> None:
    """By default only https:// will do."""
    bench = make_bench(policy='http_allow_private = ["127.0.0.1"]')
    assert "https:// only" in await fails(bench, host.url("/a"), "ACCESS_DENIED")


def certificate(folder: pathlib.Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS for a server of this name, and for a client that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "server.pem"
    pem.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    return server, ssl.create_default_context(cafile=pem)


async def test_https_keeps_the_hosts_name(
    make_bench: MakeBench, tmp_path: pathlib.Path, names: dict[str, list[str]]
) -> None:
    """The connection goes to the checked address, while TLS and Host keep the name; another name is refused."""
    server, client = certificate(tmp_path, "data.test")
    asked: list[str | None] = []
    server.sni_callback = lambda _socket, name, _context: asked.append(name)
    names |= {"data.test": ["127.0.0.1"], "other.test": ["127.0.0.1"]}
    bench = make_bench(policy='http_allow_private = ["127.0.0.1"]', tls=client)
    async with serving(server) as host:
        host.replies["/a"] = ok(DATA)
        assert (await fetch(bench, host.url("/a", "data.test", "https")))["rows_in"] == 1
        assert asked == ["data.test"]
        assert f"host: data.test:{host.port}\r\n" in host.requests[0].lower()
        (bench.files / "out.json").unlink()
        await fails(bench, host.url("/a", "other.test", "https"), "INPUT_UNAVAILABLE", retryable=True)
        assert len(host.requests) == 1


async def test_a_proxy_in_the_environment_is_not_used(near: Bench, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would make the connection for us, unchecked."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    host.replies["/a"] = ok(DATA)
    assert (await fetch(near, host.url("/a")))["rows_in"] == 1
