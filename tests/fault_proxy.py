"""A proxy before a real Neutron that can answer in its place, keep silent, or lose an answer.

Faults, each for one call that the plan picks:
    500, 503, 409    answered instead of Neutron, nothing reaches it
    hang             nothing reaches Neutron and nothing is answered, until the proxy is told to go on
    late             nothing is answered, but Neutron gets the call and does it, after the caller gave up
    drop             Neutron does it; the connection is closed instead of the answer
    expired          401 as for an expired token; Neutron does not get it
"""

import http.client
import json
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

FAULTS = ("500", "503", "409", "hang", "late", "drop", "expired")
WRITES = {"POST", "PUT", "DELETE"}
HUNG_S = 60.0  # a hanging call ends by itself then, so that no thread outlives its test for long


class Call(NamedTuple):
    """number: counted from 0 since `arm`; the version document that openstacksdk looks for is no call."""

    number: int
    method: str
    path: str

    def __str__(self) -> str:
        return f"{self.number} {self.method} {self.path}"


class FaultProxy:
    """url: of the proxy. calls: what came since `arm`. hit: the call that met the fault."""

    def __init__(self, neutron_url: str) -> None:
        split = urlsplit(neutron_url)
        self.target = (split.hostname or "127.0.0.1", split.port or 80)
        self.calls: list[Call] = []
        self.hit: Call | None = None
        self._fault: str | None = None
        self._pick: Callable[[Call], bool] = lambda call: False
        self._once = True
        self._lock = threading.Lock()
        self.release = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def arm(
        self, fault: str | None = None, pick: Callable[[Call], bool] = lambda call: True, *, once: bool = True
    ) -> None:
        """From now on the first call that `pick` chooses (once False: every one) meets the fault."""
        with self._lock:
            self.release.set()
            self.release = threading.Event()
            self.calls, self.hit = [], None
            self._fault, self._pick, self._once = fault, pick, once

    def disarm(self) -> None:
        """Everything goes through again; what hangs is let go. What was counted stays."""
        with self._lock:
            self._fault = None
            self.release.set()

    def judge(self, method: str, path: str) -> str | None:
        """The fault of this call."""
        if not path.startswith("/v2.0/"):
            return None
        with self._lock:
            call = Call(len(self.calls), method, path)
            self.calls.append(call)
            if self._fault is None or (self._once and self.hit) or not self._pick(call):
                return None
            self.hit = call
            return self._fault


def _handler(proxy: FaultProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            return

        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            release = proxy.release
            fault = proxy.judge(self.command, self.path)
            if fault in ("500", "503", "409"):
                told = {"NeutronError": {"type": "Injected", "message": f"injected {fault}", "detail": ""}}
                self._answer(int(fault), json.dumps(told).encode(), "application/json")
            elif fault == "expired":
                self._answer(401, b'{"error": {"code": 401, "message": "expired"}}', "application/json")
            elif fault == "hang":
                release.wait(HUNG_S)
                self.close_connection = True
            elif fault == "late":
                release.wait(HUNG_S)
                self._forward(body)
                self.close_connection = True
            elif fault == "drop":
                self._forward(body)
                self.close_connection = True
            else:
                self._answer(*self._forward(body))

        do_GET = do_POST = do_PUT = do_DELETE = _any  # noqa: N815  # names that http.server calls

        def _forward(self, body: bytes) -> tuple[int, bytes, str]:
            onward = http.client.HTTPConnection(*proxy.target, timeout=60)
            try:
                headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
                onward.request(self.command, self.path, body or None, headers)
                answer = onward.getresponse()
                return answer.status, answer.read(), answer.getheader("Content-Type", "application/json")
            finally:
                onward.close()

        def _answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            with suppress(OSError):
                self.end_headers()
            with suppress(OSError):  # who asked did not wait
                self.wfile.write(body)

    return Handler
