"""Databases and keys of a Keystone and a Neutron, made once for each environment and copied for every cloud:
making them takes half a minute, copying them none."""

import fcntl
import hashlib
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from diminet.errors import BadSurroundings
from diminet.lab.openstack import configuration
from diminet.lab.openstack.configuration import Accounts, User
from diminet.lab.openstack.environment import PROGRAMS, Environment
from diminet.lab.openstack.mariadb import MariaDb, migrate

MAKE_TIMEOUT = 300.0  # seconds
TOKEN_LIFETIME = 24 * 3600  # seconds
SERVICE_PROJECT, PROJECT, OTHER_PROJECT = "service", "demo", "other"
SERVICE_USER = "diminet"
NOWHERE = "http://127.0.0.1:1/v3"  # a Keystone that is not spoken to
PEERS_USER = "diminet-peers"


class Templates(NamedTuple):
    keystone: Path
    neutron: Path
    accounts: Accounts


def prepare(environment: Environment) -> Templates:
    """Those of that environment, made if they are not there; one process at a time makes them.

    Raises BadSurroundings with what the program said.
    """
    home = environment.root / "templates" / _version(environment)
    home.mkdir(parents=True, exist_ok=True)
    with _lock(home):
        if not (home / "made").exists():
            _forget_others(home)
            _make(environment, home)
            (home / "made").touch()
    accounts = Accounts.model_validate_json((home / "accounts.json").read_bytes())
    return Templates(home / "keystone", home / "neutron", accounts)


def neutron_dump(environment: Environment) -> Path:
    """Of an empty Neutron's database for MariaDB, made if it is not there: Neutron's migrations take a
    quarter of a minute. Raises BadSurroundings."""
    accounts = prepare(environment).accounts
    home = environment.root / "templates" / _version(environment)
    dump = home / "neutron.sql"
    with _lock(home):
        if not dump.exists():
            with tempfile.TemporaryDirectory(dir=home) as work:
                _migrate(environment, accounts, Path(work), home)
    return dump


def _migrate(environment: Environment, accounts: Accounts, work: Path, home: Path) -> None:
    with MariaDb(work / "mariadb") as database:
        text = configuration.neutron(
            work,
            environment,
            region="template",
            keystone_url=NOWHERE,
            service=accounts.user("neutron"),
            base_mac=configuration.base_mac(1),
            database=database.url("neutron"),
        )
        (work / "neutron.conf").write_text(text)
        migrate(environment, database, work, work / "neutron.sql")
    (work / "neutron.sql").replace(home / "neutron.sql")


def new_accounts() -> Accounts:
    """diminet and diminet-peers: as docs/openstack.md has them. neutron: only validates tokens. demo and
    other: two tenants."""

    def user(name: str, project: str, *roles: str) -> User:
        return User(name=name, password=secrets.token_urlsafe(16), project=project, roles=roles)

    return Accounts(
        admin_password=secrets.token_urlsafe(16),
        projects=(SERVICE_PROJECT, PROJECT, OTHER_PROJECT),
        users=(
            user("neutron", SERVICE_PROJECT, "service"),
            user(SERVICE_USER, SERVICE_PROJECT, "service", "admin"),
            user(PEERS_USER, SERVICE_PROJECT, "service"),
            user("demo", PROJECT, "member"),
            user("demo-reader", PROJECT, "reader"),
            user("other", OTHER_PROJECT, "member"),
        ),
    )


def _version(environment: Environment) -> str:
    """Changes with anything that the templates are made from."""
    digest = hashlib.sha256()
    for path in (PROGRAMS / "make_template.py", Path(configuration.__file__), Path(__file__)):
        digest.update(path.read_bytes())
    for package in sorted(path.name for path in environment.site_packages.glob("*.dist-info")):
        digest.update(package.encode())
    return digest.hexdigest()[:16]


@contextmanager
def _lock(home: Path) -> Iterator[None]:
    with (home / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _forget_others(home: Path) -> None:
    for other in home.parent.iterdir():
        if other != home:
            shutil.rmtree(other)


def _make(environment: Environment, home: Path) -> None:
    accounts = new_accounts()
    directories = {kind: home / kind for kind in ("keystone", "neutron")}
    for directory in directories.values():
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(mode=0o700)
    (directories["keystone"] / "keystone.conf").write_text(
        configuration.keystone(directories["keystone"], token_lifetime=TOKEN_LIFETIME)
    )
    (directories["neutron"] / "neutron.conf").write_text(
        configuration.neutron(
            directories["neutron"],
            environment,
            region="template",
            keystone_url=NOWHERE,
            service=accounts.user("neutron"),
            base_mac=configuration.base_mac(1),
        )
    )
    _write_private(home / "accounts.json", accounts.model_dump_json())
    running = [_run(environment, kind, home) for kind in directories]
    _finish(running, home)


def _run(environment: Environment, kind: str, home: Path) -> "subprocess.Popen[bytes]":
    log = os.open(home / f"{kind}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with (home / "accounts.json").open("rb") as accounts:
            return subprocess.Popen(
                environment.program("make_template", kind),
                cwd=home / kind,
                stdin=accounts,
                stdout=log,
                stderr=log,
                env=environment.variables(),
            )
    finally:
        os.close(log)


def _finish(running: "Sequence[subprocess.Popen[bytes]]", home: Path) -> None:
    try:
        for process, kind in zip(running, ("keystone", "neutron"), strict=True):
            if process.wait(MAKE_TIMEOUT):
                said = (home / f"{kind}.log").read_text(errors="replace")[-2000:]
                raise BadSurroundings(f"the database of {kind} cannot be made:\n{said}")
    except subprocess.TimeoutExpired:
        raise BadSurroundings(f"making OpenStack's databases took more than {MAKE_TIMEOUT:.0f} s") from None
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


def _main() -> None:
    """`python -m diminet.lab.openstack.templates`: for scripts/setup.sh."""
    from diminet.lab.openstack import environment

    prepare(environment.find())


if __name__ == "__main__":
    _main()
