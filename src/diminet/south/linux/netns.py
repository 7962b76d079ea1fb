"""Network namespaces by path. Everything here acts on the calling thread: use one thread for it.

A namespace is a bind mount of `nsfs`, as `ip netns` makes it, so that `ip netns` and `nsenter --net=PATH`
find it and it outlives the process. Errors: OSError.
"""

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_MS_BIND = 4096
_MNT_DETACH = 2
_SELF = "/proc/thread-self/ns/net"
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, doing: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{doing}: {os.strerror(number)}")


def exists(path: Path) -> bool:
    """Whether a namespace is mounted there (a bare file is what a crash leaves behind)."""
    try:
        return path.stat().st_dev != path.parent.stat().st_dev
    except FileNotFoundError:
        return False


@contextmanager
def entered(path: Path | None) -> Iterator[None]:
    """The calling thread, and processes it starts, are in that namespace meanwhile. None: stay."""
    if path is None:
        yield
        return
    home = os.open(_SELF, os.O_RDONLY | os.O_CLOEXEC)
    try:
        target = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_libc.setns(target, _CLONE_NEWNET), f"enter the namespace {path}")
        finally:
            os.close(target)
        try:
            yield
        finally:
            _check(_libc.setns(home, _CLONE_NEWNET), "return from a namespace")
    finally:
        os.close(home)


def create(path: Path, prepare: Callable[[], None] = lambda: None) -> bool:
    """Make the namespace if it is not there. True if it was made now.

    `prepare` runs inside before the namespace can be seen at `path`.
    """
    if exists(path):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    home = os.open(_SELF, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.unshare(_CLONE_NEWNET), "make a network namespace")
        try:
            prepare()
            path.touch(mode=0o444)
            result = _libc.mount(_SELF.encode(), os.fsencode(path), b"none", _MS_BIND, None)
            _check(result, f"mount the namespace {path}")
        finally:
            _check(_libc.setns(home, _CLONE_NEWNET), "return from a namespace")
    finally:
        os.close(home)
    return True


def leave() -> None:
    """Put the calling thread into a new namespace that nobody else can find; it goes with the thread."""
    _check(_libc.unshare(_CLONE_NEWNET), "make a network namespace")


def remove(path: Path) -> None:
    """Unmount and delete; nothing if it is not there. Its devices go with it."""
    if exists(path):
        _check(_libc.umount2(os.fsencode(path), _MNT_DETACH), f"unmount the namespace {path}")
    path.unlink(missing_ok=True)


def sysctl(name: str, value: int) -> None:
    """Write /proc/sys/net/NAME of the namespace that the thread is in."""
    Path("/proc/sys/net", name).write_text(f"{value}\n")
