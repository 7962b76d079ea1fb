"""Daemons are kept as systemd's Restart=on-failure keeps them."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from diminet.lab.daemon import Daemon, State, tail


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come about in 5 s")


def shell(script: str, log: Path) -> Daemon:
    return Daemon(("sh", "-c", script), log)


def test_failure_is_followed_by_a_new_start(tmp_path: Path) -> None:
    async def scenario() -> None:
        daemon = shell("echo started; exit 3", tmp_path / "log")
        await daemon.start()
        await until(lambda: daemon.failures >= 2)
        assert daemon.state in (State.RESTARTING, State.RUNNING)
        await daemon.stop()
        seen = (tmp_path / "log").read_text().count("started")
        assert seen >= 2
        await asyncio.sleep(1.2)
        assert (tmp_path / "log").read_text().count("started") == seen

    asyncio.run(scenario())


def test_a_good_end_is_final(tmp_path: Path) -> None:
    async def scenario() -> None:
        daemon = shell("exit 0", tmp_path / "log")
        await daemon.start()
        await until(lambda: daemon.state is State.ENDED)
        assert (daemon.failures, daemon.pid) == (0, None)

    asyncio.run(scenario())


def test_killed_from_outside_it_comes_back_but_after_kill_it_stays_down(tmp_path: Path) -> None:
    async def scenario() -> None:
        daemon = shell("exec sleep 1000", tmp_path / "log")
        await daemon.start()
        first = daemon.pid
        assert first is not None
        assert daemon._process is not None
        daemon._process.kill()
        await until(lambda: daemon.pid not in (None, first))
        await daemon.kill()
        assert (daemon.state, daemon.pid) == (State.CRASHED, None)
        await asyncio.sleep(0.7)
        assert daemon.pid is None
        await daemon.start()
        assert daemon.pid is not None
        await daemon.stop()
        assert daemon.state is State.STOPPED

    asyncio.run(scenario())


def test_tail(tmp_path: Path) -> None:
    assert tail(tmp_path / "none") == ""
    (tmp_path / "log").write_text("".join(f"line {n}\n" for n in range(1000)))
    lines = tail(tmp_path / "log").splitlines()
    assert len(lines) == 12
    assert lines[-1].strip() == "line 999"
