"""How many services and blocks there are is counted along; what is revoked is found by its age."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

AT_WORK = ("live", "buried", "leaving")


def upgrade() -> None:
    op.create_table(
        "tallies",
        sa.Column("what", sa.String(length=16), nullable=False),
        sa.Column("first", sa.String(length=64), nullable=False),
        sa.Column("second", sa.String(length=32), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("what", "first", "second", name="pk_tallies"),
    )
    op.create_index("ix_services_status_changed_at", "services", ["status", "changed_at"])
    op.drop_index("ix_authorisations_at_service_id", "authorisations")
    _count()


def _count() -> None:
    db = op.get_bind()
    services = sa.table("services", *(sa.column(name) for name in ("type", "status", "stage")))
    blocks = sa.table("blocks", sa.column("owner"), sa.column("pooled", sa.Boolean))
    tallies = sa.table("tallies", *(sa.column(name) for name in ("what", "first", "second", "number")))
    kinds = (services.c.type, services.c.status)
    counted = sa.select(*kinds, sa.func.count()).where(services.c.stage.in_(AT_WORK)).group_by(*kinds)
    rows = [("services", kind, status, number) for kind, status, number in db.execute(counted)]
    owned = sa.select(blocks.c.owner, blocks.c.pooled, sa.func.count())
    for owner, pooled, number in db.execute(owned.group_by(blocks.c.owner, blocks.c.pooled)):
        rows.append(("blocks", owner, "pooled" if pooled else "spare", number))
    names = ("what", "first", "second", "number")
    if rows:
        db.execute(tallies.insert(), [dict(zip(names, row, strict=True)) for row in rows])


def downgrade() -> None:
    """Not supported: bring a backup back instead."""
    raise NotImplementedError("there is no way back to an older schema; restore a backup of it")
