"""The simulator bites: each deliberate breakage is caught by its recorded seed, for the recorded reason."""

import pytest

from simulator.breakages import MUTANTS
from simulator.mutants import SEEDS_MOST, Mutant, applied, recorded
from simulator.run import run

CAUGHT = recorded()


def test_every_breakage_can_be_applied_and_has_a_seed() -> None:
    """The words that it changes are there still."""
    for mutant in MUTANTS:
        with applied(mutant):
            pass
    assert {mutant.name for mutant in MUTANTS} == set(CAUGHT)
    assert len(CAUGHT) >= 25
    assert max(found.seed for found in CAUGHT.values()) <= SEEDS_MOST


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_breakage_is_caught(mutant: Mutant) -> None:
    with applied(mutant):
        violation = run(CAUGHT[mutant.name].seed, mutant.plan).violation
    assert violation is not None
    assert violation.invariant == CAUGHT[mutant.name].invariant, violation
