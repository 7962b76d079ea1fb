"""A MariaDB of a cloud's own, for Neutrons that serve several requests at once (sqlite bears one thread).

It listens on a unix socket only, so that every network namespace reaches it. Raises BadSurroundings.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from diminet.errors import BadSurroundings
from diminet.lab.daemon import tail
from diminet.lab.openstack.environment import Environment

PROGRAMS = ("mariadbd", "mariadb", "mariadb-install-db", "mariadb-dump")
START_TIMEOUT = 60.0  # seconds until it answers
COMMAND_TIMEOUT = 300.0  # seconds for one command, Neutron's whole migration among them
STOP_TIMEOUT = 30.0  # seconds
_SMALL = ("--innodb-log-file-size=16M", "--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=0")


def check() -> None:
    """Raises BadSurroundings if this machine has none."""
    for program in PROGRAMS:
        if shutil.which(program) is None:
            raise BadSurroundings(f"{program} is not there: run `make setup`, or use sqlite")


class MariaDb:
    """directory: of its data, made anew. It runs from the constructor on; close it at the end."""

    def __init__(self, directory: Path) -> None:
        check()
        self._directory = directory
        self._log = directory / "mariadb.log"
        directory.mkdir(mode=0o700, parents=True)
        data = f"--datadir={directory / 'data'}"
        _run(("mariadb-install-db", "--no-defaults", data, *_as_root(), "--skip-test-db", *_SMALL), self._log)
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                (
                    "mariadbd",
                    *("--no-defaults", data, f"--socket={self.socket}", "--skip-networking", *_as_root()),
                    *(
                        "--skip-grant-tables",
                        f"--pid-file={directory / 'pid'}",
                        "--max-connections=500",
                        *_SMALL,
                    ),
                ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def socket(self) -> Path:
        return self._directory / "socket"

    def url(self, database: str) -> str:
        """For SQLAlchemy."""
        return f"mysql+pymysql://root@localhost/{database}?unix_socket={self.socket}&charset=utf8mb4"

    def create(self, database: str, content: Path | None = None) -> None:
        """content: a dump to fill it with."""
        self._mariadb("-e", f"CREATE DATABASE `{database}` CHARACTER SET utf8mb4")
        if content is not None:
            with content.open("rb") as dump:
                self._mariadb(database, standard_input=dump.fileno())

    def dump(self, database: str, to: Path) -> None:
        command = (
            "mariadb-dump",
            "--no-defaults",
            f"--socket={self.socket}",
            f"--result-file={to}",
            database,
        )
        _run(command, self._log)

    def close(self) -> None:
        """Nothing of its data is needed any more."""
        self._process.kill()
        self._process.wait()

    def _mariadb(self, *arguments: str, standard_input: int = subprocess.DEVNULL) -> None:
        command = ("mariadb", "--no-defaults", f"--socket={self.socket}", *arguments)
        _run(command, self._log, standard_input=standard_input)

    def _wait(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not self.socket.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise BadSurroundings(f"MariaDB does not start; the end of its log:\n{tail(self._log)}")
            time.sleep(0.05)


def migrate(environment: Environment, database: MariaDb, directory: Path, dump: Path) -> None:
    """A dump of an empty Neutron's database, made by Neutron's own migrations, its plug-ins' included.
    directory: of a neutron.conf that names the database `neutron` of that MariaDB."""
    database.create("neutron")
    program = str(environment.root / "bin" / "neutron-db-manage")
    command = (program, "--config-file", str(directory / "neutron.conf"), "upgrade", "heads")
    _run(command, directory / "migration.log")
    database.dump("neutron", dump)


def _as_root() -> tuple[str, ...]:
    return ("--user=root",) if os.geteuid() == 0 else ()


def _run(command: Sequence[str], log: Path, *, standard_input: int = subprocess.DEVNULL) -> None:
    with log.open("ab") as output:
        try:
            done = subprocess.run(
                command,
                stdin=standard_input,
                stdout=output,
                stderr=output,
                timeout=COMMAND_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BadSurroundings(f"{command[0]} took more than {COMMAND_TIMEOUT:.0f} s") from None
    if done.returncode:
        raise BadSurroundings(f"{command[0]} failed; the end of its log:\n{tail(log)}")
