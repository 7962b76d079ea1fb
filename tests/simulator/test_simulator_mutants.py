"""The simulator bites: each deliberate breakage is caught by its recorded seed, for the recorded reason."""

import pytest

from simulator.mutants import CAUGHT, MUTANTS, SEEDS_MOST, Mutant, applied
from simulator.run import run


def test_every_breakage_has_its_seed() -> None:
    assert {mutant.name for mutant in MUTANTS} == set(CAUGHT)
    assert len(MUTANTS) >= 25
    assert max(seed for seed, _ in CAUGHT.values()) <= SEEDS_MOST


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_breakage_is_caught(mutant: Mutant) -> None:
    seed, invariant = CAUGHT[mutant.name]
    with applied(mutant):
        violation = run(seed, mutant.plan).violation
    assert violation is not None
    assert violation.invariant == invariant, violation
