"""`diminet bench`: measurements on a lab that is made for them."""

import re
import secrets
import shlex
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, Protocol, TypeVar

import typer

from diminet.bench.samples import Results
from diminet.cli.output import console, note, print_json, table
from diminet.lab.plan import Kind
from diminet.model import Model

if TYPE_CHECKING:
    from diminet.bench.create import Wish

R = TypeVar("R", bound=Model)
R_contra = TypeVar("R_contra", bound=Model, contravariant=True)


class Markdown(Protocol[R_contra]):
    """A page on results, which names the files beside it."""

    def __call__(self, results: R_contra, /, *, json_name: str, figure_name: str) -> str: ...


app = typer.Typer(help="Measure DIMINET on a lab of its own.", no_args_is_help=True)

DEFAULT_STATE = Path("/run/diminet-bench")
RUNS = 10
IDLE_SECONDS = 60.0
SEED_BITS = 31


@app.command()
def create(
    runs: Annotated[int, typer.Option("--runs", min=1, help="Runs of each kind, N and delay.")] = RUNS,
    sites: Annotated[
        str, typer.Option("--sites", help="Numbers of sites: 2-6, or 2,4,6.", metavar="N-M")
    ] = "2-6",
    south: Annotated[
        Kind, typer.Option("--south", help="linux, or neutron: real Keystone and Neutrons.")
    ] = "linux",
    delays: Annotated[
        str, typer.Option("--delays", help="WAN delays in ms, one way (of linux).", metavar="MS,MS")
    ] = "0,25",
    seed: Annotated[
        int | None, typer.Option("--seed", help="Of what is drawn at random (default: a new one).")
    ] = None,
    idle_seconds: Annotated[
        float, typer.Option("--idle-seconds", min=0, help="How long idle instances are watched; 0: not.")
    ] = IDLE_SECONDS,
    out: Annotated[
        Path, typer.Option("--out", help="Directory of bench-create[-neutron].md, .json, .svg.")
    ] = Path("docs"),
    state: Annotated[Path, typer.Option("--state", help="State directory of the lab.")] = DEFAULT_STATE,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document and nothing else.")
    ] = False,
) -> None:
    """Creates and deletes, L2 and L3, against the same calls without DIMINET; and an idle instance (linux),
    or the paper's own sequence (neutron)."""
    _take_the_lab_along()
    from diminet.bench import create as measuring  # here: the other commands need not wait for its import

    wish = measuring.Wish(
        runs=runs,
        sites=_numbers(sites),
        delays_ms=_delays(delays),
        seed=secrets.randbits(SEED_BITS) if seed is None else seed,
        idle_seconds=idle_seconds,
    )
    note(f"seed {wish.seed}")
    tell = _silent if as_json else note
    if south == "neutron":
        from diminet.bench import neutron, neutron_page

        found = neutron.run(state, wish, _command_on_neutron(wish), tell)
        _publish(found, out, "bench-create-neutron", neutron_page.markdown, neutron_page.svg, as_json=as_json)
    else:
        from diminet.bench import figure, page

        results = measuring.run(state, wish, _command(wish), tell)
        show = partial(_show, results, out)
        _publish(results, out, "bench-create", page.markdown, figure.svg, as_json=as_json, show=show)


@app.command()
def resiliency(
    before: Annotated[float, typer.Option("--before", min=1, help="Seconds before the cut.")] = 10.0,
    during: Annotated[float, typer.Option("--during", min=1, help="Seconds that it lasts.")] = 40.0,
    after: Annotated[float, typer.Option("--after", min=1, help="Seconds after it has healed.")] = 45.0,
    delay: Annotated[float, typer.Option("--delay", min=0, help="WAN delay in ms, one way.")] = 0.0,
    out: Annotated[
        Path, typer.Option("--out", help="Directory of bench-resiliency.md, .json and .svg.")
    ] = Path("docs"),
    state: Annotated[Path, typer.Option("--state", help="State directory of the lab.")] = DEFAULT_STATE,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document and nothing else.")
    ] = False,
) -> None:
    """A site is cut off and healed: control plane, data plane, both. The paper's Table IV."""
    _take_the_lab_along()
    from diminet.bench import resiliency as measuring
    from diminet.bench import resiliency_page as page

    wish = measuring.Wish(before, during, after, delay)
    words = [f"--before {before:g}", f"--during {during:g}", f"--after {after:g}", f"--delay {delay:g}"]
    command = " ".join(("diminet bench resiliency", *words))
    found = measuring.run(state, wish, command, _silent if as_json else note)
    _publish(found, out, "bench-resiliency", page.markdown, page.svg, as_json=as_json)


@app.command()
def scale(
    creates: Annotated[
        str, typer.Option("--creates", help="Creates at once: 1,4,16,64; none: not.", metavar="K,K")
    ] = "1,4,16,64",
    sites: Annotated[
        str, typer.Option("--sites", help="Real sites of one service: 2-14; none: not.", metavar="N-M")
    ] = "2,4,6,8,10,12,14",
    simulated: Annotated[
        str, typer.Option("--simulated", help="Simulated sites of one service; none: not.", metavar="N,N")
    ] = "20,50,100,200",
    services: Annotated[
        str, typer.Option("--services", help="Services of one instance; none: not.", metavar="N,N")
    ] = "50,50000",
    runs: Annotated[int, typer.Option("--runs", min=1, help="Runs of each number of real sites.")] = 3,
    delay: Annotated[
        float, typer.Option("--delay", min=0.1, help="Delay of the simulated WAN in ms, one way.")
    ] = 25.0,
    timeout: Annotated[
        float, typer.Option("--timeout", min=1, help="request_timeout of creates at once, in seconds.")
    ] = 120.0,
    seed: Annotated[int, typer.Option("--seed", help="Of what is drawn at random.")] = 1,
    out: Annotated[Path, typer.Option("--out", help="Directory of bench-scale.md, .json and .svg.")] = Path(
        "docs"
    ),
    state: Annotated[Path, typer.Option("--state", help="State directory of the lab.")] = DEFAULT_STATE,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document and nothing else.")
    ] = False,
) -> None:
    """Many creates at once; one service over many sites; many services in one instance."""
    _take_the_lab_along()
    from diminet.bench import scale as measuring
    from diminet.bench import scale_page as page

    lists = {"creates": creates, "sites": sites, "simulated": simulated, "services": services}
    wanted = {name: _counts(name, text) for name, text in lists.items()}
    wish = measuring.Wish(**wanted, runs=runs, timeout=timeout, delay_ms=delay, seed=seed)
    words = [f"--{name} {','.join(map(str, numbers)) or 'none'}" for name, numbers in wanted.items()]
    words += [f"--runs {runs}", f"--timeout {timeout:g}", f"--delay {delay:g}", f"--seed {seed}"]
    found = measuring.run(
        state, wish, " ".join(("diminet bench scale", *words)), _silent if as_json else note
    )
    _publish(found, out, "bench-scale", page.markdown, page.svg, as_json=as_json)


def _counts(name: str, text: str) -> tuple[int, ...]:
    """`none`: none."""
    found: set[int] = set()
    for part in () if text == "none" else text.split(","):
        ends = re.fullmatch(r"([1-9]\d{0,5})(?:-([1-9]\d{0,5}))?", part.strip())
        if ends is None:
            raise typer.BadParameter(f"{text!r} is not like 2-6, 2,4,6 or none", param_hint=f"--{name}")
        found |= set(range(int(ends[1]), int(ends[2] or ends[1]) + 1))
    return tuple(sorted(found))


def _take_the_lab_along() -> None:
    """Who is told to end ends as by Ctrl-C, so that the lab goes too."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _silent(_: str) -> None:
    pass


def _numbers(text: str) -> tuple[int, ...]:
    """`2-6`, `2,4`, or both."""
    found: set[int] = set()
    for part in text.split(","):
        ends = re.fullmatch(r"(\d{1,3})(?:-(\d{1,3}))?", part.strip())
        if ends is None:
            raise typer.BadParameter(f"{text!r} is not like 2-6 or 2,4,6", param_hint="--sites")
        found |= set(range(int(ends[1]), int(ends[2] or ends[1]) + 1))
    if not found or min(found) < 2:
        raise typer.BadParameter("a service has two sites or more", param_hint="--sites")
    return tuple(sorted(found))


def _delays(text: str) -> tuple[float, ...]:
    try:
        found = {float(part) for part in text.split(",")}
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not like 0,25", param_hint="--delays") from None
    if not all(0 <= delay < float("inf") for delay in found):
        raise typer.BadParameter("a delay is 0 ms or more", param_hint="--delays")
    return tuple(sorted(found))


def _command(wish: "Wish") -> str:
    """The command that does the same again."""
    words = ["diminet", "bench", "create", "--runs", str(wish.runs)]
    words += ["--sites", ",".join(map(str, wish.sites))]
    words += ["--delays", ",".join(f"{delay:g}" for delay in wish.delays_ms), "--seed", str(wish.seed)]
    if wish.idle_seconds != IDLE_SECONDS:
        words += ["--idle-seconds", f"{wish.idle_seconds:g}"]
    return shlex.join(words)


def _command_on_neutron(wish: "Wish") -> str:
    words = ["diminet", "bench", "create", "--south", "neutron", "--runs", str(wish.runs)]
    words += ["--sites", ",".join(map(str, wish.sites)), "--seed", str(wish.seed)]
    return shlex.join(words)


def _publish(
    results: R,
    out: Path,
    stem: str,
    markdown: Markdown[R],
    picture: Callable[[R], str],
    *,
    as_json: bool,
    show: Callable[[], None] | None = None,
) -> None:
    """Keep the figures, their picture and the page on them in that directory; print the page, or what is
    shown instead."""
    text = markdown(results, json_name=f"{stem}.json", figure_name=f"{stem}.svg")
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{stem}.json").write_text(results.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (out / f"{stem}.svg").write_text(picture(results), encoding="utf-8")
    (out / f"{stem}.md").write_text(text, encoding="utf-8")
    if as_json:
        print_json(results.model_dump(mode="json"))
    elif show is not None:
        show()
    else:
        console().print(text, markup=False)


def _show(results: Results, out: Path) -> None:
    from diminet.bench import page

    columns = ("kind", "what", "delay", "N", "mean", "se", "median", "p99", "floor", "ratio", "WAN", "ping")
    rows = [
        [kind, operation, f"{delay:g} ms", count, *page.cells(results, kind, operation, count, delay)]
        for kind in ("l2", "l3")
        for operation in ("create", "delete")
        for delay in results.delays_ms
        for count in results.sites
    ]
    title = f"milliseconds; WAN in round trips; seed {results.seed}; page: {out / 'bench-create.md'}"
    console().print(table(columns, rows, title=title))
    if results.idle:
        idle = [
            [one.site, f"{one.rss / 1e6:.0f}", f"{one.pss / 1e6:.0f}", f"{one.cpu:.2%}"]
            for one in results.idle
        ]
        console().print(table(("idle instance", "RSS (MB)", "PSS (MB)", "processor"), idle))
