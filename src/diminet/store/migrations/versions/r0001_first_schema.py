"""The first schema."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import MEDIUMTEXT

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

BODY = sa.Text().with_variant(MEDIUMTEXT(), "mysql", "mariadb")
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "authorisations",
        sa.Column("service_id", sa.String(length=64), nullable=False),
        sa.Column("network_id", sa.String(length=255), nullable=False),
        sa.Column("project_id", sa.String(length=255), nullable=False),
        sa.Column("initiator", BODY, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("service_id", "network_id", "project_id", name="pk_authorisations"),
    )
    op.create_index("ix_authorisations_at_service_id", "authorisations", ["at", "service_id"])
    op.create_table(
        "block_requests",
        sa.Column("service_id", sa.String(length=64), nullable=False),
        sa.Column("peer", sa.String(length=63), nullable=False),
        sa.Column("cidr", sa.String(length=64), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("wanted", sa.Integer(), nullable=False),
        sa.Column("pending", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("service_id", "peer", "cidr", name="pk_block_requests"),
    )
    op.create_table(
        "blocks",
        sa.Column("service_id", sa.String(length=64), nullable=False),
        sa.Column("cidr", sa.String(length=64), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("owner", sa.String(length=63), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("giver", sa.String(length=63), nullable=False),
        sa.Column("exclusions", BODY, nullable=False),
        sa.Column("pooled", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("service_id", "cidr", "position", name="pk_blocks"),
    )
    op.create_table(
        "connections",
        sa.Column("service_id", sa.String(length=64), nullable=False),
        sa.Column("resource_id", sa.String(length=255), nullable=False),
        sa.Column("body", BODY, nullable=False),
        sa.PrimaryKeyConstraint("service_id", "resource_id", name="pk_connections"),
    )
    op.create_table(
        "events",
        sa.Column("seq", SERIAL, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("service_id", sa.String(length=64), nullable=True),
        sa.Column("project_id", sa.String(length=255), nullable=True),
        sa.Column("body", BODY, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_events"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_at", "events", ["at"])
    op.create_index("ix_events_project_id_seq", "events", ["project_id", "seq"])
    op.create_index("ix_events_service_id_seq", "events", ["service_id", "seq"])
    op.create_table(
        "grants",
        sa.Column("service_id", sa.String(length=64), nullable=False),
        sa.Column("requester", sa.String(length=63), nullable=False),
        sa.Column("cidr", sa.String(length=64), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("body", BODY, nullable=False),
        sa.PrimaryKeyConstraint("service_id", "requester", "cidr", "number", name="pk_grants"),
    )
    op.create_table(
        "idempotency",
        sa.Column("project_id", sa.String(length=255), nullable=False),
        sa.Column("token", sa.String(length=255), nullable=False),
        sa.Column("body_hash", sa.String(length=128), nullable=False),
        sa.Column("service_id", sa.String(length=64), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "token", name="pk_idempotency"),
    )
    op.create_index("ix_idempotency_at", "idempotency", ["at"])
    op.create_table(
        "identifiers",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("service_id", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_identifiers"),
        sa.UniqueConstraint("service_id", name="uq_identifiers_service_id"),
    )
    op.create_table(
        "intents",
        sa.Column("service_id", sa.String(length=64), nullable=False),
        sa.Column("body", BODY, nullable=False),
        sa.PrimaryKeyConstraint("service_id", name="pk_intents"),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("holder", sa.String(length=255), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
    )
    op.create_table(
        "member_states",
        sa.Column("service_id", sa.String(length=64), nullable=False),
        sa.Column("site", sa.String(length=63), nullable=False),
        sa.Column("clean", sa.Boolean(), nullable=False),
        sa.Column("body", BODY, nullable=False),
        sa.PrimaryKeyConstraint("service_id", "site", name="pk_member_states"),
    )
    op.create_index("ix_member_states_site_service_id", "member_states", ["site", "service_id"])
    op.create_table(
        "meta",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("database_id", sa.String(length=64), nullable=False),
        sa.Column("incarnation", sa.String(length=64), nullable=False),
        sa.Column("writes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_meta"),
    )
    op.create_table(
        "outbox",
        sa.Column("peer", sa.String(length=63), nullable=False),
        sa.Column("service_id", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("rid", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("next_at", sa.Double(), nullable=False),
        sa.Column("body", BODY, nullable=False),
        sa.PrimaryKeyConstraint("peer", "service_id", "kind", "rid", name="pk_outbox"),
    )
    op.create_index("ix_outbox_next_at", "outbox", ["next_at"])
    op.create_index("ix_outbox_service_id", "outbox", ["service_id"])
    op.create_table(
        "peers",
        sa.Column("site", sa.String(length=63), nullable=False),
        sa.Column("body", BODY, nullable=False),
        sa.PrimaryKeyConstraint("site", name="pk_peers"),
    )
    op.create_table(
        "reservations",
        sa.Column("rid", sa.String(length=64), nullable=False),
        sa.Column("network_id", sa.String(length=255), nullable=False),
        sa.Column("service_id", sa.String(length=64), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.Column("body", BODY, nullable=False),
        sa.PrimaryKeyConstraint("rid", "network_id", name="pk_reservations"),
    )
    op.create_index("ix_reservations_expires_at", "reservations", ["expires_at"])
    op.create_index("ix_reservations_network_id", "reservations", ["network_id"])
    op.create_index("ix_reservations_service_id", "reservations", ["service_id"])
    op.create_table(
        "services",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("epoch_n", sa.BigInteger(), nullable=False),
        sa.Column("epoch_site", sa.Integer(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("type", sa.String(length=64), nullable=False),
        sa.Column("project_id", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("status", sa.String(length=32), nullable=False),
        sa.Column("stage", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.Column("changed_at", sa.Double(), nullable=False),
        sa.Column("body", BODY, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_services"),
    )
    op.create_index("ix_services_created_at_id", "services", ["created_at", "id"])
    op.create_index("ix_services_name_id", "services", ["name", "id"])
    op.create_index("ix_services_project_id_created_at_id", "services", ["project_id", "created_at", "id"])
    op.create_index("ix_services_project_id_name_id", "services", ["project_id", "name", "id"])
    op.create_index("ix_services_project_id_status_id", "services", ["project_id", "status", "id"])
    op.create_index("ix_services_project_id_type_id", "services", ["project_id", "type", "id"])
    op.create_index("ix_services_project_id_updated_at_id", "services", ["project_id", "updated_at", "id"])
    op.create_index("ix_services_project_id_stage_status", "services", ["project_id", "stage", "status"])
    op.create_index("ix_services_stage_changed_at", "services", ["stage", "changed_at"])
    op.create_index("ix_services_status_id", "services", ["status", "id"])
    op.create_index("ix_services_type_id", "services", ["type", "id"])
    op.create_index("ix_services_updated_at_id", "services", ["updated_at", "id"])
    op.create_table(
        "service_members",
        sa.Column("service_id", sa.String(length=64), nullable=False),
        sa.Column("site", sa.String(length=63), nullable=False),
        sa.ForeignKeyConstraint(
            ["service_id"], ["services.id"], name="fk_service_members_services", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("service_id", "site", name="pk_service_members"),
    )
    op.create_index("ix_service_members_site_service_id", "service_members", ["site", "service_id"])
    op.create_table(
        "service_resources",
        sa.Column("service_id", sa.String(length=64), nullable=False),
        sa.Column("site", sa.String(length=63), nullable=False),
        sa.Column("resource_id", sa.String(length=255), nullable=False),
        sa.ForeignKeyConstraint(
            ["service_id"], ["services.id"], name="fk_service_resources_services", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("service_id", "site", "resource_id", name="pk_service_resources"),
    )
    op.create_index(
        "ix_service_resources_site_resource_id_service_id",
        "service_resources",
        ["site", "resource_id", "service_id"],
    )
    op.create_table(
        "service_tags",
        sa.Column("service_id", sa.String(length=64), nullable=False),
        sa.Column("tag", sa.String(length=255), nullable=False),
        sa.ForeignKeyConstraint(
            ["service_id"], ["services.id"], name="fk_service_tags_services", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("service_id", "tag", name="pk_service_tags"),
    )
    op.create_index("ix_service_tags_tag_service_id", "service_tags", ["tag", "service_id"])


def downgrade() -> None:
    """Not supported: bring a backup back instead."""
    raise NotImplementedError("there is no way back to an older schema; restore a backup of it")
