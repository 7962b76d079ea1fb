"""The simulator bites: each deliberate breakage is caught by its recorded seed, for the recorded reason."""

import pytest

from simulator.mutants import CAUGHT, MUTANTS, SEEDS_MOST, Mutant, applied
from simulator.run import run

RECORDED = [mutant for mutant in MUTANTS if mutant.name in CAUGHT]


def test_every_breakage_can_be_applied() -> None:
    """The words that it changes are there still."""
    for mutant in MUTANTS:
        with applied(mutant):
            pass
    assert {mutant.name for mutant in MUTANTS} >= set(CAUGHT)
    assert max(seed for seed, _ in CAUGHT.values()) <= SEEDS_MOST


@pytest.mark.parametrize("mutant", RECORDED, ids=lambda mutant: mutant.name)
def test_a_breakage_is_caught(mutant: Mutant) -> None:
    seed, invariant = CAUGHT[mutant.name]
    with applied(mutant):
        violation = run(seed, mutant.plan).violation
    assert violation is not None
    assert violation.invariant == invariant, violation
