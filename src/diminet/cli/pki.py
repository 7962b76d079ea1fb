"""`diminet pki`: certificates for sites outside a lab."""

import json
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from diminet.east_west import pki
from diminet.errors import DiminetError

app = typer.Typer(help="The certificate authority of the sites.", no_args_is_help=True)

CaDirectory = Annotated[Path, typer.Option("--dir", help="Directory of the CA.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Days = Annotated[int, typer.Option("--days", help="How long the certificate is valid.")]
Site = Annotated[str, typer.Option("--site", help="Name of the site, as in the directory.")]


@app.command()
def init(directory: CaDirectory, as_json: Json = False, days: Days = pki.DEFAULT_CA_DAYS) -> None:
    """Make a new CA. Keep its key (ca.key) away from the sites."""
    try:
        authority = pki.init_ca(directory, days=days)
    except DiminetError as error:
        _refuse(error, as_json)
    _tell(
        as_json,
        {"ca": str(authority.cert), "key": str(authority.key), "crl": str(authority.crl)},
        f"The CA is in {authority.cert}; its key {authority.key} signs for every site: keep it safe.",
    )


@app.command()
def issue(
    directory: CaDirectory,
    site: Site,
    out: Annotated[Path, typer.Option("--out", help="Directory for the site's files.")],
    address: Annotated[
        list[str] | None, typer.Option("--address", help="IP address or DNS name; may be repeated.")
    ] = None,
    as_json: Json = False,
    days: Days = pki.DEFAULT_SITE_DAYS,
) -> None:
    """Make key and certificate of a site."""
    try:
        files = pki.issue(directory, site, address or [], out, days=days)
    except DiminetError as error:
        _refuse(error, as_json)
    _tell_files(
        as_json, site, files, "Copy that directory to the site; the key is readable by its owner only."
    )


@app.command()
def renew(
    directory: CaDirectory,
    out: Annotated[Path, typer.Option("--out", help="Directory with the site's present files.")],
    as_json: Json = False,
    days: Days = pki.DEFAULT_SITE_DAYS,
) -> None:
    """Replace a site's key and certificate; a running instance takes them up by itself."""
    try:
        files = pki.renew(directory, out, days=days)
    except DiminetError as error:
        _refuse(error, as_json)
    _tell_files(as_json, None, files, "A running instance takes them up by itself.")


@app.command()
def revoke(directory: CaDirectory, site: Site, as_json: Json = False) -> None:
    """Revoke every certificate of a site; copy the list to all sites."""
    try:
        crl = pki.revoke(directory, site)
    except DiminetError as error:
        _refuse(error, as_json)
    _tell(
        as_json,
        {"site": site, "crl": str(crl)},
        f"Revoked. Copy {crl} to every site in place of its crl.pem.",
    )


def _tell_files(as_json: bool, site: str | None, files: pki.SiteFiles, then: str) -> None:
    paths = {"cert": str(files.cert), "key": str(files.key), "ca": str(files.ca), "crl": str(files.crl)}
    answer = {"site": site, **paths} if site else paths
    _tell(as_json, answer, f"Certificate {files.cert}, key {files.key}, CA {files.ca}, {files.crl}.\n{then}")


def _tell(as_json: bool, answer: dict[str, str], text: str) -> None:
    typer.echo(json.dumps(answer) if as_json else text)


def _refuse(error: DiminetError, as_json: bool) -> NoReturn:
    if as_json:
        typer.echo(json.dumps({"error": {"code": error.code, "message": error.message}}))
    else:
        typer.echo(f"diminet pki: {error.message}", err=True)
    sys.exit(1)
