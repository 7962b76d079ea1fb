"""`diminet db`: the database of this site's instance.

The store is imported by the commands that need it: it would double the start of all others.
"""

from pathlib import Path
from typing import Annotated

import typer

from diminet import config
from diminet.cli.output import note, print_json
from diminet.cli.serve import Config
from diminet.cli.session import Json

app = typer.Typer(help="The instance's database: upgrade, back up, restore.", no_args_is_help=True)

Copy = Annotated[Path, typer.Argument(metavar="FILE", help="The copy.")]


@app.command()
def upgrade(file: Config = config.DEFAULT_FILE, as_json: Json = False) -> None:
    """Make the database, or bring it to this version's form."""
    from diminet import store

    store.upgrade(config.load(file).database_url())
    _done(as_json, {"upgraded": True}, "the database is up to date")


@app.command()
def backup(copy: Copy, file: Config = config.DEFAULT_FILE, as_json: Json = False) -> None:
    """Copy the database to FILE; the instance may be running."""
    from diminet import store

    store.backup(config.load(file).database_url(), copy)
    _done(as_json, {"backup": str(copy)}, f"the database is copied to {copy}")


@app.command()
def restore(copy: Copy, file: Config = config.DEFAULT_FILE, as_json: Json = False) -> None:
    """Put the copy FILE in the database's place; the instance must be stopped."""
    from diminet import store

    store.restore(config.load(file).database_url(), copy)
    _done(as_json, {"restored": str(copy)}, f"the database is restored from {copy}")


def _done(as_json: bool, document: dict[str, object], sentence: str) -> None:
    if as_json:
        print_json(document)
    else:
        note(sentence)
