"""What a site does with the blocks of a service, whatever its type: merge, pool, give, count.

Owners give, nobody takes (DESIGN section 5): only `next_version`, called by the owner, makes a new
version (after a site is lost for good, an operator's word lets another write it); merging takes the
higher one, so the order in which news come does not matter.

`size` is the service type's block size of the block's CIDR, in addresses.
"""

import hashlib
from collections.abc import Iterable, Sequence

from diminet.errors import InvalidRequest
from diminet.logic.addressing import Cut, Span, coalesce, numbers_in, without
from diminet.logic.addressing import size as count_of
from diminet.model import Block, Document

Key = tuple[str, int]


def key(block: Block) -> Key:
    return (block.cidr, block.index)


def _rank(block: Block) -> tuple[int, str, str, tuple[str, ...]]:
    """Two honest versions of one number do not exist; the rest makes even a lie come out alike."""
    return (block.version, block.giver, block.owner, block.exclusions)


def merge(held: Iterable[Block], incoming: Iterable[Block]) -> tuple[Block, ...]:
    """Per (cidr, index) the higher version; sorted. Commutative, associative, idempotent."""
    best: dict[Key, Block] = {}
    for block in (*held, *incoming):
        other = best.get(key(block))
        if other is None or _rank(block) > _rank(other):
            best[key(block)] = block
    return tuple(best[k] for k in sorted(best))


def digest(blocks: Iterable[Block]) -> str:
    """The same at all sites that know the same versions, whatever the order; 32 hexadecimal digits."""
    lines = sorted(f"{b.cidr} {b.index} {b.version} {b.owner} {b.giver}" for b in blocks)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def next_version(block: Block, owner: str, giver: str | None = None) -> Block:
    """The block given to `owner`, by its present owner unless an operator's word says otherwise."""
    return block.model_copy(
        update={"owner": owner, "version": block.version + 1, "giver": giver or block.owner}
    )


def quarantined(document: Document, blocks: Iterable[Block]) -> tuple[Block, ...]:
    """Blocks whose owner is no longer a member and has not given them back: nobody may use them."""
    members = {member.site for member in document.members}
    return tuple(block for block in blocks if block.owner not in members)


def belongs(block: Block, size: int) -> bool:
    """Is it one of the blocks of that size that its CIDR is cut into? What peers send is asked this."""
    if size < 1:
        return False
    whole = Cut(block.cidr, size)
    try:
        excluded = numbers_in(block.cidr, block.exclusions)
    except InvalidRequest:
        return False
    return block.index < whole.count and all(whole.index_of(a) == block.index for a in excluded)


# -- their addresses -------------------------------------------------------------------------------


def addresses(block: Block, size: int) -> list[Span]:
    """What its owner may give to instances and gateways."""
    usable = Cut(block.cidr, size).usable(block.index)
    return without(usable, numbers_in(block.cidr, block.exclusions))


def in_use(block: Block, size: int, used: Iterable[str]) -> bool:
    """Is any of these addresses in the block (exclusions are not its owner's)?"""
    whole = Cut(block.cidr, size)
    taken = numbers_in(block.cidr, used) - numbers_in(block.cidr, block.exclusions)
    return any(whole.index_of(address) == block.index for address in taken)


def free(block: Block, size: int, used: Iterable[str]) -> int:
    """How many addresses of the block may still be given out."""
    return count_of(without(addresses(block, size), numbers_in(block.cidr, used)))


def room(pooled: Iterable[Block], size: int, used: Iterable[str]) -> int:
    """Free addresses in the pooled blocks of one CIDR. used: ports and gateways, in any block."""
    blocks = tuple(pooled)
    if not blocks:
        return 0
    spans = coalesce(span for block in blocks for span in addresses(block, size))
    return count_of(without(spans, numbers_in(blocks[0].cidr, used)))


def needs_more(free_addresses: int, watermark: int) -> bool:
    return free_addresses < watermark


# -- choosing --------------------------------------------------------------------------------------


def first_pool(owned: Sequence[Block], taken: Iterable[str], size: int) -> tuple[Block, ...]:
    """Which of a site's blocks of one CIDR to pool at first: about half, the first ones, with every
    block in which an address is taken (gateways, ports), so that no such block is ever spare; more if
    those have no address free."""
    taken = tuple(taken)
    ordered = sorted(owned, key=key)
    touched = _touched(ordered, taken, size)
    pooled = [b for b in ordered if key(b) in touched]
    fresh = [b for b in ordered if key(b) not in touched and addresses(b, size)]
    half = (len(pooled) + len(fresh) + 1) // 2
    pooled += fresh[: max(0, half - len(pooled))]
    if room(pooled, size, taken) == 0:
        pooled += [b for b in fresh if b not in pooled][:1]
    return tuple(sorted(pooled, key=key))


def _touched(blocks: Sequence[Block], taken: Iterable[str], size: int) -> frozenset[Key]:
    if not blocks:
        return frozenset()
    whole = Cut(blocks[0].cidr, size)
    numbers = numbers_in(whole.cidr, taken)
    touched = {whole.index_of(n) for n in numbers}
    return frozenset(
        key(b)
        for b in blocks
        if b.index in touched
        and any(whole.index_of(n) == b.index for n in numbers - numbers_in(whole.cidr, b.exclusions))
    )


def choose_spare(spare: Sequence[Block], count: int) -> tuple[Block, ...]:
    """Which spare blocks to pool next: the first ones, so that pools stay in one piece."""
    return tuple(sorted(spare, key=key)[:count])


def choose_gift(spare: Sequence[Block], count: int, *, keep_half: bool = True) -> tuple[Block, ...]:
    """Which spare blocks to give away: the last ones, those with exclusions last of all. keep_half: at
    most half of them, but one if there is one. The caller hands in only blocks without an address in use."""
    most = min(count, max(1, len(spare) // 2) if keep_half else count)
    ordered = sorted(spare, key=lambda b: (len(b.exclusions), b.cidr, -b.index))
    return tuple(ordered[:most])


def fair_share(blocks: Sequence[Block], members: int) -> int:
    """How many of all blocks of one CIDR a member may expect to own; at least one."""
    return max(1, len(blocks) // max(1, members))
