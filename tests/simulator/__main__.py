"""`python -m simulator` (make simulate): many seeds, one seed with its trace, or the mutants."""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from simulator.breakages import MUTANTS
from simulator.emphasis import EMPHASES
from simulator.mutants import SEEDS_MOST, Caught, applied, hunt, record, recorded
from simulator.report import report
from simulator.run import Outcome, Plan, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="simulator", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--seed", type=int, help="this one only, with its trace")
    parser.add_argument("--steps", type=int, default=1000, help="of the storm of each seed, at least")
    parser.add_argument("--sites", type=int, help="of each seed; else 2 to 5")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes")
    parser.add_argument("--mutants", action="store_true", help="find a catching seed for every breakage")
    parser.add_argument("--mutant", help="replay --seed with this breakage; of --mutants only those like it")
    parser.add_argument("--emphasis", default="", choices=list(EMPHASES), help="what users do more of")
    parser.add_argument("--faults", help="these kinds only, separated by commas")
    given = parser.parse_args()
    faults = frozenset(given.faults.split(",")) if given.faults is not None else None
    plan = Plan(steps=given.steps, sites=given.sites, faults=faults, emphasis=given.emphasis)
    if given.seed is not None:
        return _replay(given.seed, replace(plan, trace=print), given.mutant)
    if given.mutants:
        return _search(given.jobs, given.mutant)
    return _many(range(given.first, given.first + given.seeds), plan, given.jobs)


def _replay(seed: int, plan: Plan, mutant: str | None) -> int:
    broken = [m for m in MUTANTS if m.name == mutant]
    if mutant is not None and not broken:
        sys.exit(f"there is no breakage {mutant!r}; there are: {', '.join(m.name for m in MUTANTS)}")
    if broken:
        with applied(broken[0]):
            outcome = run(seed, replace(broken[0].plan, trace=plan.trace))
    else:
        outcome = run(seed, plan)
    return _end([outcome])


def _many(seeds: range, plan: Plan, jobs: int) -> int:
    outcomes, spent, began = list[Outcome](), 0.0, time.monotonic()
    for outcome, seconds in _parallel(partial(_timed, plan), seeds, jobs):
        outcomes.append(outcome)
        spent += seconds
        if outcome.violation is not None:
            print(_told(outcome), flush=True)
    print(*report(outcomes, spent), sep="\n")
    print(f"{time.monotonic() - began:.0f} s with {jobs} processes")
    return _end(outcomes)


def _timed(plan: Plan, seed: int) -> tuple[Outcome, float]:
    began = time.process_time()
    outcome = run(seed, plan)
    return outcome, time.process_time() - began


def _parallel(work: Callable[[int], object], items: Sequence[int], jobs: int) -> Iterator[object]:
    if jobs == 1:
        yield from map(work, items)
        return
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap_unordered(work, items, chunksize=1)


def _told(outcome: Outcome) -> str:
    violation = outcome.violation
    assert violation is not None
    return (
        f"seed {outcome.seed} fails at step {violation.step} ({violation.at:.1f} s), invariant "
        f"{violation.invariant}: {violation.text}\n    replay: make simulate SEED={outcome.seed}"
    )


def _end(outcomes: list[Outcome]) -> int:
    failed = sum(outcome.violation is not None for outcome in outcomes)
    print(f"{len(outcomes) - failed} passed, {failed} failed")
    return 1 if failed else 0


def _search(jobs: int, only: str | None) -> int:
    """Told, and written to `caught.json`, as it goes; what is listed there no more is dropped."""
    names = [mutant.name for mutant in MUTANTS]
    known = {name: found for name, found in recorded().items() if name in names}
    wanted = [at for at, name in enumerate(names) if only is None or only in name]
    caught = 0
    for at, found, seconds in _parallel(_hunt, wanted, jobs):  # type: ignore[misc]
        known.pop(names[at], None)
        if found is not None:
            known[names[at]] = found
            caught += 1
        record(known)
        how = "NOT CAUGHT"
        if found is not None:
            how = f"seed {found.seed}, invariant {found.invariant}: {found.text}"
        print(f"{names[at]}: {how:.150} ({seconds:.0f} s)", flush=True)
    print(f"{caught} of {len(wanted)} caught within {SEEDS_MOST} seeds")
    return 0 if caught == len(wanted) else 1


def _hunt(at: int) -> tuple[int, Caught | None, float]:
    began = time.process_time()
    mutant = MUTANTS[at]
    found = hunt(mutant, recorded().get(mutant.name), lambda told: print(told, flush=True))
    return at, found, time.process_time() - began


if __name__ == "__main__":
    sys.exit(main())
