"""The relay's queue, with real sockets in place of devices."""

import os
import socket
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from diminet.lab.relay import Relay

Pair = tuple[SimpleNamespace, socket.socket, socket.socket]


@pytest.fixture
def link() -> Iterator[Pair]:
    """A link, and the far ends of its host device and of its tap."""
    host, host_far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    tap, tap_far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for one in (host, host_far, tap, tap_far):
        one.setblocking(False)
    yield SimpleNamespace(host=host, tap=tap.fileno()), host_far, tap_far
    for one in (host, host_far, tap, tap_far):
        one.close()


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_frames_wait_exactly_the_delay_and_keep_their_order(link: Pair) -> None:
    ends, host, wan = link
    time = Time()
    relay = Relay([ends], 0.025, time)  # type: ignore[list-item]
    for number in range(100):
        host.send(b"%d" % number)
    relay.turn()
    relay.turn()  # 64 frames of one device at a time
    with pytest.raises(BlockingIOError):
        wan.recv(100)
    time.now += 0.0249
    relay.turn()
    with pytest.raises(BlockingIOError):
        wan.recv(100)
    time.now += 0.0002
    relay.turn()
    assert [wan.recv(100) for _ in range(100)] == [b"%d" % number for number in range(100)]


def test_what_arrives_goes_through_at_once(link: Pair) -> None:
    ends, host, wan = link
    relay = Relay([ends], 1.0, Time())  # type: ignore[list-item]
    wan.send(b"frame")
    relay.turn()
    assert host.recv(100) == b"frame"


def test_a_full_queue_drops_the_newest(link: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diminet.lab.relay.QUEUE_MOST", 3)
    ends, host, wan = link
    time = Time()
    relay = Relay([ends], 0.5, time)  # type: ignore[list-item]
    for number in range(10):
        host.send(b"%d" % number)
    relay.turn()
    time.now += 1
    relay.turn()
    assert [wan.recv(10) for _ in range(3)] == [b"0", b"1", b"2"]
    with pytest.raises(BlockingIOError):
        os.read(wan.fileno(), 10)
