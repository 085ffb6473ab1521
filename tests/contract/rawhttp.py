"""HTTP/1.1 by hand: what a well-behaved client library would never send."""

import http.client
import io
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

SECONDS = 15.0
"""How long the other side may be silent before it counts as hung."""
Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """A response."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes


class Connection:
    """One TCP connection to Envoy."""

    def __init__(self, rest_url: str) -> None:
        parts = urlsplit(rest_url)
        assert parts.hostname
        assert parts.port
        self.host = f"{parts.hostname}:{parts.port}"
        self._socket = socket.create_connection((parts.hostname, parts.port), timeout=SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Sends; a peer that has answered and hung up in the middle of it is no error."""
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return

    def half_close(self) -> None:
        """Says that nothing more will come."""
        self._socket.shutdown(socket.SHUT_WR)

    def answer(self, method: str = "GET") -> Answer | None:
        """The next response; None if the connection ends instead. Raises TimeoutError for a peer that hangs."""
        response = http.client.HTTPResponse(self._socket, method=method)
        try:
            response.begin()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, headers, response.read())
        except (http.client.RemoteDisconnected, ConnectionResetError):
            return None
        finally:
            response.close()

    def until_closed(self) -> bytes:
        """All that comes until the peer hangs up. Raises TimeoutError for one that doesn't."""
        data = io.BytesIO()
        try:
            while chunk := self._socket.recv(65536):
                data.write(chunk)
        except ConnectionResetError:
            pass
        return data.getvalue()


def request(
    host: str, method: str, target: str, headers: Headers = (), body: bytes | None = None, *, sized: bool = True
) -> bytes:
    """A request's bytes, as they are told; with a length for the body if it is `sized`. Header values are Latin-1."""
    named = {name.lower() for name, _ in headers}
    lines = [f"{method} {target} HTTP/1.1", *([] if "host" in named else [f"host: {host}"])]
    lines += [] if "upgrade" in named else ["connection: close"]
    lines += [f"{name}: {value}" for name, value in headers]
    if sized and body is not None and "content-length" not in named:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def exchange(
    rest_url: str, method: str, target: str, headers: Headers = (), body: bytes | None = None, *, sized: bool = True
) -> Answer:
    """One request on a connection of its own, which must be answered."""
    with Connection(rest_url) as connection:
        connection.send(request(connection.host, method, target, headers, body, sized=sized))
        answer = connection.answer(method)
        assert answer is not None, f"no answer to {method} {target!r} {headers}"
        return answer
