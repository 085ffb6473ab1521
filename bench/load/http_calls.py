"""HTTP/1.1 requests, one kept connection for each caller.

By asyncio's streams and as little parsing as an answer needs: a full client library takes more CPU time than the server
it calls, and would be what is measured.

Plan: `port` on loopback; `path`; `token`, if one is needed; `body`; and what `protocol.drive` takes.
"""

import asyncio
from typing import Any

from bench.load import protocol


async def main(plan: dict[str, Any]) -> None:
    body = plan["body"].encode()
    head = f"POST {plan['path']} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    if "token" in plan:
        head += f"authorization: Bearer {plan['token']}\r\n"
    request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
    connections = [await asyncio.open_connection("127.0.0.1", plan["port"]) for _ in range(plan["callers"])]

    async def call(_: int) -> None:
        reader, writer = connection = connections.pop()
        writer.write(request)
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 2"):
            raise ConnectionError(answer.decode(errors="replace"))
        fields = dict(line.lower().split(b": ", 1) for line in answer.split(b"\r\n")[1:-2])
        await reader.readexactly(int(fields[b"content-length"]))
        connections.append(connection)

    await protocol.drive(
        call,
        calls=plan["calls"],
        callers=plan["callers"],
        warm_up=plan["warm_up"],
        rate=plan["rate"],
    )


if __name__ == "__main__":
    protocol.run(main)
