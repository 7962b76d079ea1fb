"""A program that is kept running, as systemd's `Restart=on-failure` does, and its log."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path

FIRST_BACK_OFF = 0.5  # seconds before a program that failed is started again; doubles
LONGEST_BACK_OFF = 10.0  # seconds
STEADY_AFTER = 10.0  # seconds of running after which the back-off starts from its beginning
STOP_TIMEOUT = 5.0  # seconds from SIGTERM to SIGKILL
TAIL_BYTES = 4096
TAIL_LINES = 12


class State(StrEnum):
    STOPPED = "stopped"
    RUNNING = "running"
    RESTARTING = "restarting"  # it failed; started again after the back-off
    ENDED = "ended"  # by itself, with status 0: not started again
    CRASHED = "crashed"  # by `crash`: down until `start`


class Daemon:
    """command is started in a session of its own; its output goes to the end of `log`."""

    def __init__(
        self, command: Sequence[str], log: Path, *, environment: Mapping[str, str] | None = None
    ) -> None:
        self._command = tuple(command)
        self._log = log
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self.state = State.STOPPED
        self.failures = 0
        """How often it has ended with another status than 0 since `start`."""

    @property
    def pid(self) -> int | None:
        """While it runs."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process is not None else None

    async def start(self) -> None:
        """Nothing if it is running already. Errors: OSError."""
        if self.state in (State.RUNNING, State.RESTARTING):
            return
        self.failures = 0
        await self._spawn()
        self._watch = asyncio.create_task(self._keep_running())

    async def kill(self) -> None:
        """SIGKILL, and down it stays."""
        await self._end(signal.SIGKILL)
        self.state = State.CRASHED

    async def stop(self) -> None:
        """SIGTERM, after STOP_TIMEOUT SIGKILL."""
        await self._end(signal.SIGTERM)
        self.state = State.STOPPED

    async def _spawn(self) -> None:
        with self._log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment,
                start_new_session=True,
            )
        self.state = State.RUNNING

    async def _keep_running(self) -> None:
        clock = asyncio.get_running_loop().time
        back_off = FIRST_BACK_OFF
        while self._process is not None:
            began = clock()
            if await self._process.wait() == 0:
                self.state = State.ENDED
                return
            self.failures += 1
            self.state = State.RESTARTING
            back_off = FIRST_BACK_OFF if clock() - began > STEADY_AFTER else back_off
            await asyncio.sleep(back_off)
            back_off = min(2 * back_off, LONGEST_BACK_OFF)
            await self._spawn()

    async def _end(self, number: signal.Signals) -> None:
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
            self._watch = None
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            await asyncio.wait_for(process.wait(), STOP_TIMEOUT)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def tail(log: Path) -> str:
    """The last lines of a log, for a message; empty if there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(f"  {line}" for line in lines[-TAIL_LINES:])
