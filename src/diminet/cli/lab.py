"""`diminet lab`: several sites on this machine."""

import signal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.text import Text

from diminet.cli.output import console, note, print_json, table
from diminet.lab.client import PING_COUNT, PING_INTERVAL, Lab
from diminet.lab.plan import Plane
from diminet.lab.state import DEFAULT_STATE

app = typer.Typer(
    help="Several sites on this machine, with real daemons and real cuts.", no_args_is_help=True
)
network_app = typer.Typer(help="Networks of a site of the lab.", no_args_is_help=True)
app.add_typer(network_app, name="network")

NO_ANSWER = 1  # exit status of `ping`


class South(StrEnum):
    LINUX = "linux"
    NEUTRON = "neutron"


class Database(StrEnum):
    SQLITE = "sqlite"
    MARIADB = "mariadb"


State = Annotated[Path, typer.Option("--state", help="State directory of the lab.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Site = Annotated[str, typer.Argument(metavar="SITE", help="Name of a site, for example A.")]
AtSite = Annotated[str, typer.Option("--site", help="Name of a site, for example A.")]
Token = Annotated[
    str | None, typer.Option("--token", help="Act as this token's project (default: the lab's tenant).")
]


@app.command()
def up(
    sites: Annotated[int, typer.Option("--sites", min=1, help="How many sites.")],
    south: Annotated[South, typer.Option("--south", help="Kind of the sites.")] = South.LINUX,
    database: Annotated[
        Database, typer.Option("--database", help="Of the Neutrons; mariadb: several requests at once.")
    ] = Database.SQLITE,
    state: State = DEFAULT_STATE,
    wan_delay_ms: Annotated[
        float, typer.Option("--wan-delay-ms", min=0, help="Delay between two sites, one way.")
    ] = 0.0,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return when all sites are ready; end it with `lab down`.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Start a lab; without --detach it lasts until Ctrl-C."""
    if database is not Database.SQLITE and south is not South.NEUTRON:
        raise typer.BadParameter("--database is of the Neutrons: add --south neutron")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    lab = Lab(state)
    progress = None if as_json else note
    content = lab.up(
        sites, wan_delay_ms=wan_delay_ms, progress=progress, south=south.value, database=database.value
    )
    if as_json:
        print_json(content)
    else:
        columns = ("site", "number", "north", "east-west", "networking")
        rows = [
            [site[key] for key in ("name", "number", "north", "east_west", "south")]
            for site in content["sites"]
        ]
        console().print(
            table(columns, rows, title=f"lab at {lab.state_dir}; tokens in {lab.state_dir}/lab.json")
        )
    if not detach:
        _hold(lab, as_json=as_json)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _hold(lab: Lab, *, as_json: bool) -> None:
    if not as_json:
        note("The lab runs until Ctrl-C.")
    try:
        lab.hold()
    except KeyboardInterrupt:
        note("Ending the lab.")
    finally:
        lab.down()


@app.command()
def down(state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """End the lab and remove everything of it."""
    lab = Lab(state)
    ended = lab.down()
    _tell(
        as_json,
        {"down": ended},
        f"The lab at {lab.state_dir} is gone." if ended else f"No lab ran at {lab.state_dir}.",
    )


@app.command()
def status(state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """How the sites are, and what is cut."""
    now = Lab(state).status()
    if as_json:
        print_json(now)
        return
    program, needed = ("FRR", {"zebra", "bgpd"}) if now["south"] == "linux" else ("Neutron", {"neutron"})
    rows = [
        [
            site["name"],
            site["number"],
            "ready" if site["ready"] else site["instance"] if site["instance"] != "running" else "not ready",
            "running" if needed <= site["pids"].keys() else "down",
            "isolated"
            if site["name"] in now["isolated"]
            else ", ".join(_cut_from(site["name"], now["cuts"])),
            site["north"],
        ]
        for site in now["sites"]
    ]
    title = f"lab at {now['state_dir']}, WAN delay {now['wan_delay_ms']:g} ms one way"
    console().print(table(("site", "number", "instance", program, "cut from", "north"), rows, title=title))


def _cut_from(name: str, cuts: list[list[str]]) -> list[str]:
    return [other for cut in cuts if name in cut for other in cut if other != name]


@app.command()
def cut(
    one: Annotated[str, typer.Argument(metavar="A")],
    other: Annotated[str, typer.Argument(metavar="B")],
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Let nothing pass between two sites, both ways."""
    if one == other:
        raise typer.BadParameter(f"name two different sites, not {one} twice")
    _tell(as_json, Lab(state).cut(one, other), f"Nothing passes between {one} and {other}.")


@app.command()
def isolate(
    site: Site,
    plane: Annotated[
        Plane, typer.Option("--plane", help="Only BGP and the instances (control), or only VXLAN (data).")
    ] = "all",
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Part a site from all others and from the route reflectors."""
    what = {"all": "Nothing", "control": "No BGP and no DIMINET message", "data": "No VXLAN packet"}[plane]
    _tell(as_json, Lab(state).isolate(site, plane), f"{what} passes between {site} and the others.")


@app.command()
def heal(
    one: Annotated[str | None, typer.Argument(metavar="[A")] = None,
    other: Annotated[str | None, typer.Argument(metavar="B]")] = None,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """End the cut between two sites; without names, everything that cut and isolate did."""
    if (one is None) != (other is None):
        raise typer.BadParameter("name the two sites of a cut, or none to heal everything")
    healed = Lab(state).heal(one, other)
    _tell(as_json, healed, "Everything is healed." if one is None else f"{one} and {other} are joined again.")


@app.command()
def crash(site: Site, state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """kill -9 of a site's DIMINET instance; it stays down until `restart`."""
    _tell(as_json, Lab(state).crash(site), f"The instance of {site} is killed.")


@app.command()
def restart(site: Site, state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """Start a site's instance (again), and wait until it is ready."""
    _tell(as_json, Lab(state).restart(site), f"The instance of {site} is ready.")


@network_app.command("create")
def network_create(
    site: AtSite,
    name: Annotated[str, typer.Option("--name", help="Name of the network.")],
    cidr: Annotated[list[str], typer.Option("--cidr", help="Of its subnet; once more for a second one.")],
    token: Token = None,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Make a network with a subnet at a site."""
    made = Lab(state).network_create(site, name, cidr, token=token)
    _tell(as_json, made, f"Network {made['network_id']} ({', '.join(cidr)}) at {site}.")


@app.command()
def boot(
    site: AtSite,
    network: Annotated[str, typer.Option("--network", help="Id of the network.")],
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the instance (default vm1, vm2, …).")
    ] = None,
    token: Token = None,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Start an instance (a network namespace) on a network of a site."""
    made = Lab(state).boot(site, network, name=name, token=token)
    _tell(as_json, made, f"{site}/{made['name']} has {made['ip']} ({made['mac']}).")


@app.command()
def ping(
    source: Annotated[str, typer.Argument(metavar="A/vm1")],
    target: Annotated[str, typer.Argument(metavar="B/vm2")],
    count: Annotated[int, typer.Option("--count", min=1, help="How many.")] = PING_COUNT,
    interval: Annotated[float, typer.Option("--interval", help="Seconds between two.")] = PING_INTERVAL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Ping from an instance to another; exit status 0 if any answer came."""
    seen = Lab(state).ping(source, target, count=count, interval=interval)
    mean = "" if seen["rtt_ms"] is None else f", mean {seen['rtt_ms']} ms"
    _tell(as_json, seen, f"{source} -> {target}: {seen['received']} of {seen['sent']} answered{mean}.")
    if not seen["received"]:
        raise typer.Exit(NO_ANSWER)


def _tell(as_json: bool, document: dict[str, Any], sentence: str) -> None:
    if as_json:
        print_json(document)
    else:
        console().print(Text(sentence), soft_wrap=True)  # a MAC address is no emoji
