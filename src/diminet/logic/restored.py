"""What a site may still believe of itself when its database is an older copy (docs/adr/0020). Pure.

Whatever it wrote and forgot has a number just above the copy's: of a block at most a few versions, of a
document's master an epoch. What it writes now leaves a gap of `GAP`, so that no number is used again.
"""

import hmac
from collections.abc import Iterable, Mapping

from diminet.logic import blocks as block_logic
from diminet.logic.blocks import Key, key
from diminet.model import Block, Document, Epoch

GAP = 1000


def recollect(own: Iterable[Block], told: Mapping[str, Iterable[Block]], site: str) -> tuple[Block, ...]:
    """The blocks of a service as they are. own: our copy's. told: by the other members, each all that it
    knows. Who says that a block is its own is right, since only it can have given it on; of what nobody
    else claims the highest version that anybody knows stands, whether it is ours or not."""
    claims: dict[Key, Block] = {}
    for teller, blocks in sorted(told.items()):
        for block in blocks:
            best = claims.get(key(block))
            if block.owner == teller != site and (best is None or block.version > best.version):
                claims[key(block)] = block
    known = block_logic.merge(own, (b for blocks in told.values() for b in blocks))
    return tuple(claims.get(key(block), block) for block in known)


def outbid(block: Block, site: str) -> Block:
    """Our own block under a version that we have not used yet."""
    return block.model_copy(update={"version": block.version + GAP, "giver": site})


def epoch_behind(document: Document, promised: Epoch | None) -> Epoch:
    """What to claim an epoch behind."""
    highest = max([document.epoch] if promised is None else [document.epoch, promised])
    return Epoch(highest.n + GAP, highest.site)


def is_behind_all(epoch: Epoch, document: Document, promised: Epoch | None) -> bool:
    """May a site that has forgotten votes vote for that epoch? If nothing that it forgot is as high: behind a
    gap, or behind a promise that was."""
    outbid = promised is not None and promised.n > document.epoch.n + GAP
    return epoch > promised if outbid and promised else epoch.n > epoch_behind(document, promised).n


def proof(key: str, writes: int) -> str:
    """HMAC-SHA256 (RFC 2104) of the count, in hexadecimal: others keep it and can give it back, but
    cannot make one for a higher count."""
    return hmac.digest(key.encode(), str(writes).encode(), "sha256").hex()


def is_older(key: str, writes: int, seen: int, seen_proof: str) -> bool:
    """Is a database of that key and so many writes an older copy of what somebody has seen of it? What it
    cannot have told counts for nothing."""
    return seen > writes and hmac.compare_digest(proof(key, seen), seen_proof)
