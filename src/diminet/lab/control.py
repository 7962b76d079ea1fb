"""How commands reach the supervisor: lines of JSON over a unix socket in the state directory.

A request is one line, {"op": …, arguments}. The answer is any number of {"progress": TEXT} lines, then
{"result": …} or {"error": …}. A client that hangs up takes its request back.
"""

import asyncio
import contextlib
import errno
import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

from diminet.errors import BadSurroundings, DiminetError, InternalError, from_dict

SOCKET = "control.sock"
LINE_MOST = 1024 * 1024  # bytes
ANSWER_TIMEOUT = 60.0  # seconds without a line from the supervisor

Progress = Callable[[str], None]
Handler = Callable[[dict[str, Any], Progress], Awaitable[Any]]


@contextmanager
def _short_path(state_dir: Path) -> Iterator[str]:
    """The socket's path within the 108 bytes that a unix address has, however deep the directory is."""
    directory = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{SOCKET}"
    finally:
        os.close(directory)


async def serve(state_dir: Path, handler: Handler) -> asyncio.Server:
    """Root may connect, nobody else. The handler raises DiminetError or OSError; a request that meets
    a bug is hung up on."""
    (state_dir / SOCKET).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        with _short_path(state_dir) as path:
            listener.bind(path)
    finally:
        os.umask(before)

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await _converse(partial(_answer, state_dir, handler), reader, writer)
        writer.close()

    return await asyncio.start_unix_server(serve_one, sock=listener, limit=LINE_MOST)


async def _converse(answer: Handler, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    line = await reader.readline()
    if not line:
        return

    def send(document: dict[str, Any]) -> None:
        if not writer.is_closing():
            writer.write(json.dumps(document).encode() + b"\n")

    work = asyncio.ensure_future(answer(json.loads(line), lambda text: send({"progress": text})))
    gone = asyncio.ensure_future(reader.read(1))
    await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
    gone.cancel()
    if not work.done():
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
        return
    send(work.result())
    await writer.drain()


async def _answer(
    state_dir: Path, handler: Handler, request: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    try:
        return {"result": await handler(request, progress)}
    except DiminetError as error:
        return {"error": error.as_dict()}
    except OSError as error:
        return {"error": refusal(error, state_dir).as_dict()}


def refusal(error: OSError, state_dir: Path) -> DiminetError:
    """What the system refused to a lab, for people."""
    what = f"{error.filename or state_dir}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return BadSurroundings(f"{what}: free some room there, or name another directory with --state")
    return InternalError(what)


class Connection:
    """The client's end, blocking. Raises BadSurroundings where no supervisor listens."""

    def __init__(self, state_dir: Path, *, timeout: float = ANSWER_TIMEOUT) -> None:
        self._timeout = timeout
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _short_path(state_dir) as path:
                self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise BadSurroundings(_no_lab(state_dir, error)) from None
        self._lines = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

    def supervisor_pid(self) -> int:
        """Process id of who listens, as seen from here."""
        credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", credentials)[0])

    def call(
        self, op: str, *, progress: Progress | None = None, timeout: float | None = None, **given: Any
    ) -> Any:
        """The result. Raises what the supervisor raised, BadSurroundings if it is gone or silent."""
        self._socket.settimeout(timeout or self._timeout)
        try:
            self._socket.sendall(json.dumps({"op": op, **given}).encode() + b"\n")
            while line := self._lines.readline():
                answer = json.loads(line)
                if "progress" not in answer:
                    return _result(answer)
                if progress is not None:
                    progress(answer["progress"])
        except TimeoutError:
            raise BadSurroundings(
                f"the lab did not answer {op!r} in {timeout or self._timeout:.0f} s; see its supervisor.log"
            ) from None
        except OSError:
            pass  # it hung up
        raise BadSurroundings(f"the lab ended while it was doing {op!r}; see its supervisor.log")

    def wait_closed(self) -> None:
        """Until the supervisor is gone."""
        self._socket.settimeout(None)
        with contextlib.suppress(OSError):
            while self._lines.read(1):
                pass


def _result(answer: dict[str, Any]) -> Any:
    if "result" in answer:
        return answer["result"]
    raise from_dict(answer.get("error") or InternalError("the supervisor answered nothing").as_dict())


def _no_lab(state_dir: Path, error: OSError) -> str:
    if isinstance(error, PermissionError):
        return f"the lab at {state_dir} belongs to root: use sudo"
    return f"no lab runs at {state_dir}: start one with `diminet lab up`, or name its directory with --state"
