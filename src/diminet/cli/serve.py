"""`diminet serve`: run the instance of this site."""

import importlib
from pathlib import Path
from typing import Annotated

import typer

from diminet import config

ROOT = "diminet.app"  # by name: the composition root imports this room, not the other way round

Config = Annotated[Path, typer.Option("--config", help="The instance's configuration file.")]


def serve(file: Config = config.DEFAULT_FILE) -> None:
    """Run the instance of this site until SIGTERM."""
    settings = config.load(file)
    importlib.import_module(ROOT).serve(settings)
