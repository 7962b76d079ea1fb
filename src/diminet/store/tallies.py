"""How many there are, counted along with each change: nobody has to read them all to know."""

from collections import Counter
from collections.abc import Mapping
from typing import Literal

import sqlalchemy as sa

from diminet.store.rows import Rows
from diminet.store.tables import tallies

Bucket = tuple[str, str]  # services: type and status; blocks: owner, and POOLED or SPARE
Counted = Literal["services", "blocks"]
POOLED, SPARE = "pooled", "spare"


class Tallies(Rows):
    def _tally(self, what: Counted, changes: Mapping[Bucket, int]) -> None:
        """changes: how many more, or fewer. As few statements for many buckets as for one."""
        wanted = {bucket: more for bucket, more in changes.items() if more}
        if not wanted:
            return
        values = {"of": what, "ones": [first for first, _ in wanted]}
        known = {(first, second) for first, second in self._db.execute(_KNOWN, values)}
        rows = [
            {"of": what, "one": first, "other": second, "more": more}
            for (first, second), more in wanted.items()
        ]
        changed = [row for row in rows if (row["one"], row["other"]) in known]
        new = [row for row in rows if (row["one"], row["other"]) not in known]
        if changed:
            self._db.execute(_ADD, changed)
        if new:
            self._db.execute(_NEW, new)

    def _tallied(self, what: Counted) -> dict[Bucket, int]:
        return {(first, second): number for first, second, number in self._db.execute(_READ, {"of": what})}


def moved(before: Bucket | None, after: Bucket | None) -> Counter[Bucket]:
    """What one row's change adds; None: it was, or is, not counted."""
    changes = Counter[Bucket]()
    if before is not None:
        changes[before] -= 1
    if after is not None:
        changes[after] += 1
    return changes


_ADD = (
    tallies.update()
    .where(tallies.c.what == sa.bindparam("of"))
    .where(tallies.c.first == sa.bindparam("one"), tallies.c.second == sa.bindparam("other"))
    .values(number=tallies.c.number + sa.bindparam("more"))
)
_NEW = tallies.insert().values(
    what=sa.bindparam("of"),
    first=sa.bindparam("one"),
    second=sa.bindparam("other"),
    number=sa.bindparam("more"),
)
_KNOWN = sa.select(tallies.c.first, tallies.c.second).where(
    tallies.c.what == sa.bindparam("of"), tallies.c.first.in_(sa.bindparam("ones", expanding=True))
)
_READ = sa.select(tallies.c.first, tallies.c.second, tallies.c.number).where(
    tallies.c.what == sa.bindparam("of"), tallies.c.number > 0
)
