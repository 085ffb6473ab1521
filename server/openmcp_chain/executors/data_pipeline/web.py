"""`http(s)://`, to read: no address that the policy does not allow is ever connected to.

The name is resolved once for each connection, by us; every address is checked, and the connection goes to one of those.
A name that resolves differently the next time (DNS rebinding) gains nothing. `httpcore` keeps the host's name for TLS.
Redirects are followed here, so that each is checked as the first request was. No proxy is used.
"""

import asyncio
import ipaddress
import pathlib
import socket
import ssl
from collections.abc import Iterable
from typing import TYPE_CHECKING

import httpcore

from openmcp_chain.executors.codes import Code, Refused
from openmcp_chain.executors.data_pipeline import uris
from openmcp_chain.executors.data_pipeline.addresses import Address
from openmcp_chain.executors.data_pipeline.limits import Limits
from openmcp_chain.executors.data_pipeline.policy import Access
from openmcp_chain.executors.data_pipeline.uris import Uri

if TYPE_CHECKING:
    import httpx

_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 5
_CONNECT_SECONDS = 10.0
_LOW_PORTS = (80, 443)
"""Of the ports up to 1023, those of HTTP. The others are other services', and no request of ours is to reach one."""
_HEADERS = [(b"Accept", b"*/*"), (b"Accept-Encoding", b"identity"), (b"User-Agent", b"openmcp-chain")]


class Web:
    """Fetches over HTTP.

    Args:
        limits: For size and time.
        tls: How servers prove who they are; by default, by the certificates of the machine's trust store.
    """

    def __init__(self, limits: Limits, tls: ssl.SSLContext | None = None) -> None:
        self._limits = limits
        self._tls = tls or ssl.create_default_context()

    async def fetch(self, uri: Uri, access: Access, target: pathlib.Path) -> None:
        """Copies the response's body to `target`.

        Raises:
            Refused: ACCESS_DENIED, INPUT_NOT_FOUND, INPUT_TOO_LARGE, INPUT_UNAVAILABLE.
        """
        try:
            async with asyncio.timeout(self._limits.transfer_seconds):
                await self._follow(uri, access, target)
        except TimeoutError:
            late = f"{uri}: took longer than {self._limits.transfer_seconds:g} s"
            raise Refused(Code.INPUT_UNAVAILABLE, late, retryable=True) from None
        except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError) as error:
            why = f"{uri}: {_WORDS.get(type(error), type(error).__name__)}"
            raise Refused(Code.INPUT_UNAVAILABLE, why, retryable=True) from None

    async def _follow(self, uri: Uri, access: Access, target: pathlib.Path) -> None:
        location = uri.text
        for _ in range(_MOST_REDIRECTS + 1):
            url = _checked(uri, location, access)
            onward = await self._get(uri, url, access, target)
            if onward is None:
                return
            location = _joined(uri, url, onward)
        raise Refused(Code.INPUT_UNAVAILABLE, f"{uri}: redirects more than {_MOST_REDIRECTS} times")

    async def _get(self, uri: Uri, url: "httpx.URL", access: Access, target: pathlib.Path) -> str | None:
        """Copies the body, or returns where the host redirects to."""
        stall = self._limits.stall_seconds
        timeouts = {"connect": _CONNECT_SECONDS, "read": stall, "write": stall, "pool": stall}
        backend = _Guarded(uri, access)
        asked = [(b"Host", url.netloc), *_HEADERS]
        async with (
            httpcore.AsyncConnectionPool(ssl_context=self._tls, network_backend=backend) as pool,
            pool.stream("GET", _raw(url), headers=asked, extensions={"timeout": timeouts}) as response,
        ):
            headers = {name.lower().decode("latin-1"): value.decode("latin-1") for name, value in response.headers}
            if response.status in _REDIRECTS and "location" in headers:
                return headers["location"]
            _check(uri, response.status, headers)
            limit = self._limits.input_bytes
            too_large = Refused(Code.INPUT_TOO_LARGE, f"{uri}: has more than {limit} bytes")
            if int(headers.get("content-length", 0)) > limit:
                raise too_large
            size = 0
            with target.open("wb") as copy:
                async for chunk in response.aiter_stream():
                    size += len(chunk)
                    if size > limit:
                        raise too_large
                    copy.write(chunk)
        return None


class _Guarded(httpcore.AsyncNetworkBackend):
    """Resolves names itself, and connects only to what it has checked."""

    def __init__(self, uri: Uri, access: Access) -> None:
        self._uri = uri
        self._access = access
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the base class has it
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failure: Exception = httpcore.ConnectError("no address")
        for address in await self._resolve(host, port):
            try:
                return await self._inner.connect_tcp(
                    str(address), port, timeout=timeout, local_address=local_address, socket_options=socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def _resolve(self, host: str, port: int) -> list[Address]:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError:
            raise Refused(
                Code.INPUT_UNAVAILABLE, f"{self._uri}: the host's name has no address", retryable=True
            ) from None
        except UnicodeError:  # an empty label, or one of more than 63 characters
            raise Refused(Code.INPUT_UNAVAILABLE, f"{self._uri}: no host can have this name") from None
        addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
        # All of them: a name with a private address among public ones is an attack or a mistake.
        if not all(self._access.allows_address(host, address) for address in addresses):
            raise Refused(Code.ACCESS_DENIED, f"{self._uri}: leads to an address that is not public")
        return addresses


def _checked(uri: Uri, location: str, access: Access) -> "httpx.URL":
    """The URL to ask next, if the workspace may."""
    import httpx  # noqa: PLC0415 - it brings a command line of its own, a third of the worker's start

    try:
        url = httpx.URL(uris.parse(location).text)
    except (ValueError, httpx.InvalidURL):
        raise _elsewhere(uri) from None
    if url.scheme not in ("http", "https") or url.userinfo:
        raise _elsewhere(uri)
    if url.scheme == "http" and not access.http_allow_plain:
        raise Refused(Code.ACCESS_DENIED, f"{uri}: this workspace may use https:// only")
    # The very bytes that the connection is made with: two parsers may disagree on what the host is.
    if not access.allows_host(url.raw_host.decode()):
        raise Refused(Code.ACCESS_DENIED, f"{uri}: this workspace may not use this host")
    if url.port is not None and url.port < 1024 and url.port not in _LOW_PORTS:
        raise Refused(Code.ACCESS_DENIED, f"{uri}: leads to a port that is not HTTP's")
    return url


def _joined(uri: Uri, url: "httpx.URL", onward: str) -> str:
    """Where a redirect from `url` leads."""
    import httpx  # noqa: PLC0415 - as above

    try:
        return str(url.join(onward))
    except (ValueError, httpx.InvalidURL):
        raise _elsewhere(uri) from None


def _elsewhere(uri: Uri) -> Refused:
    return Refused(Code.ACCESS_DENIED, f"{uri}: leads to something that is no http(s) URI")


def _raw(url: "httpx.URL") -> httpcore.URL:
    return httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)


def _check(uri: Uri, status: int, headers: dict[str, str]) -> None:
    if status in (404, 410):
        raise Refused(Code.INPUT_NOT_FOUND, f"{uri}: the host answers {status}")
    if status in (401, 403, 407):
        raise Refused(Code.ACCESS_DENIED, f"{uri}: the host answers {status}")
    if status != 200:
        again = status >= 500 or status in (408, 425, 429)
        raise Refused(Code.INPUT_UNAVAILABLE, f"{uri}: the host answers {status}", retryable=again)
    if headers.get("content-encoding", "identity") != "identity":
        raise Refused(Code.INPUT_UNAVAILABLE, f"{uri}: the host sends it compressed, though asked not to")


_WORDS: dict[type[Exception], str] = {
    httpcore.ConnectError: "no connection to the host",
    httpcore.ConnectTimeout: "no connection to the host in time",
    httpcore.ReadTimeout: "the host fell silent",
    httpcore.ReadError: "the connection broke",
    httpcore.RemoteProtocolError: "the response is cut off, or not HTTP",
}
