"""Servers forked from a process that has their program loaded (`programs/fork_servers.py`), from here.

Synchronous. Raises BadSurroundings, with the end of the log, when a server does not become ready.
"""

import json
import os
import select
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from diminet.errors import BadSurroundings
from diminet.lab.daemon import tail
from diminet.lab.openstack.environment import Environment

LOAD_TIMEOUT = 120.0  # seconds until the program is loaded
START_TIMEOUT = 120.0  # seconds until a server answers
STOP_TIMEOUT = 10.0  # seconds until a server, or all of them, have ended


class Server(NamedTuple):
    """directory: of its configuration and its server.log. port 0: any free one. threads: of one process;
    sqlite bears one only. namespace: path of the network namespace it listens in; None: this one."""

    name: str
    directory: Path
    host: str = "127.0.0.1"
    port: int = 0
    threads: int = 1
    namespace: str | None = None


class Servers:
    """kind: keystone or neutron. log: of the process that forks them; it is loading when this returns."""

    def __init__(self, environment: Environment, kind: str, log: Path) -> None:
        self._log = log
        self._logs: dict[str, Path] = {}
        self._ports: dict[str, int] = {}
        self._ready: set[str] = set()
        self._pending = b""
        self._loaded = False
        self.pids: dict[str, int] = {}
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                environment.program("fork_servers", kind),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=environment.variables(),
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, *servers: Server) -> dict[str, int]:
        """All at once; their ports by name, when all are ready."""
        self._until(lambda: self._loaded, LOAD_TIMEOUT, "load", self._log)
        for server in servers:
            self._logs[server.name] = server.directory / "server.log"
            command = {**server._asdict(), "directory": str(server.directory), "start": server.name}
            del command["name"]
            self._send(command)
        for server in servers:
            self._until_ready(server.name)
        return {server.name: self._ports[server.name] for server in servers}

    def stop(self, name: str) -> None:
        """Returns when it has ended."""
        self._send({"stop": name})
        self._until(lambda: name not in self.pids, STOP_TIMEOUT, name, self._logs[name], ended=True)

    def close(self) -> None:
        """End all servers and the process itself."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _send(self, command: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise BadSurroundings(f"OpenStack's servers have ended:\n{tail(self._log)}") from None

    def _until_ready(self, name: str) -> None:
        self._until(lambda: name in self._ready, START_TIMEOUT, name, self._logs[name])

    def _until(
        self, done: Callable[[], bool], seconds: float, what: str, log: Path, *, ended: bool = False
    ) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            left = deadline - time.monotonic()
            if left <= 0:
                raise BadSurroundings(f"OpenStack's {what} took more than {seconds:.0f} s:\n{tail(log)}")
            event = self._event(left)
            if not ended and event.get("ended") == what:
                raise BadSurroundings(f"OpenStack's {what} does not start:\n{tail(log)}")

    def _event(self, seconds: float) -> dict[str, Any]:
        """The next one, taken note of; {} if none came in that time."""
        assert self._process.stdout is not None
        if b"\n" not in self._pending:
            readable, _, _ = select.select([self._process.stdout], (), (), seconds)
            if not readable:
                return {}
            read = os.read(self._process.stdout.fileno(), 65536)
            if not read:
                raise BadSurroundings(f"OpenStack's servers have ended:\n{tail(self._log)}")
            self._pending += read
        line, found, rest = self._pending.partition(b"\n")
        if not found:
            return {}
        self._pending = rest
        event: dict[str, Any] = json.loads(line)
        self._note(event)
        return event

    def _note(self, event: dict[str, Any]) -> None:
        self._loaded |= "loaded" in event
        if "listening" in event:
            self._ports[event["listening"]] = event["port"]
            self.pids[event["listening"]] = event["pid"]
        if "ready" in event:
            self._ready.add(event["ready"])
        if "ended" in event:
            self._ready.discard(event["ended"])
            self.pids.pop(event["ended"], None)
