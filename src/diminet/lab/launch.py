"""Starting and ending a lab, from the host."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from diminet.errors import BadSurroundings
from diminet.lab import control, neutron, plan, state, surroundings
from diminet.lab.daemon import tail
from diminet.lab.plan import LabPlan
from diminet.lab.wan import HOST_LINK

SOCKET_TIMEOUT = 20.0  # seconds until the supervisor listens
START_TIMEOUT = 300.0  # seconds between two signs of progress
_OWN_NAMESPACES = ("--mount", "--pid", "--net", "--fork", "--kill-child=SIGKILL", "--mount-proc")


class Running(NamedTuple):
    """A lab that is up. content: of lab.json; process: its outermost one."""

    content: dict[str, Any]
    process: "subprocess.Popen[bytes]"


def default_instance_command() -> tuple[str, ...]:
    """`diminet serve` of the environment that this runs in. Raises BadSurroundings if it lacks that."""
    program = Path(sys.executable).with_name("diminet")
    if not program.exists():
        raise BadSurroundings(f"{program} is not there: run `make setup`")
    return (str(program), "serve", "--config", "{config}")


def up(
    directory: Path,
    sites: int,
    *,
    wan_delay_ms: float = 0.0,
    instance_command: Sequence[str] | None = None,
    ready_path: str | None = "/readyz",
    progress: Callable[[str], None] | None = None,
    south: plan.Kind = "linux",
    database: plan.Database = "sqlite",
) -> Running:
    """Start a lab and wait until all its sites are ready; what a crashed one left is cleaned first.

    If it fails or is interrupted nothing is left. Raises BadSurroundings, InvalidRequest.
    """
    plan.check_size(sites, wan_delay_ms)
    surroundings.check(wan_delay=wan_delay_ms > 0)
    if south == "neutron":
        neutron.check(database)
    command = default_instance_command() if instance_command is None else tuple(instance_command)
    directory = state.resolve(directory)
    lock, made = state.take(directory)
    process: subprocess.Popen[bytes] | None = None
    try:
        surroundings.remove_host_device(plan.host_device(directory), timeout=state.DEVICE_TIMEOUT)
        made = state.empty(directory) or made  # of a lab that did not end by `down`
        with surroundings.choosing():
            subnet = plan.free_management_subnet(directory, surroundings.taken_subnets())
            lab = plan.make(
                directory,
                sites,
                subnet,
                instance_command=command,
                wan_delay_ms=wan_delay_ms,
                ready_path=ready_path,
                made_directory=made,
                south=south,
                database=database,
            )
            process = _spawn(lab, lock)
            connection = _connect(lab, process)
            pid = connection.supervisor_pid()
            surroundings.add_host_device(lab.host_device, f"{lab.host_ip}/{lab.prefix}", HOST_LINK, pid)
        with connection:
            content = connection.call("start", progress=progress, timeout=START_TIMEOUT)
        return Running(content, process)
    except BaseException as failure:
        if process is not None:
            _kill(process)
        os.close(lock)
        lock = -1
        if state.wait_free(directory):
            state.clean(directory)
        if isinstance(failure, OSError):
            raise control.refusal(failure, directory) from failure
        raise
    finally:
        if lock >= 0:
            os.close(lock)


def down(directory: Path) -> bool:
    """End the lab and remove everything of it; False if there was none. Raises BadSurroundings."""
    if os.geteuid() != 0:
        raise BadSurroundings("only root may end a lab: use sudo")
    directory = state.resolve(directory)
    if not (directory / state.LOCK).exists():
        return False
    if state.held(directory):
        with suppress(BadSurroundings), control.Connection(directory) as connection:
            connection.call("down")
            connection.wait_closed()
        if not state.wait_free(directory):
            state.kill(directory)
        if not state.wait_free(directory):
            raise BadSurroundings(f"the lab at {directory} does not end; see {directory / state.LOG}")
    state.clean(directory)
    return True


def _spawn(lab: LabPlan, lock: int) -> "subprocess.Popen[bytes]":
    """The supervisor in namespaces of its own. It dies with the process that is returned."""
    path = lab.state_dir / state.PLAN
    path.write_text(lab.model_dump_json(indent=2))
    with (lab.state_dir / state.LOG).open("ab") as log:
        process = subprocess.Popen(
            (
                "unshare",
                *_OWN_NAMESPACES,
                "--",
                sys.executable,
                "-m",
                "diminet.lab.supervisor",
                "--plan",
                str(path),
            ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            pass_fds=(lock,),
            start_new_session=True,
        )
    try:
        state.record(lab.state_dir, process.pid)
    except OSError:
        _kill(process)
        raise
    return process


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """With the child of `unshare`, which is not bound to it yet in the first moment."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _connect(lab: LabPlan, process: "subprocess.Popen[bytes]") -> control.Connection:
    deadline = time.monotonic() + SOCKET_TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(BadSurroundings):
            return control.Connection(lab.state_dir)
        time.sleep(0.02)
    log = lab.state_dir / state.LOG
    raise BadSurroundings(f"the lab's supervisor did not start; the end of its log:\n{tail(log)}")
