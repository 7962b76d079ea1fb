"""Deliberate breakages of the protocol, each a small patch of production functions, applied at runtime.

A checker that finds none of them would find no bug either. They are listed in `breakages`; `caught.json`
records, for each, a seed that catches it, the invariant that it breaks there, and how. `make test` plays
these seeds again. When the simulator or the protocol has changed, `make simulate MUTANTS=1` searches anew,
from the recorded seed on, and writes the file.
"""

import inspect
import json
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from simulator.run import Plan, run

STEPS = 500  # of the storm in which it is looked for
SEEDS_MOST = 80  # each is caught within so many seeds, from the first
FILE = Path(__file__).with_name("caught.json")


@dataclass(frozen=True)
class Patch:
    """In the source of `function` of the first of `places`, `old` (there once) becomes `new`; the function
    is replaced at all of them."""

    places: tuple[type | ModuleType, ...]
    function: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """faults, emphasis: with which it is looked for, so that few seeds suffice; no faults where users alone
    bring it out."""

    name: str
    patches: tuple[Patch, ...]
    faults: frozenset[str] = frozenset()
    emphasis: str = ""

    @property
    def plan(self) -> Plan:
        return Plan(steps=STEPS, faults=self.faults, emphasis=self.emphasis)


@dataclass(frozen=True)
class Caught:
    seed: int
    invariant: str
    text: str


@contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    """Production code is so broken inside. Raises AssertionError when the source is not as expected."""
    with ExitStack() as stack:
        for patch in mutant.patches:
            stack.enter_context(_patched(mutant.name, patch))
        yield


@contextmanager
def _patched(name: str, patch: Patch) -> Iterator[None]:
    before = [(place, inspect.getattr_static(place, patch.function)) for place in patch.places]
    original = getattr(patch.places[0], patch.function)
    source = textwrap.dedent(inspect.getsource(original))
    assert source.count(patch.old) == 1, f"{name}: {patch.function} has changed"
    names: dict[str, object] = {}
    code = compile(source.replace(patch.old, patch.new), f"<mutant: {name}>", "exec")
    exec(code, inspect.getmodule(original).__dict__, names)
    try:
        for place in patch.places:
            setattr(place, patch.function, names[patch.function])
        yield
    finally:
        for place, function in before:
            setattr(place, patch.function, function)


# -- the search ------------------------------------------------------------------------------------------


def hunt(mutant: Mutant, recorded: Caught | None, told: Callable[[str], None]) -> Caught | None:
    """A seed that catches it and passes without it: the recorded one if it still does, else the first."""
    seeds = list(range(1, SEEDS_MOST + 1))
    if recorded is not None:
        seeds.sort(key=lambda seed: seed != recorded.seed)
    for seed in seeds:
        with applied(mutant):
            violation = run(seed, mutant.plan).violation
        if violation is None:
            continue
        if _passes(seed, mutant.plan):
            return Caught(seed, violation.invariant, violation.text)
        told(f"seed {seed} fails without {mutant.name!r}, too: {mutant.plan}")
    return None


@cache
def _passes(seed: int, plan: Plan) -> bool:
    return run(seed, plan).violation is None


def recorded() -> dict[str, Caught]:
    return {name: Caught(**found) for name, found in json.loads(FILE.read_text()).items()}


def record(found: Mapping[str, Caught]) -> None:
    text = json.dumps({name: asdict(found[name]) for name in sorted(found)}, indent=2, ensure_ascii=False)
    whole = FILE.with_suffix(".new")  # others read it meanwhile
    whole.write_text(text + "\n")
    whole.replace(FILE)
