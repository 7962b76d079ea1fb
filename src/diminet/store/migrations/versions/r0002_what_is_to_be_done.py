"""What the background work looks for is in columns: it reads the services that it concerns only."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

PAGE = 500  # rows read at once
AT_WORK = ("live", "buried", "leaving")


def upgrade() -> None:
    for column in ("pending", "waiting"):
        op.add_column("services", sa.Column(column, sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("outbox", sa.Column("refusals", sa.Integer(), nullable=False, server_default="0"))
    op.create_index("ix_services_pending", "services", ["pending"])
    op.create_index("ix_services_waiting", "services", ["waiting"])
    op.create_index("ix_member_states_clean_service_id", "member_states", ["clean", "service_id"])
    op.create_index("ix_outbox_refusals", "outbox", ["refusals"])
    op.create_index("ix_outbox_created_at", "outbox", ["created_at"])
    _derive_services()
    _derive_outbox()


def _derive_services() -> None:
    db = op.get_bind()
    table = sa.table(
        "services",
        sa.column("id", sa.String),
        sa.column("stage", sa.String),
        sa.column("body", sa.Text),
        sa.column("pending", sa.Boolean),
        sa.column("waiting", sa.Boolean),
    )
    last = ""
    page = sa.select(table.c.id, table.c.stage, table.c.body).order_by(table.c.id).limit(PAGE)
    while rows := db.execute(page.where(table.c.id > last)).all():
        for service_id, stage, body in rows:
            row = json.loads(body)
            document = row["document"]
            pair = [document["epoch"], document["revision"]]
            values = {
                "pending": stage in AT_WORK and row.get("applied") != pair,
                "waiting": stage == "live" and any(m.get("deferred") for m in document["members"]),
            }
            db.execute(table.update().where(table.c.id == service_id).values(**values))
        last = rows[-1][0]


def _derive_outbox() -> None:
    db = op.get_bind()
    columns = ("peer", "service_id", "kind", "rid")
    table = sa.table("outbox", *(sa.column(name) for name in (*columns, "refusals", "body")))
    for *key, body in db.execute(sa.select(*(table.c[name] for name in columns), table.c.body)).all():
        these = [table.c[name] == value for name, value in zip(columns, key, strict=True)]
        refusals = json.loads(body).get("refusals", 0)
        db.execute(table.update().where(*these).values(refusals=refusals))


def downgrade() -> None:
    """Not supported: bring a backup back instead."""
    raise NotImplementedError("there is no way back to an older schema; restore a backup of it")
