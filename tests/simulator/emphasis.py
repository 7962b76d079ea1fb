"""What users do more of than usual in a run, so that a certain corner is met within few seeds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

USUAL = MappingProxyType(
    {
        "create_l3": 5,
        "create_l2": 6,
        "join": 5,
        "leave": 4,
        "modify": 3,
        "delete": 3,
        "takeover": 2,
        "forget": 1,
        "leave_alone": 1,
        "boot": 12,
        "unboot": 3,
        "more_room": 2,
        "read": 3,
        "circle": 1,
        "not_theirs": 1,
    }
)


@dataclass(frozen=True)
class Emphasis:
    """weights: of the requests, by the name of the workload's method; what is not named is never asked for.
    limits: of all sites (engine.instance.Limits). To choose from: the number of sites, the policies of
    creates, the pace (mean seconds between two requests)."""

    weights: Mapping[str, int] = field(default_factory=lambda: USUAL)
    limits: Mapping[str, float] = field(default_factory=dict)
    sites: tuple[int, ...] = (2, 3, 3, 3, 4, 4, 5)
    policies: tuple[str, ...] = ("revoke", "revoke", "defer")
    pace: tuple[float, ...] = (0.1, 0.3, 1.0)


# Timers that are due less often: so many steps are more of virtual time, and more requests.
RARE = MappingProxyType({"deliver_interval": 2.0, "reconcile_interval": 10.0, "audit_interval": 30.0})


EMPHASES: Mapping[str, Emphasis] = MappingProxyType(
    {
        "": Emphasis(),
        "takeovers": Emphasis(
            weights={
                "create_l2": 4,
                "create_l3": 4,
                "takeover": 6,
                "both_halves": 12,
                "modify": 6,
                "delete": 1,
                "join": 2,
                "leave": 2,
                "leave_alone": 1,
            },
            limits=RARE,
            sites=(3, 3, 4),
            policies=("revoke", "defer"),
            pace=(0.1, 0.2),
        ),
        "late letters": Emphasis(  # promises that run out sooner than a slow request ends
            weights={"create_l3": 4, "join": 4, "again": 16, "delete": 1},
            limits={**RARE, "reservation_lifetime": 3.0},
            sites=(2, 3, 3),
            policies=("revoke", "defer"),
            pace=(0.1, 0.2),
        ),
        "endings": Emphasis(  # few identifiers, so that each is used again soon
            weights={"create_l2": 10, "create_l3": 6, "delete": 12, "takeover": 6, "modify": 2, "join": 2},
            limits={"vni_k_last": 3},
        ),
        "comings and goings": Emphasis(
            weights={
                "create_l2": 3,
                "create_l3": 3,
                "join": 14,
                "leave": 12,
                "leave_alone": 5,
                "modify": 5,
                "boot": 2,
            },
            sites=(3, 3, 4),
        ),
        "dry pools": Emphasis(
            weights={"create_l2": 6, "boot": 40, "unboot": 8, "more_room": 6, "join": 2, "leave": 1},
            limits={"pool_step": 1, "watermark": 1},
        ),
        "one side": Emphasis(
            weights={"create_l2": 5, "crowd": 40, "delete": 2},
            limits={**RARE, "pool_step": 1},
            sites=(2, 3),
            pace=(0.1, 0.2),
        ),
        "strangers": Emphasis(
            weights={"create_l3": 12, "not_theirs": 12, "modify": 1},
            limits=RARE,
            sites=(4, 5),
            pace=(0.1, 0.2),
        ),
        "routes": Emphasis(
            weights={"create_l3": 6, "rivals": 16, "delete": 1},
            limits={**RARE, "reservation_lifetime": 3.0},
            sites=(3, 3, 4),
            policies=("defer", "defer", "revoke"),
            pace=(0.2, 0.5),
        ),
        "changes": Emphasis(
            weights={"create_l2": 2, "create_l3": 6, "modify": 24, "join": 2, "leave": 2},
            limits=RARE,
            sites=(3, 3, 4),
            policies=("revoke",),
            pace=(0.1, 0.2),
        ),
    }
)
