"""`diminet recover`: after the loss of the database, take in again what this site's VIM remembers."""

import importlib
from typing import Annotated, Any

import typer

from diminet import config
from diminet.cli.output import note, print_json
from diminet.cli.serve import ROOT, Config
from diminet.cli.session import Json
from diminet.model import Remains

Adopt = Annotated[
    bool, typer.Option("--adopt", help="Take it in; the services come back when their masters tell them.")
]
Discard = Annotated[
    list[str] | None,
    typer.Option("--discard", metavar="SERVICE", help="Adopted, but nobody has it any more: it is undone."),
]


def recover(
    file: Config = config.DEFAULT_FILE,
    adopt: Adopt = False,
    discard: Discard = None,
    as_json: Json = False,
) -> None:
    """Show what DIMINET made or changed in this site's VIM and its database does not know. The instance
    must be stopped."""
    settings = config.load(file)
    lost = importlib.import_module(ROOT).recover(settings, adopt=adopt, discard=tuple(discard or ()))
    if as_json:
        print_json({"lost": [_row(remains) for remains in lost], "adopted": adopt})
        return
    for remains in lost:
        note(_sentence(remains))
    what = "taken in" if adopt else "not known to the database (`diminet recover --adopt` takes them in)"
    note(f"networks {what}: {len(lost)}" if lost else "the database knows all that is there")


def _row(remains: Remains) -> dict[str, Any]:
    return {
        "service_id": remains.service_id or None,
        "network_id": remains.network_id,
        "project_id": remains.project_id,
        "made": remains.made,
        "joined": remains.joined,
    }


def _sentence(remains: Remains) -> str:
    whose = "made by DIMINET" if remains.made else "the tenant's"
    service = f"service {remains.service_id}" if remains.service_id else "a service that is not known"
    shape = ", with changed pools" if remains.shapes else ""
    return f"network {remains.network_id} of project {remains.project_id}: {whose}{shape}, for {service}"
