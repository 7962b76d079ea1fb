"""Serve any number of Keystones or Neutrons, each in a process forked from this one, which has the program
loaded already: a server is ready in a second instead of eight.

    python -P fork_servers.py keystone|neutron

Each line on standard input is a command: {"start": NAME, "directory": DIR, "host": IP, "port": N (0: any
free one), "threads": N, "namespace": PATH of a network namespace or null} or {"stop": NAME}. Each line on
standard output is an event: {"loaded": true} once, {"listening": NAME, "port": N, "pid": PID}, {"ready":
NAME}, {"ended": NAME, "status": N}. DIR holds the configuration; the server's log is DIR/server.log. When
standard input ends, all servers are ended, and so they are when this process is killed.
"""

import ctypes
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1
BACKLOG = 128

PRELOADED = {
    "keystone": ("keystone.server.flask.core", "keystone.server.wsgi", "keystone.identity.backends.sql"),
    "neutron": (
        "neutron.server.api",
        "neutron.plugins.ml2.plugin",
        "neutron.services.l3_router.l3_router_plugin",
        "networking_bgpvpn.neutron.services.plugin",
        "neutron.pecan_wsgi.app",
        "neutron.api.v2.router",
        "keystonemiddleware.auth_token",
    ),
}


def tell(**event: Any) -> None:
    """One event; a short line is written to a pipe whole, whichever process writes it."""
    os.write(1, json.dumps(event).encode() + b"\n")


def load_keystone(directory: str) -> Any:
    os.environ["OS_KEYSTONE_CONFIG_DIR"] = directory
    from keystone.server import wsgi

    return wsgi.initialize_public_application()


def load_neutron(directory: str) -> Any:
    os.environ["OS_NEUTRON_CONFIG_DIR"] = directory
    os.environ["OS_NEUTRON_CONFIG_FILES"] = "neutron.conf"
    from neutron import policy, server
    from neutron.server import api

    application = server.boot_server(api.api_server, prog="neutron-api")
    policy.init()  # else the first requests at once of several threads meet half a policy: 403
    return application


LOADERS = {"keystone": load_keystone, "neutron": load_neutron}


def serve(kind: str, command: dict[str, Any], parent: int) -> None:
    """In the forked process; never returns."""
    import waitress

    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    log = os.open(Path(command["directory"], "server.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if command["namespace"]:
        namespace = os.open(command["namespace"], os.O_RDONLY)
        if libc.setns(namespace, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns", command["namespace"])
        os.close(namespace)
    listener = socket.create_server((command["host"], command["port"]), backlog=BACKLOG)
    port = listener.getsockname()[1]
    tell(listening=command["start"], port=port, pid=os.getpid())
    sys.argv = [kind]  # both parse it
    application = LOADERS[kind](command["directory"])
    server = waitress.create_server(
        application,
        sockets=[listener],
        threads=command["threads"],
        ident=kind,
        clear_untrusted_proxy_headers=True,
    )
    tell(ready=command["start"])
    os.dup2(log, 1)
    server.run()


class Servers:
    """kind: keystone or neutron. The servers that run, by name."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._pids: dict[str, int] = {}

    def start(self, command: dict[str, Any]) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            self._pids[command["start"]] = pid
            return
        try:
            serve(self._kind, command, parent)
        finally:
            traceback.print_exc()  # it never returns but by raising
            os._exit(1)

    def stop(self, name: str) -> None:
        """Killed: they have nothing to tidy up, and end by SIGTERM only after their last request."""
        if name in self._pids:
            os.kill(self._pids[name], signal.SIGKILL)

    def reap(self) -> None:
        """Tell of the servers that have ended."""
        for name, pid in list(self._pids.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del self._pids[name]
                tell(ended=name, status=os.waitstatus_to_exitcode(status))

    def end(self) -> None:
        """Stop all."""
        for name in self._pids:
            self.stop(name)
        for pid in self._pids.values():
            os.waitpid(pid, 0)


def main(kind: str) -> None:
    for name in PRELOADED[kind]:
        importlib.import_module(name)
    servers = Servers(kind)
    awake, wake = socket.socketpair()
    for end in (awake, wake):
        end.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started this one
    tell(loaded=True)
    waiting = selectors.DefaultSelector()
    waiting.register(0, selectors.EVENT_READ)
    waiting.register(awake, selectors.EVENT_READ)
    pending = b""
    while True:
        for key, _ in waiting.select():
            if key.fileobj is awake:
                awake.recv(4096)
                servers.reap()
                continue
            read = os.read(0, 65536)
            if not read:
                servers.end()
                return
            *lines, pending = (pending + read).split(b"\n")
            for line in lines:
                command = json.loads(line)
                if "start" in command:
                    servers.start(command)
                else:
                    servers.stop(command["stop"])


if __name__ == "__main__":
    main(sys.argv[1])
