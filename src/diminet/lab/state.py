"""A lab's state directory on the host: who holds it, what is in it, and how it is cleaned."""

import fcntl
import os
import shutil
import signal
import time
from pathlib import Path

from pydantic import ValidationError

from diminet.errors import BadSurroundings
from diminet.lab import plan, surroundings
from diminet.model import Model

DEFAULT_STATE = Path("/run/diminet-lab")
LAB_FILE = "lab.json"
LOCK = "lock"
PLAN = "plan.json"
PROCESS = "supervisor.json"
LOG = "supervisor.log"
END_TIMEOUT = 30.0  # seconds until everything of a lab is gone
DEVICE_TIMEOUT = 10.0  # seconds


class Process(Model):
    """The lab's outermost process on the host; pid and start_time (clock ticks since boot) together
    are never used again before the next boot."""

    pid: int
    start_time: int


def resolve(directory: Path) -> Path:
    """Absolute and without symbolic links, so that one lab has one name."""
    return Path(os.path.realpath(directory))


def take(directory: Path) -> tuple[int, bool]:
    """The directory's lock as a file descriptor, and whether the directory was made now.

    Whoever has the descriptor holds the lab: the launcher hands it to the supervisor, so it is free when
    the last process of the lab that could answer is gone. Raises BadSurroundings.
    """
    while True:
        made = _make(directory)
        try:
            lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # cleaned by another command just now
        except OSError as error:
            raise BadSurroundings(
                f"{directory} cannot be written ({error.strerror}): name another --state"
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise BadSurroundings(
                f"a lab runs at {directory}: end it first with `diminet lab down --state {directory}`, or "
                "name another directory with --state"
            ) from None
        if os.fstat(lock).st_nlink:
            return lock, made
        os.close(lock)


def _make(directory: Path) -> bool:
    """True if it was not there. An existing one must be empty or a lab's."""
    try:
        directory.mkdir(parents=True, mode=0o755)
    except FileExistsError:
        if not directory.is_dir():
            raise BadSurroundings(f"{directory} is not a directory: name another with --state") from None
        if not (directory / LOCK).exists() and any(directory.iterdir()):
            raise BadSurroundings(
                f"{directory} holds other files: name an empty or new directory with --state"
            ) from None
        return False
    except OSError as error:
        raise BadSurroundings(
            f"{directory} cannot be made ({error.strerror}): name another --state"
        ) from None
    return True


def held(directory: Path) -> bool:
    """Whether a lab, running or starting, holds it."""
    try:
        lock = os.open(directory / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def wait_free(directory: Path, timeout: float = END_TIMEOUT) -> bool:
    """Whether it is free within that time (seconds)."""
    deadline = time.monotonic() + timeout
    while held(directory):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def clean(directory: Path) -> None:
    """Remove what a lab that is over has left: its device, if the kernel was slower than us, and its
    files. The directory itself stays if it was there before the lab."""
    surroundings.remove_host_device(plan.host_device(directory), timeout=DEVICE_TIMEOUT)
    made = empty(directory)
    (directory / LOCK).unlink(missing_ok=True)
    if made:
        directory.rmdir()


def empty(directory: Path) -> bool:
    """Remove all but the lock. True if the lab whose files these were had made the directory."""
    made = _made_directory(directory)
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink()
    return made


def _made_directory(directory: Path) -> bool:
    try:
        return plan.LabPlan.model_validate_json((directory / PLAN).read_bytes()).made_directory
    except (FileNotFoundError, ValidationError):
        return False


def record(directory: Path, pid: int) -> None:
    """So that a lab that does not answer can be ended."""
    start_time = _start_time(pid)
    if start_time is not None:
        (directory / PROCESS).write_text(Process(pid=pid, start_time=start_time).model_dump_json())


def kill(directory: Path) -> None:
    """End a lab that does not answer: its recorded process if it is that one still. With it the kernel
    ends all others."""
    try:
        process = Process.model_validate_json((directory / PROCESS).read_bytes())
    except (FileNotFoundError, ValidationError):
        return
    if _start_time(process.pid) == process.start_time:
        os.kill(process.pid, signal.SIGKILL)


def _start_time(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat.rpartition(")")[2].split()[19])
