"""Programs of the system (ip, nft, nsenter), run to their end."""

import asyncio
import subprocess
from collections.abc import Sequence

from diminet.errors import BadSurroundings

COMMAND_TIMEOUT = 20.0  # seconds
MESSAGE_MOST = 500  # characters of what a program said


async def run(command: Sequence[str], *, doing: str, stdin: str = "") -> str:
    """Its standard output. Raises BadSurroundings, beginning with `doing`, if it fails or hangs."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except FileNotFoundError:
        raise BadSurroundings(f"{doing}: there is no program {command[0]}; install it") from None
    try:
        out, err = await asyncio.wait_for(process.communicate(stdin.encode()), COMMAND_TIMEOUT)
    except TimeoutError:
        raise BadSurroundings(f"{doing}: {command[0]} did not end in {COMMAND_TIMEOUT:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise BadSurroundings(f"{doing}: {_reason(err or out)}")
    return out.decode(errors="replace")


def run_now(command: Sequence[str], *, doing: str) -> str:
    """The same, blocking."""
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=COMMAND_TIMEOUT)
    except FileNotFoundError:
        raise BadSurroundings(f"{doing}: there is no program {command[0]}; install it") from None
    except subprocess.TimeoutExpired:
        raise BadSurroundings(f"{doing}: {command[0]} did not end in {COMMAND_TIMEOUT:.0f} s") from None
    if done.returncode != 0:
        raise BadSurroundings(f"{doing}: {_reason(done.stderr or done.stdout)}")
    return done.stdout.decode(errors="replace")


def _reason(said: bytes) -> str:
    return said.decode(errors="replace").strip()[-MESSAGE_MOST:]
