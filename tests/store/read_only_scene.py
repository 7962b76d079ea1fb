"""A store on a file that may only be read, and then may be written again: `URL`. Prints what happened."""

import json
import sys
from pathlib import Path

from store_rows import read, row, save

from diminet.errors import DiminetError
from diminet.store import SqlStore


def main(url: str) -> None:
    path = Path(url.removeprefix("sqlite:///"))
    path.chmod(0o400)
    store = SqlStore(url)
    seen: dict[str, object] = {"read": read(store, lambda tx: tx.service("s1")) is None}
    try:
        save(store, row())
    except DiminetError as refusal:
        seen["refused"] = refusal.code
    for each in path.parent.glob(path.name + "*"):
        each.chmod(0o600)
    save(store, row())
    seen["mended"] = read(store, lambda tx: tx.service("s1")) == row()
    store.close()
    print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1])
