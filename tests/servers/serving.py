"""Workers of a port that wait for connections by other means than the test worker does.

serving.py PORT N [--by epoll|accept|select] [--helper] [--master]: N listeners, a worker process for each; every answer is
the pid, `/block?ms=N` takes its time. With --helper each worker forks a process that inherits the listener and never touches
it. With --master the parent makes all listeners, and each worker inherits all of them.

Commands on stdin, with --master: `fork I` forks another worker for listener I, `kill I` ends the oldest one of it, and
`retire I` has that one close the listener and live on.
"""

import argparse
import ctypes
import os
import re
import select
import signal
import socket
import sys
import time

cli = argparse.ArgumentParser()
cli.add_argument("port", type=int)
cli.add_argument("number", type=int)
cli.add_argument("--by", default="epoll")
cli.add_argument("--helper", action="store_true")
cli.add_argument("--master", action="store_true")
args = cli.parse_args()


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def listener():
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(("127.0.0.1", args.port))
    made.listen(256)
    return made


def answer(conn):
    try:
        request = conn.recv(4096)
        if asked := re.search(rb"ms=(\d+)", request):
            time.sleep(int(asked[1]) / 1000)
        body = f"{os.getpid()}\n"
        conn.sendall(
            f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()
        )
    except OSError:
        pass
    conn.close()


def serve(own):
    if args.helper and os.fork() == 0:
        die_with_parent()
        while True:
            signal.pause()
    epoll = None
    if args.by == "epoll":
        own.setblocking(False)
        epoll = select.epoll()
        epoll.register(own, select.EPOLLIN)

    def retire(*_):
        if epoll:
            epoll.unregister(own)
        own.close()
        print("done", flush=True)
        while True:
            signal.pause()

    signal.signal(signal.SIGTERM, retire)
    while True:
        if epoll:
            epoll.poll()
        elif args.by == "select":
            if not select.select([own], [], [], 1)[0]:
                continue
        try:
            answer(own.accept()[0])
        except OSError:
            pass


def fork(own):
    pid = os.fork()
    if pid == 0:
        die_with_parent()
        serve(own or listener())
    return pid


shared = [listener() if args.master else None for _ in range(args.number)]
workers = [[fork(own)] for own in shared]
print("listening", flush=True)
for line in sys.stdin:
    command, number = line.split()
    of = workers[int(number)]
    if command == "fork":
        of.append(fork(shared[int(number)]))
    elif command == "retire":
        os.kill(of.pop(0), signal.SIGTERM)
        continue
    else:
        pid = of.pop(0)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    print("done", flush=True)
