"""Another process on the same database: `URL NAME COUNT`. Raises revisions by compare-and-set and
prints, as JSON, those that it won."""

import asyncio
import json
import sys

from store_rows import document, pair, row

from diminet.store import SqlStore


async def main(url: str, name: str, count: int) -> None:
    store = SqlStore(url, storage_timeout_s=30.0)
    won = []
    for revision in range(1, count + 1):
        new = row(document(at=pair(revision + 1), name=name))
        if await store.write(lambda tx, new=new, r=revision: tx.save_service(new, expect=pair(r))):
            won.append(revision)
    store.close()
    print(json.dumps(won))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
