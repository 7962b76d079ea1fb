"""The section `limits` of the settings: every time-out, size, rate and bound, with its unit."""

from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from diminet.config_values import DAY, KIB, MIB, Count, Seconds, SecondsOrNone, Section
from diminet.model import MAX_BLOCKS, MAX_MEMBERS


class LimitSettings(Section):
    """Time-outs, sizes, rates and bounds."""

    # time between instances
    sync_interval: Seconds = Field(10.0, description="seconds between exchanges with a peer")
    sync_entries: Count = Field(
        2000,
        description="shared services up to which one exchange of a pair of sites serves both (some 350 bytes "
        "of east_west_body_bytes each); with more, both ask",
    )
    outbox_backoff_first: Seconds = Field(
        0.5, description="seconds before the first repetition to a peer that did not answer; doubles"
    )
    outbox_backoff_most: Seconds = Field(
        10.0, description="seconds that it never exceeds; at most sync_interval"
    )
    refusal_backoff_most: Seconds = Field(
        300.0,
        description="seconds between questions to a deferred site that refuses, at most; at first "
        "sync_interval, then doubled",
    )
    request_timeout: Seconds = Field(10.0, description="seconds for a user's request, undo included")
    undo_share: float = Field(
        0.25, gt=0, lt=1, description="part of request_timeout that is kept for undoing a failed request"
    )
    busy_pause: Seconds = Field(0.05, description="seconds before a busy network is asked for again")
    confirm_delay: Seconds = Field(
        0.3, description="seconds after which a member asks the master whether all are active"
    )
    connect_timeout: Seconds = Field(3.0, description="seconds to open a connection to a peer")
    reservation_lifetime: Seconds = Field(
        30.0, description="seconds that a reservation lasts; more than request_timeout"
    )
    reconcile_interval: Seconds = Field(5.0, description="seconds between the reconciler's rounds")
    lease_lifetime: Seconds = Field(5.0, description="seconds that the reconciler's lease row lasts")
    shutdown_timeout: Seconds = Field(5.0, description="seconds that running requests get at a shutdown")
    # storage and VIM
    storage_timeout: Seconds = Field(5.0, description="seconds to wait for a locked database")
    vim_timeout: Seconds = Field(10.0, description="seconds for one call to the VIM or to FRR")
    # what is kept, and how long
    revoked_ttl: Seconds = Field(
        DAY, description="seconds that a revoked or deleted service is kept, and an idempotency key"
    )
    events_ttl: Seconds = Field(90 * DAY, description="seconds that events are kept")
    events_most: Count = Field(100_000, description="events that are kept at most")
    # bodies
    body_bytes: int = Field(MIB, ge=KIB, le=64 * MIB, description="bytes of a user's request body at most")
    east_west_body_bytes: int = Field(
        MIB, ge=64 * KIB, le=64 * MIB, description="bytes of a peer's message at most"
    )
    body_timeout: Seconds = Field(10.0, description="seconds in which a request body must have arrived")
    json_depth: int = Field(32, ge=8, le=200, description="nested brackets in a body at most")
    round_batch: Count = Field(
        200,
        description="services that one round of a background look takes (for overlaps and pools at each "
        "reconcile_interval, of the audit at each audit_interval); of more, the next ones in the next round",
    )
    # peers
    east_west_rate_per_second: float = Field(
        200.0, gt=0, le=1e6, allow_inf_nan=False, description="messages per second and peer"
    )
    east_west_rate_burst: Count = Field(1000, description="messages that a peer may send at once")
    peer_refusals_per_hour: Count = Field(
        100,
        description="refusals of one peer that are told in the history, which is bounded; all are counted",
    )
    # users
    services_per_project: Count = Field(100, description="quota: services of a project")
    members_per_service: int = Field(
        MAX_MEMBERS, ge=2, le=MAX_MEMBERS, description="quota: sites of a service"
    )
    blocks_per_project: Count = Field(100 * MAX_BLOCKS, description="quota: address blocks of a project")
    rate_per_second: float = Field(
        20.0, gt=0, le=1e6, allow_inf_nan=False, description="requests per second and project"
    )
    rate_burst: Count = Field(100, description="requests that a project may make at once")
    rate_table: Count = Field(10_000, description="projects and addresses whose rate is remembered")
    list_page: int = Field(100, ge=1, le=1000, description="services or events of a page without `limit`")
    list_page_most: int = Field(1000, ge=1, le=1000, description="highest `limit` that a user may ask for")
    streams: Count = Field(100, description="event streams open at once")
    stream_keepalive: Seconds = Field(
        15.0, description="seconds after which a silent event stream says a comment"
    )
    stream_poll: Seconds = Field(
        1.0, description="seconds after which an event stream looks again although nothing was told it"
    )
    readiness_timeout: Seconds = Field(5.0, description="seconds for the checks of /readyz")
    connections: Count = Field(1000, description="requests in work at once on one port; more get 503")
    # L2 addresses
    settle_interval: SecondsOrNone | None = Field(
        None,
        description="seconds to wait between two looks for ports before a pooled block is given away, and "
        "before a network is stretched where the VIM cannot tell whether ports are in the making; default: "
        "0 on linux, 1 on neutron",
    )
    audit_interval: Seconds = Field(
        10.0, description="seconds between two comparisons of the VIM with what the services say"
    )
    audit_ports: Count = Field(4096, description="ports of a service and site that a comparison tells of")
    block_watermark: Seconds = Field(
        30.0, description="seconds ahead of running dry at block_rate_per_second when a pool grows"
    )
    block_rate_per_second: float = Field(
        1.0, gt=0, le=1e4, allow_inf_nan=False, description="addresses per second that a pool must sustain"
    )
    blocks_per_request: int = Field(
        4, ge=1, le=MAX_BLOCKS, description="blocks asked of another site at once"
    )

    @field_validator("list_page_most")
    @classmethod
    def _page(cls, most: int, info: Any) -> int:
        if most < info.data.get("list_page", 1):
            raise ValueError("list_page_most is below list_page: raise it or lower list_page")
        return most

    @model_validator(mode="after")
    def _times_fit(self) -> Self:
        if self.outbox_backoff_most > self.sync_interval:
            raise ValueError("outbox_backoff_most exceeds sync_interval: lower it")
        if self.refusal_backoff_most < self.sync_interval:
            raise ValueError("refusal_backoff_most is below sync_interval: raise it")
        if self.outbox_backoff_first > self.outbox_backoff_most:
            raise ValueError("outbox_backoff_first exceeds outbox_backoff_most: lower it")
        if self.reservation_lifetime <= self.request_timeout:
            raise ValueError("reservation_lifetime must be more than request_timeout: raise it")
        return self
