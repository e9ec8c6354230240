"""A worker whose event loop does other things while a request waits: `/N` is answered after N milliseconds, in which
the loop is free. Every answer is the pid.
"""

import asyncio
import os
import socket
import sys


async def serve(reader, writer):
    request = await reader.readuntil(b"\r\n\r\n")
    await asyncio.sleep(int(request.split()[1][1:]) / 1000)
    body = b"%d\n" % os.getpid()
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    await writer.drain()
    writer.close()


async def main():
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", int(sys.argv[1])))
    server = await asyncio.start_server(serve, sock=listener)
    print("listening", flush=True)
    await server.serve_forever()


asyncio.run(main())
