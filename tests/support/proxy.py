"""A network that loses replies: stands between a client and a server, on loopback."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Proxy:
    """Passes bytes both ways, until told to lose a reply."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._marks: list[bytes] = []
        self.port = 0
        self.lost = 0
        """How many replies it has lost."""
        self.replied = 0
        """Bytes of replies that it has passed."""

    def lose_reply_to(self, mark: bytes) -> None:
        """The next request that holds `mark` reaches the server; its reply is lost, and the connection with it."""
        self._marks.append(mark)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for end in (writer, to_writer):
                end.transport.abort()


@asynccontextmanager
async def running_proxy(port: int) -> AsyncIterator[Proxy]:
    """A proxy to the server at this port of loopback, on a free port of its own."""
    proxy = Proxy(port)
    serving: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(proxy.serve(reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in list(serving):
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await server.wait_closed()
