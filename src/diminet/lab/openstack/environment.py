"""Where the OpenStack programs are: a virtual environment of their own, made from its own lock."""

import os
import sys
from pathlib import Path
from typing import NamedTuple

from diminet.errors import BadSurroundings

DIRECTORY = ".venv-openstack"
PROGRAMS = Path(__file__).with_name("programs")


class Environment(NamedTuple):
    """root: of the virtual environment. site_packages: where its packages are."""

    root: Path
    site_packages: Path

    def program(self, name: str, *arguments: str) -> tuple[str, ...]:
        """The command line of one of the modules in `programs`; -P: its directory hides no package."""
        return (str(self.root / "bin" / "python"), "-P", str(PROGRAMS / f"{name}.py"), *arguments)

    @staticmethod
    def variables() -> dict[str, str]:
        """For the programs. Their byte code is written, whatever holds here: without it each start takes
        twice as long."""
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        return {**kept, "PYTHONWARNINGS": "ignore"}

    @property
    def openstack(self) -> Path:
        """The OpenStack client."""
        return self.root / "bin" / "openstack"


def find(root: Path | None = None) -> Environment:
    """The environment at `root`, else beside the one that this runs in. Raises BadSurroundings."""
    root = Path(sys.prefix).with_name(DIRECTORY) if root is None else root
    found = next(root.glob("lib/python3.*/site-packages/networking_bgpvpn"), None)
    if found is None:
        raise BadSurroundings(f"there is no OpenStack in {root}: run `make setup`")
    return Environment(root, found.parent)
