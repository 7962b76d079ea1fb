"""Questions to one FRR daemon over the socket that it has for vtysh, without a vtysh of our own.

A vtysh takes 30 ms of processor to start, the daemon's answer well below one: what is asked every few
seconds, or waited for, is asked here. What is configured goes through vtysh, which knows which daemon
takes which command. On the wire: a command ends with a zero byte; its output with three, then its status
(`lib/vty.c`, `vtysh_read`; unchanged from FRR 7 to 10).
"""

import asyncio
from pathlib import Path

from diminet.errors import SiteRefused

ANSWER_MOST = 64 * 1024 * 1024  # bytes
_END = b"\0\0\0"


async def ask(directory: Path, daemon: str, command: str, timeout: float) -> str:  # noqa: ASYNC109
    """What the daemon (`zebra`, `bgpd`) says to one `show` command. directory: of its sockets.

    Raises SiteRefused: it does not run, does not answer within `timeout` seconds, or refuses.
    """
    try:
        async with asyncio.timeout(timeout):
            status, text = await _ask(directory / f"{daemon}.vty", command)
    except TimeoutError:
        raise SiteRefused(f"FRR: {daemon} does not answer within {timeout:.0f} s: restart FRR") from None
    except (OSError, EOFError) as error:
        raise SiteRefused(f"FRR: {daemon} does not run ({error}): restart FRR") from None
    if status != 0:
        raise SiteRefused(f"FRR: {daemon} refused {command!r}: {text.strip()[-300:]}")
    return text


async def _ask(socket: Path, command: str) -> tuple[int, str]:
    """Status and output."""
    reader, writer = await asyncio.open_unix_connection(socket, limit=ANSWER_MOST)
    try:
        for line in ("enable", command):  # a new connection may only view
            writer.write(line.encode() + b"\0")
            said = (await reader.readuntil(_END)).removesuffix(_END)
            status = (await reader.readexactly(1))[0]
        return status, said.decode(errors="replace")
    finally:
        writer.close()
