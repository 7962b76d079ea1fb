"""Which instance a command speaks to, and how it answers: the options every API command shares."""

import functools
import inspect
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from diminet.cli.output import print_json
from diminet.client import NorthClient
from diminet.errors import BadSurroundings

DEFAULT_STATE = Path("/run/diminet-lab")
LAB_FILE = "lab.json"
URL_VARIABLE = "DIMINET_URL"
TOKEN_VARIABLE = "DIMINET_TOKEN"  # noqa: S105 - a variable's name
CACERT_VARIABLE = "DIMINET_CACERT"

Url = Annotated[str | None, typer.Option("--url", help=f"Base URL of the instance ({URL_VARIABLE}).")]
Token = Annotated[str | None, typer.Option("--token", help=f"Your token ({TOKEN_VARIABLE}).")]
State = Annotated[
    Path | None, typer.Option("--state", help=f"In a lab: its state directory (default {DEFAULT_STATE}).")
]
Site = Annotated[str | None, typer.Option("--site", help="In a lab: the site that is asked.")]
CaCert = Annotated[
    Path | None, typer.Option("--cacert", help=f"PEM file of the CA of an https URL ({CACERT_VARIABLE}).")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


@dataclass(frozen=True)
class Session:
    """client: to the instance that is asked. as_json: how to answer."""

    client: NorthClient
    as_json: bool

    def answer(self, document: Any, human: Callable[[], None]) -> None:
        """Print the document, or what `human` prints."""
        if self.as_json:
            print_json(document)
        else:
            human()


def with_session(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command(session, …)` the options above in place of its first parameter."""
    own = [p for name, p in inspect.signature(command).parameters.items() if name != "session"]
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, annotation, default in (
            ("url", Url, None),
            ("token", Token, None),
            ("state", State, None),
            ("at", Site, None),
            ("cacert", CaCert, None),
            ("as_json", Json, False),
        )
    ]

    @functools.wraps(command)
    def wrapped(**options: Any) -> None:
        given = {parameter.name: options.pop(parameter.name) for parameter in shared}
        command(open_session(**given), **options)

    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + shared
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapped


def open_session(
    *,
    url: str | None,
    token: str | None,
    state: Path | None,
    at: str | None,
    cacert: Path | None,
    as_json: bool,
) -> Session:
    """A lab's site where --state or --site is given, else --url and --token or their variables."""
    if state is not None or at is not None:
        if url is not None:
            raise typer.BadParameter("--url does not go together with --state and --site: give one of them")
        site = lab_site(state or DEFAULT_STATE, at)
        return Session(NorthClient(site["north"], token or site["token"], proxies=False), as_json)
    url = url or os.environ.get(URL_VARIABLE)
    token = token or os.environ.get(TOKEN_VARIABLE)
    if not url:
        raise typer.BadParameter(f"say which instance to ask: --url (or {URL_VARIABLE}), or in a lab --site")
    if not token:
        raise typer.BadParameter(f"say who asks: --token (or {TOKEN_VARIABLE})")
    variable = os.environ.get(CACERT_VARIABLE)
    return Session(NorthClient(url, token, cacert=cacert or (Path(variable) if variable else None)), as_json)


def lab_site(state: Path, name: str | None) -> dict[str, Any]:
    """The site of that name in the lab's lab.json; the only or first one where no name is given."""
    file = state / LAB_FILE
    try:
        sites: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["sites"]
    except FileNotFoundError:
        raise BadSurroundings(
            f"no lab runs at {state} ({file} is not there): start one with `diminet lab up`, or name its "
            "directory with --state"
        ) from None
    except OSError as error:
        raise BadSurroundings(f"{file} cannot be read ({error.strerror}): run as root") from None
    except (ValueError, KeyError, TypeError):
        raise BadSurroundings(f"{file} is not a lab's file: name another directory with --state") from None
    if name is None:
        return sites[0]
    for site in sites:
        if site["name"] == name:
            return site
    known = ", ".join(str(site["name"]) for site in sites)
    raise BadSurroundings(f"the lab at {state} has no site {name!r}: it has {known}")
