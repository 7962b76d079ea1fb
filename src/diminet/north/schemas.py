"""What users send and get, as `/openapi.json` describes it."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from diminet.messages import Change, CreateRequest
from diminet.model import MAX_MEMBERS, Entry, OperatingStatus, ProvisioningStatus, SiteName

MAX_NAME = 255  # characters
MAX_DESCRIPTION = 1024  # characters
MAX_TAGS = 50
MAX_TAG = 60  # characters
MAX_ENTRIES = 4 * MAX_MEMBERS
MAX_PARAMS = 16
PLAIN = r"^[^\x00-\x1f\x7f]*$"  # no control characters
TEXT = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$"  # none but tab and line ends

Name = Annotated[str, StringConstraints(max_length=MAX_NAME, pattern=PLAIN)]
Description = Annotated[str, StringConstraints(max_length=MAX_DESCRIPTION, pattern=TEXT)]
Tag = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TAG, pattern=r"^[^\x00-\x1f\x7f,/]+$")]
Tags = Annotated[tuple[Tag, ...], Field(max_length=MAX_TAGS, json_schema_extra={"uniqueItems": True})]
NetworkId = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[A-Za-z0-9._:-]+$")]
ServiceType = Literal["l2", "l3"]
OnUnreachable = Literal["revoke", "defer"]


class Asked(BaseModel):
    """A part of a request: what it does not know, it refuses."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class EntryAsked(Asked):
    """A network of a site. An L2 entry without `resource_id` lets that site create network and subnet."""

    site: SiteName
    resource_id: NetworkId | None = None
    resource_type: Literal["network"] = "network"

    def entry(self) -> Entry:
        return Entry(site=self.site, resource_id=self.resource_id)


Entries = Annotated[
    tuple[EntryAsked, ...],
    Field(min_length=2, max_length=MAX_ENTRIES, json_schema_extra={"uniqueItems": True}),
]


class ServiceAsked(Asked):
    type: ServiceType = Field(description="l2: one stretched network; l3: routing between networks")
    name: Name = ""
    description: Description = ""
    tags: Tags = ()
    on_unreachable: OnUnreachable = Field("revoke", description="what happens when a site does not answer")
    resources: Entries = Field(description="two or more distinct entries, the asked site among them")
    params: dict[str, Any] = Field(
        default={},
        max_length=MAX_PARAMS,
        description="L2: `gateway` (local, shared, none), `block_size` (addresses, a power of two)",
    )

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        _check_distinct(self.tags, "tags")
        _check_distinct([entry.entry().key for entry in self.resources], "resources")
        return self


class CreateAsked(Asked):
    service: ServiceAsked

    def request(self) -> CreateRequest:
        asked = self.service
        return CreateRequest(
            type=asked.type,
            name=asked.name,
            description=asked.description,
            tags=asked.tags,
            on_unreachable=asked.on_unreachable,
            resources=tuple(entry.entry() for entry in asked.resources),
            params=asked.params,
        )


class ServiceChange(Asked):
    """Absent fields stay as they are; `resources` is the whole new list and needs If-Match."""

    name: Name | None = None
    description: Description | None = None
    tags: Tags | None = None
    on_unreachable: OnUnreachable | None = None
    resources: Entries | None = None

    @model_validator(mode="before")
    @classmethod
    def _mutable(cls, content: Any) -> Any:
        fixed = sorted({"type", "params"} & set(content)) if isinstance(content, dict) else []
        if fixed:
            raise ValueError(
                f"{' and '.join(fixed)} cannot be changed: leave it out, or create a new service"
            )
        nulls = [key for key, value in content.items() if value is None] if isinstance(content, dict) else []
        if nulls:
            raise ValueError(f"{nulls[0][:80]} is null: leave it out to keep it as it is")
        return content

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        _check_distinct(self.tags or (), "tags")
        _check_distinct([entry.entry().key for entry in self.resources or ()], "resources")
        return self


class ModifyAsked(Asked):
    service: ServiceChange

    def change(self, if_match: str | None) -> Change:
        asked = self.service
        return Change(
            operation="modify",
            if_match=if_match,
            name=asked.name,
            description=asked.description,
            tags=asked.tags,
            on_unreachable=asked.on_unreachable,
            resources=None if asked.resources is None else tuple(e.entry() for e in asked.resources),
        )


class JoinAsked(Asked):
    resource: EntryAsked
    via: SiteName | None = Field(None, description="a member, where the asked site is not one yet")


class PoolAsked(Asked):
    """Nothing to choose."""


class TakeoverWish(Asked):
    gone: Annotated[
        tuple[SiteName, ...], Field(max_length=MAX_MEMBERS, json_schema_extra={"uniqueItems": True})
    ] = Field((), description="members that you declare lost for good: they need not vote")

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        _check_distinct(self.gone, "gone")
        return self


class TakeoverAsked(Asked):
    takeover: TakeoverWish


class ForgetWish(Asked):
    site: SiteName = Field(description="a site whose database is destroyed")


class ForgetAsked(Asked):
    forget: ForgetWish


class MoreRoomAsked(Asked):
    pool: PoolAsked


def _check_distinct(items: Any, what: str) -> None:
    if len(set(items)) != len(items):
        raise ValueError(f"{what} has an entry twice: keep one of each")


# -- answers ---------------------------------------------------------------------------------------


class Told(BaseModel):
    """A part of an answer."""


class Range(Told):
    start: str
    end: str


class SubnetTold(Told):
    cidr: str
    gateway_ip: str | None
    allocation_pools: list[Range] | None = Field(description="null where another site gives the addresses")
    used: int | None
    blocks: dict[str, int] = Field(description="blocks of the answering site: pooled, spare")


class ResourceTold(Told):
    site: str
    resource_id: str | None = Field(description="null while a deferred site has not made its network")
    resource_type: str
    made: bool = Field(description="created by DIMINET")
    provisioning_status: ProvisioningStatus
    operating_status: OperatingStatus
    seen_at: str | None = Field(description="when the statuses were last heard, RFC 3339 UTC")
    status_age: float | None = Field(description="seconds since then")
    fault: str | None
    subnets: list[SubnetTold]


class Fault(Told):
    code: str
    message: str
    sites: list[str]


class IdentifiersTold(Told):
    vni: int
    route_targets: dict[str, str] = Field(description="site -> the route target that it exports")


class ServiceTold(Told):
    id: str
    name: str
    description: str
    type: str
    project_id: str
    tags: list[str]
    on_unreachable: str
    params: dict[str, Any]
    master: str | None
    epoch: list[int] = Field(description="[count, number of the site that claimed it]")
    revision: int
    provisioning_status: ProvisioningStatus
    operating_status: OperatingStatus
    created_at: str
    updated_at: str
    synced_at: str | None
    warnings: list[str]
    fault: Fault | None
    waiting: list[str] = Field(description="sites that have not been reached yet")
    resources: list[ResourceTold]
    connections: list[dict[str, Any]] | None = Field(None, description="admin only: of the answering site")
    identifiers: IdentifiersTold | None = Field(None, description="admin only")


class ServiceAnswer(Told):
    service: ServiceTold


class Link(Told):
    rel: Literal["next"]
    href: str


class ServicesAnswer(Told):
    services: list[ServiceTold]
    services_links: list[Link]


class EventTold(Told):
    id: int
    at: str
    kind: str
    service_id: str | None
    project_id: str | None
    request_id: str | None
    user_id: str | None
    site: str | None
    detail: dict[str, Any]


class EventsAnswer(Told):
    events: list[EventTold]
    events_links: list[Link]


class SiteTold(Told):
    name: str
    reachable: bool | None = Field(description="null where no service is shared")
    last_seen: str | None
    number: int | None = Field(None, description="admin only")
    protocol: str | None = Field(None, description="admin only")
    north_url: str | None = Field(None, description="admin only")
    east_west_url: str | None = Field(None, description="admin only")


class SitesAnswer(Told):
    sites: list[SiteTold]


class ErrorTold(Told):
    code: str
    status: int
    title: str
    message: str
    request_id: str
    sites: list[str]


class ErrorAnswer(Told):
    error: ErrorTold


class ProblemAnswer(Told):
    """RFC 9457, with Accept: application/problem+json."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    sites: list[str]


class ReadyAnswer(Told):
    ready: bool
    failing: list[str]


class VersionLink(Told):
    rel: str
    href: str


class Version(Told):
    id: str
    status: str
    version: str
    min_version: str
    links: list[VersionLink]


class VersionsAnswer(Told):
    versions: list[Version]
