"""select_server.py PORT WORKERS: as Workerman with `reusePort`: each worker is a process with a listener of its own and waits in
select(). SIGUSR1 replaces them one after the other: one stops listening, serves what it has accepted, and ends."""

import ctypes
import os
import select
import signal
import socket
import sys
import time

PORT, WORKERS = int(sys.argv[1]), int(sys.argv[2])


def answer(conn, index):
    request = b""
    while not request.endswith(b"\r\n\r\n"):
        read = conn.recv(4096)
        if not read:
            return
        request += read
    time.sleep(int(request.split(b" ")[1].strip(b"/") or 0) / 1000)
    body = f"{index}\n"
    conn.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())


def work(index, ready):
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    stop, wake = os.pipe()
    signal.signal(signal.SIGTERM, lambda *_: os.write(wake, b"x"))
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", PORT))
    listener.listen(256)
    listener.setblocking(False)
    os.write(ready, b"x")
    while True:
        readable, _, _ = select.select([listener, stop], [], [])
        if stop in readable:
            listener.close()
            os._exit(0)
        try:
            conn, _ = listener.accept()
        except BlockingIOError:
            continue
        conn.setblocking(True)
        try:
            answer(conn, index)
        except OSError:
            pass
        conn.close()


def fork(index):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        work(index, write)
    os.read(read, 1)
    os.close(read)
    os.close(write)
    return pid


signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
workers = [fork(index) for index in range(WORKERS)]
while True:
    signal.sigwait([signal.SIGUSR1])
    for place, pid in enumerate(workers):
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        workers[place] = fork(place)
