"""A WSGI application that answers INDEX, and takes N milliseconds for `/N`. With HELPER it starts an idle process, which
inherits whatever is open."""

import multiprocessing
import os
import signal
import time


def help_nobody():
    # The worker's handlers are inherited, too.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(3600)


if os.environ.get("HELPER"):
    multiprocessing.Process(target=help_nobody, daemon=True).start()


def app(environ, start_response):
    time.sleep(int(environ["PATH_INFO"].strip("/") or 0) / 1000)
    body = f"{os.environ['INDEX']}\n".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


application = app
