"""A threaded web server that drains before its VM is stopped or rebooted.

    python draining_web_server.py --port 8080

On the notice of a stop or reboot the server stops accepting connections and waits for the requests
in progress, but not longer than the window. The VM goes down after that. SIGTERM ends the server,
then or at any other time. While overloaded, the server reports that it is unhealthy, which is only
logged.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from hbtrio.app import Application, Event, Healthy, Notice, Unhealthy
from hbtrio.app.sync import in_background

log = logging.getLogger("web")

#: The number of concurrent requests that counts as overload.
OVERLOAD = 100

#: Draining gives up this long before the window ends, so that the answer is in time: seconds.
RESERVE_S = 0.5


class Requests:
    """Counts the requests in progress."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.count = 0

    def add(self, number: int) -> None:
        """Counts a request that begins, or with -1 one that ends."""
        with self._changed:
            self.count += number
            self._changed.notify_all()

    def wait_for_none(self, timeout_s: float) -> bool:
        """Waits until no request is in progress; returns False on a timeout."""
        with self._changed:
            return self._changed.wait_for(lambda: self.count == 0, timeout_s)


class Server(ThreadingHTTPServer):
    """Answers GET after the number of seconds in the path: ``/3``."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.requests = Requests()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Counts the request before its thread starts, so that draining can't miss it."""
        self.requests.add(1)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Counts the end of a request, after its last byte is written."""
        super().shutdown_request(request)
        self.requests.add(-1)

    def health(self) -> Healthy | Unhealthy:
        """Reports the health; called once a second, in a thread."""
        count = self.requests.count
        return Unhealthy(f"{count} requests at a time") if count >= OVERLOAD else Healthy()

    def drain(self, notice: Notice) -> None:
        """Drains the server; called in a thread with each notice, before or after its event."""
        if notice.event not in (Event.STOP, Event.REBOOT):
            return
        log.info("draining for %s, %.1f s at the most", notice.event, notice.remaining_s)
        self.shutdown()
        self.server_close()
        if not self.requests.wait_for_none(max(0.0, notice.remaining_s - RESERVE_S)):
            log.warning("%d requests were cut off", self.requests.count)
        print("drained", flush=True)


class Handler(BaseHTTPRequestHandler):
    """Handles one request."""

    def do_GET(self) -> None:
        """Sleeps, then answers."""
        seconds = self.path.strip("/")
        time.sleep(min(float(seconds), 60.0) if seconds.isdecimal() else 0.0)
        body = b"done\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    """Parses the command line and runs the server."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--app-socket")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    server = Server(options.port)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    app = Application(
        "web",
        shutdown_notice_s=8,
        on_health=server.health,
        on_notice=server.drain,
        socket=options.app_socket,
    )
    with in_background(app):
        print(f"serving on port {server.server_port}", flush=True)
        server.serve_forever()
        # Drained. Stay registered: leaving now would leave the notice unanswered.
        signal.pause()


if __name__ == "__main__":
    main()
