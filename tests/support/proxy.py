"""A network that loses replies: stands between a client and a server, on loopback."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Proxy:
    """Passes bytes both ways, until told to lose a reply."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._marks: list[bytes] = []
        self._serving: set[asyncio.Task[None]] = set()
        self.port = 0
        self.lost = 0
        """How many replies it has lost."""
        self.replied = 0
        """Bytes of replies that it has passed."""

    def lose_reply_to(self, mark: bytes) -> None:
        """The next request that holds `mark` reaches the server; its reply is lost, and the connection with it."""
        self._marks.append(mark)

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves a connection from a client, and ends it: also one that is not served, because the proxy ends first."""
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        task.add_done_callback(lambda _: writer.transport.abort())

    async def end(self) -> None:
        """Ends all connections."""
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        losing = asyncio.Event()

        async def requests() -> None:
            while data := await reader.read(1 << 20):
                for mark in [mark for mark in self._marks if mark in data]:
                    self._marks.remove(mark)
                    losing.set()
                to_writer.write(data)
                await to_writer.drain()

        async def replies() -> None:
            while data := await to_reader.read(1 << 20):
                if losing.is_set():
                    self.lost += 1
                    return
                self.replied += len(data)
                writer.write(data)
                await writer.drain()

        ways = [asyncio.ensure_future(requests()), asyncio.ensure_future(replies())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            to_writer.transport.abort()  # before anything is awaited: `end` may cancel this too
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)


@asynccontextmanager
async def running_proxy(port: int) -> AsyncIterator[Proxy]:
    """A proxy to the server at this port of loopback, on a free port of its own."""
    proxy = Proxy(port)
    server = await asyncio.start_server(proxy.connected, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.end()
        await server.wait_closed()
