"""What this site remembers: SQLAlchemy Core tables, Alembic migrations, one transaction type.

SqlStore (store.py) fills `engine.ports.Store`; `upgrade` and `current` (schema.py) keep the schema;
`backup`, `restore` and `integrity` (backup.py) are the operator's.
"""

from diminet.store.backup import backup, integrity, restore
from diminet.store.schema import current, upgrade
from diminet.store.store import SqlStore

__all__ = ["SqlStore", "backup", "current", "integrity", "restore", "upgrade"]
