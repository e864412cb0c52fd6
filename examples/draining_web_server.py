"""A web server of plain threads that drains before its VM is stopped or rebooted.

    python draining_web_server.py --port 8080

On the notice of a stop or a reboot it takes no more connections and waits for the requests under
way for as long as there is time. The VM goes down when it has; SIGTERM then ends it, as it does at
any other time. While it is overloaded it says that it is unhealthy, which is logged, no more.
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

from hbtrio.app import DEFAULT_SOCKET, Application, Event, Healthy, Notice, Unhealthy
from hbtrio.app.sync import in_background

log = logging.getLogger("web")

#: As many requests at a time are too many.
OVERLOAD = 100

#: What is left of the window when draining gives up, for the answer to be in time: seconds.
RESERVE_S = 0.5


class Requests:
    """Counts the requests under way."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.count = 0

    def add(self, number: int) -> None:
        """One begins, or with -1 ends."""
        with self._changed:
            self.count += number
            self._changed.notify_all()

    def wait_for_none(self, timeout_s: float) -> bool:
        """Waits until no request is under way; whether that came about."""
        with self._changed:
            return self._changed.wait_for(lambda: self.count == 0, timeout_s)


class Server(ThreadingHTTPServer):
    """Answers GET, after as many seconds as the path says: ``/3``."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.requests = Requests()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Counts it before its thread begins, for draining must not miss it."""
        self.requests.add(1)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Its last byte is written."""
        super().shutdown_request(request)
        self.requests.add(-1)

    def health(self) -> Healthy | Unhealthy:
        """Called once a second, in a thread."""
        count = self.requests.count
        return Unhealthy(f"{count} requests at a time") if count >= OVERLOAD else Healthy()

    def drain(self, notice: Notice) -> None:
        """Called in a thread when something is about to happen to the VM, or has happened."""
        if notice.event not in (Event.STOP, Event.REBOOT):
            return
        log.info("draining for %s, %.1f s at the most", notice.event, notice.remaining_s)
        self.shutdown()
        self.server_close()
        if not self.requests.wait_for_none(max(0.0, notice.remaining_s - RESERVE_S)):
            log.warning("%d requests were cut off", self.requests.count)
        print("drained", flush=True)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    def do_GET(self) -> None:
        """Takes its time, then answers."""
        seconds = self.path.strip("/")
        time.sleep(min(float(seconds), 60.0) if seconds.isdecimal() else 0.0)
        body = b"done\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--app-socket", default=DEFAULT_SOCKET)
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
        # Drained, but still there: whoever leaves now gives no answer to the notice.
        signal.pause()


if __name__ == "__main__":
    main()
