"""Results of a benchmark that nobody ran, for the tests of its page."""

from typing import Any

from diminet.bench.samples import FloorSample, Idle, Results, Sample


def sample(**given: Any) -> Sample:
    usual = {
        "kind": "l3",
        "operation": "create",
        "sites": 2,
        "delay_ms": 0.0,
        "data_plane": False,
        "receiver": "A",
        "seconds": 0.2,
        "steps": {"intent": 0.02, "reserve": 0.06, "spread": 0.1},
        "vim": 0.1,
        "vim_calls": {"connect": 2},
    }
    return Sample(**{**usual, **given})


def floor(**given: Any) -> FloorSample:
    usual = {"kind": "l3", "operation": "create", "sites": 2, "delay_ms": 0.0, "seconds": 0.1}
    return FloorSample(**{**usual, **given})


def some_results(**given: Any) -> Results:
    """L3 only, N of 2 and 6. Creates: 0.2 s against 0.1 s at N=2, 0.66 against 0.3 at N=6."""
    usual = {
        "command": "diminet bench create --seed 1",
        "taken_at": "2026-11-20T10:00:00+00:00",
        "version": "0.1.0",
        "machine": "2 processors",
        "load": (0.1, 0.9),
        "seed": 1,
        "runs": 1,
        "sites": (2, 6),
        "delays_ms": (0.0, 25.0),
        "samples": (
            sample(),
            sample(data_plane=True, seconds=0.4, first_ping=0.5),
            sample(delay_ms=25.0, seconds=0.3),
            sample(sites=6, seconds=0.66),
            sample(operation="delete", seconds=0.15, steps={}),
        ),
        "floor": (floor(), floor(sites=6, seconds=0.3), floor(delay_ms=25.0), floor(operation="delete")),
        "idle": (Idle(site="A", seconds=60.0, rss=124_000_000, pss=97_000_000, cpu=0.004, own_cpu=0.003),),
    }
    return Results(**{**usual, **given})
