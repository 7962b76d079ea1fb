"""What `diminet bench scale` found, as it is written to JSON. Seconds and bytes unless said."""

from typing import Literal

from diminet.model import Model

ServiceKind = Literal["l2", "l3"]


class Burst(Model):
    """`creates` at once. pattern: which sites they are of. refused: code -> how many. reserves: messages that
    were sent; needed: what one for each other site makes, so that the rest are retries."""

    pattern: str
    creates: int
    seconds: float
    p50: float
    p99: float
    refused: dict[str, int]
    reserves: int
    needed: int


class Wide(Model):
    """One service over `sites` real ones. seconds: of each create. messages: east-west ones of a create, by
    kind, without anti-entropy. vim_calls: of a create, over all members. rss: of the master."""

    kind: ServiceKind
    sites: int
    seconds: tuple[float, ...]
    messages: dict[str, float]
    vim_calls: float
    rss: int


class Simulated(Model):
    """One create over `sites` simulated ones. round_trips: of the WAN. statements: of SQL, at the master and
    at the member that had most. sent: bytes of all bodies. cpu: seconds of processor for all sites."""

    kind: ServiceKind
    sites: int
    round_trips: float
    messages: dict[str, int]
    sent: int
    master_statements: int
    member_statements: int
    cpu: float


class Cost(Model):
    """seconds: median. statements: of SQL; messages: to other sites."""

    seconds: float
    statements: int
    messages: int


class Crowd(Model):
    """An instance with so many services. start: until it answers. rss: when all had been asked. cpu: share
    of one core while nothing is asked. database: bytes. costs: by operation."""

    services: int
    start: float
    rss: int
    cpu: float
    database: int
    costs: dict[str, Cost]


class Scale(Model):
    """load: mean of the run queue over one minute, at the start and at the end. delay_ms: of the simulated
    WAN, one way. timeout: `request_timeout` of what was asked at once. failures: sentences."""

    command: str
    taken_at: str
    version: str
    machine: str
    load: tuple[float, float]
    delay_ms: float
    timeout: float
    bursts: tuple[Burst, ...]
    wide: tuple[Wide, ...]
    simulated: tuple[Simulated, ...]
    crowds: tuple[Crowd, ...]
    failures: tuple[str, ...] = ()
