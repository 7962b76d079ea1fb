"""The directory of sites from one file, the same at every site:

    [[sites]]
    name = "paris"
    number = 1                                   # 1..4095, never reused, also not for a site that is gone
    north_url = "https://paris.example:9790"
    east_west_url = "https://paris.example:9791"

How it is spread (configuration management, a shared repository) is the operators' choice.
"""

import json
import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from diminet.errors import BadSurroundings, SiteUnknown
from diminet.model import Site
from diminet.watched import DEFAULT_RECHECK_S, Watched, read_bytes

MAX_NAMES_TOLD = 50  # sites named in a SiteUnknown


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    sites: tuple[Site, ...]


class FileDirectory:
    """engine.ports.Directory. own_name, own_number: this site's, which the file must agree with.

    Raises BadSurroundings from the constructor if the file is bad; a file that becomes bad later leaves
    the last good copy in use. recheck_s: seconds between looks at it.
    """

    def __init__(
        self, path: Path, own_name: str, own_number: int, *, recheck_s: float = DEFAULT_RECHECK_S
    ) -> None:
        self._watched = Watched(
            "directory", (path,), lambda: load(path, own_name, own_number), recheck_s=recheck_s
        )

    async def site(self, name: str) -> Site:
        """Raises SiteUnknown, naming the sites that are known."""
        known = self._watched.get()
        if name not in known:
            names = ", ".join(list(known)[:MAX_NAMES_TOLD])
            raise SiteUnknown(
                f"there is no site {name[:80]!r}; the directory has: {names}", sites=[name[:80]]
            )
        return known[name]

    async def sites(self) -> tuple[Site, ...]:
        return tuple(self._watched.get().values())


def load(path: Path, own_name: str, own_number: int) -> dict[str, Site]:
    """Sites by name, in the file's order. Raises BadSurroundings with what is wrong."""
    try:
        table = tomllib.loads(read_bytes(path, "directory").decode("utf-8"))
        sites = _File.model_validate(table).sites
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise BadSurroundings(f"the directory {path} is not TOML: {exc}") from exc
    except ValidationError as exc:
        problems = "; ".join(
            f"{'.'.join(map(str, error['loc']))}: {error['msg']}"
            for error in exc.errors(include_url=False, include_input=False)[:5]
        )
        raise BadSurroundings(f"the directory {path} is wrong: {problems}") from exc
    for site in sites:
        _check_urls(path, site)
    _check_distinct(path, sites)
    _check_own(path, sites, own_name, own_number)
    return {site.name: site for site in sites}


def write(path: Path, sites: Sequence[Site]) -> None:
    """Replace the file whole."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    beside.write_text(render(sites), encoding="utf-8")
    beside.replace(path)


def render(sites: Sequence[Site]) -> str:
    """The file's text."""
    return "\n".join(
        f'[[sites]]\nname = "{site.name}"\nnumber = {site.number}\n'
        f"north_url = {_quoted(site.north_url)}\neast_west_url = {_quoted(site.east_west_url)}\n"
        for site in sites
    )


def _check_distinct(path: Path, sites: Sequence[Site]) -> None:
    names: dict[str, Site] = {}
    numbers: dict[int, Site] = {}
    urls: dict[str, Site] = {}
    for site in sites:
        if site.name in names:
            raise BadSurroundings(f"the directory {path} has two sites with the name {site.name!r}")
        if site.number in numbers:
            raise BadSurroundings(
                f"the directory {path} gives the number {site.number} to two sites, "
                f"{numbers[site.number].name!r} and {site.name!r}; each needs its own, never used before"
            )
        if site.east_west_url in urls:
            raise BadSurroundings(
                f"the directory {path} gives one east_west_url to two sites, "
                f"{urls[site.east_west_url].name!r} and {site.name!r}"
            )
        names[site.name] = numbers[site.number] = urls[site.east_west_url] = site


def _check_own(path: Path, sites: Sequence[Site], own_name: str, own_number: int) -> None:
    own = next((site for site in sites if site.name == own_name), None)
    if own is None:
        raise BadSurroundings(
            f"the directory {path} lacks this site, {own_name!r}; add it with number {own_number}"
        )
    if own.number != own_number:
        raise BadSurroundings(
            f"the directory {path} gives this site, {own_name!r}, the number {own.number}, but its "
            f"configuration says {own_number}; make both the same"
        )


def _check_urls(path: Path, site: Site) -> None:
    _check_url(path, site, "north_url", site.north_url, ("http", "https"))
    _check_url(path, site, "east_west_url", site.east_west_url, ("https",))


def _check_url(path: Path, site: Site, field: str, text: str, schemes: tuple[str, ...]) -> None:
    if not is_base_url(text, schemes):
        raise BadSurroundings(
            f"the directory {path}: {field} of site {site.name!r} is {text[:200]!r}, but must look like "
            f"{schemes[-1]}://host:port, without path, user or query"
        )


def is_base_url(text: str, schemes: tuple[str, ...]) -> bool:
    """One of these schemes, a host, perhaps a port, and nothing more."""
    if not text.isascii() or any(character <= " " or character == "\\" for character in text):
        return False
    try:
        url: SplitResult = urlsplit(text)
        port = url.port
    except ValueError:
        return False
    return (
        url.scheme in schemes
        and bool(url.hostname)
        and port != 0
        and url.path in ("", "/")
        and not (url.query or url.fragment or "@" in url.netloc or "?" in text or "#" in text)
    )


def _quoted(text: str) -> str:
    """A TOML basic string; URLs are ASCII, where JSON's escapes are TOML's."""
    return json.dumps(text)
