"""A port on which this instance serves one app: the same for north, east-west and a VIM's own REST.

It knows no app. uvicorn does the HTTP; what is added here: a clear error when the port is taken, no
signal handling (two servers in one process would fight for it; `app` owns the signals), bounded
headers, clients that are too slow, and the peer's certificate in the scope, where uvicorn has none:
`scope["peer_certificate"]` is its DER encoding, or None.
"""

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import Iterator, Sequence
from typing import Any

import uvicorn
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from diminet.errors import BadSurroundings

BACKLOG = 512  # connections that wait to be accepted
TICK_S = 1.0  # how often the Date header is renewed
MAX_HEADER_BYTES = 65_536  # request line and headers together, as long as they are not complete
HEADER_TIMEOUT_S = 10.0
DEFAULT_KEEP_ALIVE_S = 75  # longer than the client's, so that the client closes first
DEFAULT_GRACE_S = 5
DEFAULT_MAX_CONNECTIONS = 1024


class BoundedProtocol(HttpToolsProtocol):
    """HttpToolsProtocol that knows who is at the other end and waits for no client for ever."""

    _header_timer: asyncio.TimerHandle | None = None
    _header_bytes = 0
    _in_headers = False
    _peer_certificate: bytes | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        self._peer_certificate = tls.getpeercert(binary_form=True) if tls is not None else None
        self._start_header_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_header_timer()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers = True
        self._start_header_timer()
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]
        scope["peer_certificate"] = self._peer_certificate

    def on_headers_complete(self) -> None:
        self._stop_header_timer()
        self._in_headers = False
        self._header_bytes = 0
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # The parser keeps an unfinished header whatever its length, so what is fed to it is counted.
        self._header_bytes += len(data) if self._in_headers else 0
        if self._header_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
            self.send_400_response("Headers too large.")

    def _start_header_timer(self) -> None:
        self._stop_header_timer()
        self._header_timer = self.loop.call_later(HEADER_TIMEOUT_S, self._too_slow)

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _too_slow(self) -> None:
        if not self.transport.is_closing():
            self.transport.abort()


class _Server(uvicorn.Server):
    """uvicorn.Server without signal handling, woken by stop() and not ten times a second."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.stopping = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        while not self.stopping.is_set():
            await self.on_tick(0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self.stopping.wait()


def _ended_quietly(app: Any) -> Any:
    """The app, whose requests stop() may cancel: that is no error, and not worth a traceback in the log."""

    async def call(scope: Any, receive: Any, send: Any) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await app(scope, receive, send)

    return call


class Listener:
    """One app on one port.

    app: ASGI 3. port: 0 takes a free one, see `port` after start(). ssl_context: None serves plain
    HTTP. trusted_proxies: addresses whose X-Forwarded-For and -Proto are believed (none by default).
    keep_alive_s: an idle connection is closed after that. grace_s: stop() waits that long for running
    requests, then cancels them. max_connections: beyond them the answer is 503.
    """

    def __init__(
        self,
        app: Any,
        host: str,
        port: int,
        ssl_context: ssl.SSLContext | None = None,
        *,
        name: str = "",
        trusted_proxies: Sequence[str] = (),
        keep_alive_s: int = DEFAULT_KEEP_ALIVE_S,
        grace_s: int = DEFAULT_GRACE_S,
        max_connections: int = DEFAULT_MAX_CONNECTIONS,
    ) -> None:
        self._host = host
        self._wanted_port = port
        self._name = name or "API"
        self._config = Config(
            _ended_quietly(app),
            http=BoundedProtocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(trusted_proxies),
            forwarded_allow_ips=list(trusted_proxies),
            timeout_keep_alive=keep_alive_s,
            timeout_graceful_shutdown=grace_s,
            limit_concurrency=max_connections,
            backlog=BACKLOG,
            ssl_context_factory=(lambda _config, _default: ssl_context) if ssl_context else None,
        )
        self._bound: socket.socket | None = None
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None
        self.port = port

    def bind(self) -> None:
        """Take the port; who connects waits for start(). Raises BadSurroundings when it cannot be had."""
        self._bound = self._bind()
        self.port = self._bound.getsockname()[1]

    async def start(self) -> None:
        """Serves when this returns; takes the port unless bind() did. Raises BadSurroundings."""
        if self._bound is None:
            self.bind()
        listening, self._bound = self._bound, None
        assert listening is not None
        self._server = _Server(self._config)
        self._task = asyncio.create_task(self._server.serve(sockets=[listening]), name=f"listen {self.port}")
        while not self._server.started:
            await asyncio.sleep(0)
            if self._task.done():
                listening.close()
                await self._task
                raise BadSurroundings(f"the {self._name} server ended while it started")

    async def stop(self) -> None:
        """Accept nothing more, let running requests end (at most grace_s), close every connection."""
        if self._bound is not None:
            self._bound.close()
            self._bound = None
        if self._server is None or self._task is None:
            return
        self._server.stopping.set()
        await self._task
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()
        self._server = self._task = None

    def _bind(self) -> socket.socket:
        try:
            family, _, _, _, address = socket.getaddrinfo(
                self._host, self._wanted_port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
        except OSError as exc:
            raise BadSurroundings(f"the {self._name} cannot listen at {self._host!r}: {exc}") from exc
        # asyncio sets TCP_NODELAY only where the protocol is named; without it an answer's body waits, by
        # Nagle's algorithm, a round trip for the acknowledgement of its headers.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(BACKLOG)
            listening.setblocking(False)
        except OSError as exc:
            listening.close()
            raise BadSurroundings(self._why_not_bound(exc)) from exc
        return listening

    def _why_not_bound(self, exc: OSError) -> str:
        where = f"{self._host} port {self._wanted_port}"
        if exc.errno == errno.EADDRINUSE:
            return (
                f"port {self._wanted_port} is taken: another program listens at {where}, where the "
                f"{self._name} is to listen; stop it (`ss -ltnp` shows it) or configure another port"
            )
        if exc.errno == errno.EACCES:
            return f"the {self._name} may not listen at {where}: ports below 1024 need root"
        if exc.errno == errno.EADDRNOTAVAIL:
            return f"the {self._name} cannot listen at {where}: no interface of this machine has that address"
        return f"the {self._name} cannot listen at {where}: {exc.strerror}"
