"""What a restored database may not do yet is in rows: one for the site, one for each service; and it has a
key that proves what it has told of itself."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "fences",
        sa.Column("service_id", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("service_id", name="pk_fences"),
    )
    op.add_column("meta", sa.Column("key", sa.String(length=64), nullable=True))
    op.execute(sa.table("meta", sa.column("key")).update().values(key=secrets.token_hex(32)))
    with op.batch_alter_table("meta") as table:
        table.alter_column("key", existing_type=sa.String(length=64), nullable=False)


def downgrade() -> None:
    """Not supported: bring a backup back instead."""
    raise NotImplementedError("there is no way back to an older schema; restore a backup of it")
