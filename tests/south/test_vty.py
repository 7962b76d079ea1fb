"""Questions to a daemon's socket, against a daemon that says what the test wants."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from diminet.errors import SiteRefused
from diminet.south.linux import vty


@asynccontextmanager
async def daemon(directory, answer):
    """answer: command -> bytes to send, or None: hang up."""

    async def converse(reader, writer):
        while command := await _command(reader):
            said = answer(command)
            if said is None:
                break
            for byte in range(0, len(said), 3):  # in pieces, as a socket may give it
                writer.write(said[byte : byte + 3])
                await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(converse, directory / "zebra.vty"):
        yield


async def _command(reader):
    try:
        return (await reader.readuntil(b"\0"))[:-1].decode()
    except asyncio.IncompleteReadError:
        return None


def ask(directory, answer, timeout=5.0):
    async def run():
        async with daemon(directory, answer):
            return await vty.ask(directory, "zebra", "show vrf", timeout)

    return asyncio.run(run())


def said(text, status=0):
    return text.encode() + b"\0\0\0" + bytes([status])


def test_the_answer_to_the_command_is_given(tmp_path):
    asked = []

    def answer(command):
        asked.append(command)
        return said("" if command == "enable" else "vrf x\n")

    assert ask(tmp_path, answer) == "vrf x\n"
    assert asked == ["enable", "show vrf"]


def test_a_long_answer_is_whole(tmp_path):
    text = "x" * 300_000
    assert ask(tmp_path, lambda command: said("" if command == "enable" else text)) == text


def test_a_refusal_is_told(tmp_path):
    with pytest.raises(SiteRefused, match="zebra refused 'show vrf': % Unknown"):
        ask(tmp_path, lambda command: said("", 0) if command == "enable" else said("% Unknown", 2))


def test_a_daemon_that_hangs_up(tmp_path):
    with pytest.raises(SiteRefused, match="FRR: zebra does not run"):
        ask(tmp_path, lambda command: said("") if command == "enable" else None)


def test_a_silent_daemon(tmp_path):
    with pytest.raises(SiteRefused, match="FRR: zebra does not answer"):
        ask(tmp_path, lambda command: b"", timeout=0.1)


def test_no_daemon(tmp_path):
    with pytest.raises(SiteRefused, match="FRR: zebra does not run"):
        asyncio.run(vty.ask(tmp_path, "zebra", "show vrf", 1.0))
