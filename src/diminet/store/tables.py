"""The tables. What is asked for by value is a column or a child table; the rest is JSON in `body`.

`service_resources`, `service_members` and `service_tags` are derived from the document whenever it is
saved and exist only to be searched. Rows that may come before the document (blocks, connections,
members, reservations, …) have no foreign key to it. Times are UTC epoch seconds. Any change here
needs a migration beside it: tests/store compares the two.
"""

import sqlalchemy as sa
from sqlalchemy.dialects.mysql import MEDIUMTEXT

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
    }
)

Body = sa.Text().with_variant(MEDIUMTEXT(), "mysql", "mariadb")  # TEXT ends at 64 KiB there
Serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite counts INTEGER keys only
Id = sa.String(64)
SiteName = sa.String(63)
Name = sa.String(255)
Cidr = sa.String(64)


def _service_id() -> "sa.Column[str]":
    return sa.Column("service_id", Id, primary_key=True)


def _derived_from_service() -> "sa.Column[str]":
    reference = sa.ForeignKey("services.id", ondelete="CASCADE")
    return sa.Column("service_id", Id, reference, primary_key=True)


def _flag(name: str) -> "sa.Column[bool]":
    return sa.Column(name, sa.Boolean, nullable=False, server_default=sa.false())


meta = sa.Table(
    "meta",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),  # always 1
    sa.Column("database_id", Id, nullable=False),
    sa.Column("incarnation", Id, nullable=False),
    sa.Column("writes", sa.BigInteger, nullable=False),
    sa.Column("key", sa.String(64), nullable=False),
)

services = sa.Table(
    "services",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("epoch_n", sa.BigInteger, nullable=False),
    sa.Column("epoch_site", sa.Integer, nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("type", sa.String(64), nullable=False),
    sa.Column("project_id", Name, nullable=False),
    sa.Column("name", Name, nullable=False),
    sa.Column("status", sa.String(32), nullable=False),
    sa.Column("stage", sa.String(16), nullable=False),  # services.Stage
    sa.Column("created_at", sa.Double, nullable=False),  # of the document: what users see and sort by
    sa.Column("updated_at", sa.Double, nullable=False),
    sa.Column("changed_at", sa.Double, nullable=False),  # of this row, by this site's clock
    _flag("pending"),  # at work, and what is here is not as the row says
    _flag("waiting"),  # live, and a member is deferred
    sa.Column("body", Body, nullable=False),
    sa.Index(None, "stage", "changed_at"),
    sa.Index(None, "pending"),
    sa.Index(None, "waiting"),
    sa.Index(None, "project_id", "stage", "status"),
    sa.Index(None, "status", "changed_at"),
    *(sa.Index(None, key, "id") for key in ("created_at", "updated_at", "name", "type", "status")),
    *(
        sa.Index(None, "project_id", key, "id")
        for key in ("created_at", "updated_at", "name", "type", "status")
    ),
)

service_resources = sa.Table(
    "service_resources",
    metadata,
    _derived_from_service(),
    sa.Column("site", SiteName, primary_key=True),
    sa.Column("resource_id", Name, primary_key=True),
    sa.Index(None, "site", "resource_id", "service_id"),
)

service_members = sa.Table(
    "service_members",
    metadata,
    _derived_from_service(),
    sa.Column("site", SiteName, primary_key=True),
    sa.Index(None, "site", "service_id"),
)

service_tags = sa.Table(
    "service_tags",
    metadata,
    _derived_from_service(),
    sa.Column("tag", Name, primary_key=True),
    sa.Index(None, "tag", "service_id"),
)

member_states = sa.Table(
    "member_states",
    metadata,
    _service_id(),
    sa.Column("site", SiteName, primary_key=True),
    sa.Column("clean", sa.Boolean, nullable=False),
    sa.Column("body", Body, nullable=False),
    sa.Index(None, "site", "service_id"),
    sa.Index(None, "clean", "service_id"),
)

connections = sa.Table(
    "connections",
    metadata,
    _service_id(),
    sa.Column("resource_id", Name, primary_key=True),
    sa.Column("body", Body, nullable=False),
)

reservations = sa.Table(
    "reservations",
    metadata,
    sa.Column("rid", Id, primary_key=True),
    sa.Column("network_id", Name, primary_key=True),
    sa.Column("service_id", Id, nullable=False, index=True),
    sa.Column("expires_at", sa.Double, nullable=False, index=True),
    sa.Column("body", Body, nullable=False),
    sa.Index(None, "network_id"),
)

authorisations = sa.Table(
    "authorisations",
    metadata,
    _service_id(),
    sa.Column("network_id", Name, primary_key=True),
    sa.Column("project_id", Name, primary_key=True),
    sa.Column("initiator", Body, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
)

blocks = sa.Table(
    "blocks",
    metadata,
    _service_id(),
    sa.Column("cidr", Cidr, primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("owner", SiteName, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("giver", SiteName, nullable=False),
    sa.Column("exclusions", Body, nullable=False),  # JSON list; "" for none, as most have
    sa.Column("pooled", sa.Boolean, nullable=False),
)

grants = sa.Table(
    "grants",
    metadata,
    _service_id(),
    sa.Column("requester", SiteName, primary_key=True),
    sa.Column("cidr", Cidr, primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("body", Body, nullable=False),
)

block_requests = sa.Table(
    "block_requests",
    metadata,
    _service_id(),
    sa.Column("peer", SiteName, primary_key=True),
    sa.Column("cidr", Cidr, primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("wanted", sa.Integer, nullable=False),
    sa.Column("pending", sa.Boolean, nullable=False),
)

intents = sa.Table("intents", metadata, _service_id(), sa.Column("body", Body, nullable=False))

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("peer", SiteName, primary_key=True),
    sa.Column("service_id", Id, primary_key=True),
    sa.Column("kind", sa.String(16), primary_key=True),
    sa.Column("rid", Id, primary_key=True),
    sa.Column("created_at", sa.Double, nullable=False, index=True),
    sa.Column("next_at", sa.Double, nullable=False, index=True),
    sa.Column("refusals", sa.Integer, nullable=False, server_default="0", index=True),
    sa.Column("body", Body, nullable=False),
    sa.Index(None, "service_id"),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("seq", Serial, primary_key=True),
    sa.Column("at", sa.Double, nullable=False, index=True),
    sa.Column("service_id", Id),
    sa.Column("project_id", Name),
    sa.Column("body", Body, nullable=False),
    sa.Index(None, "service_id", "seq"),
    sa.Index(None, "project_id", "seq"),
    sqlite_autoincrement=True,  # a number is never given twice: readers go on from the last they saw
)

idempotency = sa.Table(
    "idempotency",
    metadata,
    sa.Column("project_id", Name, primary_key=True),
    sa.Column("token", Name, primary_key=True),
    sa.Column("body_hash", sa.String(128), nullable=False),
    sa.Column("service_id", Id, nullable=False),
    sa.Column("at", sa.Double, nullable=False, index=True),
)

identifiers = sa.Table(
    "identifiers",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("service_id", Id, nullable=False, unique=True),
)

tallies = sa.Table(  # how many there are, kept along with each change
    "tallies",
    metadata,
    sa.Column("what", sa.String(16), primary_key=True),  # services, blocks
    sa.Column("first", sa.String(64), primary_key=True),  # type; owner
    sa.Column("second", sa.String(32), primary_key=True),  # status; pooled or spare
    sa.Column("number", sa.BigInteger, nullable=False),
)

peers = sa.Table(
    "peers", metadata, sa.Column("site", SiteName, primary_key=True), sa.Column("body", Body, nullable=False)
)

fences = sa.Table("fences", metadata, _service_id())  # "": of the site as a whole

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", Id, primary_key=True),
    sa.Column("holder", Name, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),
)
