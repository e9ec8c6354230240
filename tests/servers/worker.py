"""One asyncio worker with a listener of its own on 127.0.0.1; every answer is the pid."""

import asyncio
import os
import sys


async def answer(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    body = f"{os.getpid()}\n"
    writer.write(
        f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()
    )
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def main(port):
    server = await asyncio.start_server(answer, "127.0.0.1", port, reuse_port=True)
    print("listening", flush=True)
    await server.serve_forever()


asyncio.run(main(int(sys.argv[1])))
