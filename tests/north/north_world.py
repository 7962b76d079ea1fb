"""The app on a real port of the loopback, in a thread of its own; asked with the standard library."""

import asyncio
import http.client
import io
import json
import threading
from dataclasses import dataclass, field
from typing import Any

from north_double import MEMBER, IdentityDouble, RequestsDouble

from diminet.listener import Listener
from diminet.telemetry import Metrics

START_S = 20.0


@dataclass
class Reply:
    status: int
    headers: http.client.HTTPMessage
    text: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def code(self) -> str:
        return self.json["error"]["code"]

    @property
    def service(self) -> dict[str, Any]:
        return self.json["service"]


@dataclass
class North:
    port: int
    requests: RequestsDouble
    identity: IdentityDouble
    metrics: Metrics
    log: io.StringIO
    failing: list[str] = field(default_factory=list)

    def ask(self, method, path, body=None, *, token=MEMBER, raw=None, headers=(), timeout=20) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        sent = {"X-Auth-Token": token} if token else {}
        if body is not None or raw is not None:
            sent["Content-Type"] = "application/json"
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        sent |= dict(headers)
        sent = {name: value for name, value in sent.items() if value is not None}
        try:
            connection.request(method, path, data, sent)
            answer = connection.getresponse()
            return Reply(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def create(self, name="web", **more) -> dict[str, Any]:
        reply = self.ask("POST", "/intersite-vertical", {"service": l3(name=name, **more)})
        assert reply.status == 201, reply.text
        return reply.service


def l3(**more):
    resources = [{"site": "paris", "resource_id": "n1"}, {"site": "lyon", "resource_id": "n2"}]
    return {"type": "l3", "resources": resources} | more


class Running:
    def __init__(self, app):
        self.loop = asyncio.new_event_loop()
        self.listener = Listener(app, "127.0.0.1", 0, name="north API", grace_s=1)
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self):
        self.thread.start()
        self._run(self.listener.start())
        return self.listener.port

    def __exit__(self, *_):
        self._run(self.listener.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(START_S)
        self.loop.close()

    def _run(self, work):
        asyncio.run_coroutine_threadsafe(work, self.loop).result(START_S)
