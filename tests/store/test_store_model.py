"""The store against plain dicts, over any order of operations, with transactions that fail half-way."""

from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from store_rows import document, held, intent, letter, pair, read, row, write

from diminet.engine.ports import HeldBlock, IntentRow, OutboxRow, ServiceRow, Tx
from diminet.model import Pair, ProvisioningStatus
from diminet.store import SqlStore

SERVICES = ("s1", "s2", "s3")
SITES = ("lyon", "nice", "paris")
NETWORKS = ("n1", "n2")

service_ids = st.sampled_from(SERVICES)
resources = st.lists(st.tuples(st.sampled_from(SITES), st.sampled_from(NETWORKS)), max_size=4, unique=True)
pairs = st.builds(pair, st.integers(1, 3), st.integers(1, 2))
service_rows = st.builds(
    lambda service_id, at, uses, dead, settled, status, tags: row(
        document(service_id, at, resources=tuple(uses), tombstone=dead, tags=tuple(tags)),
        settled=settled,
        status=status,
    ),
    service_ids,
    pairs,
    resources,
    st.booleans(),
    st.booleans(),
    st.sampled_from(ProvisioningStatus),
    st.lists(st.sampled_from("ab"), max_size=2),
)
held_blocks = st.lists(
    st.builds(
        held,
        st.integers(0, 3),
        st.integers(1, 4),
        owner=st.sampled_from(SITES),
        pooled=st.booleans(),
        exclusions=st.sampled_from([(), ("10.1.0.1",)]),
    ),
    max_size=6,
)
letters = st.builds(
    letter,
    st.sampled_from(SITES),
    service_ids,
    st.sampled_from(["document", "tombstone", "abort"]),
    created_at=st.sampled_from([1.0, 2.0]),
    next_at=st.sampled_from([1.0, 2.0, 3.0]),
)


class Undone(Exception):
    """A decision that goes wrong after it has written."""


class AgainstDicts(RuleBasedStateMachine):
    @initialize()
    def open(self) -> None:
        self.store = SqlStore("sqlite://", threaded=False)
        self.services: dict[str, ServiceRow] = {}
        self.blocks: dict[tuple[str, int], HeldBlock] = {}
        self.intents: dict[str, IntentRow] = {}
        self.outbox: dict[tuple[str, str, str, str], OutboxRow] = {}

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()

    def do(self, change: Callable[[Tx], Any], fails: bool) -> tuple[bool, Any]:
        """Whether it was kept, and what it gave."""

        def decide(tx: Tx) -> Any:
            given = change(tx)
            if fails:
                raise Undone
            return given

        try:
            return True, write(self.store, decide)
        except Undone:
            return False, None

    @rule(new=service_rows, expect=st.none() | pairs, fails=st.booleans())
    def save_service(self, new: ServiceRow, expect: Pair | None, fails: bool) -> None:
        kept, done = self.do(lambda tx: tx.save_service(new, expect=expect), fails)
        old = self.services.get(new.document.service_id)
        if expect is None:
            fits = old is None
        else:
            fits = old is not None and old.document.pair == expect
            fits = fits and (new.document.tombstone or not old.document.tombstone)
        if kept:
            assert done == fits
            if fits:
                self.services[new.document.service_id] = new

    @rule(service_id=service_ids, fails=st.booleans())
    def delete_service(self, service_id: str, fails: bool) -> None:
        kept, _ = self.do(lambda tx: tx.delete_service(service_id), fails)
        if kept:
            self.services.pop(service_id, None)
            self.intents.pop(service_id, None)
            self.blocks = {key: block for key, block in self.blocks.items() if key[0] != service_id}
            self.outbox = {k: v for k, v in self.outbox.items() if k[1:3] != (service_id, "document")}

    @rule(service_id=service_ids, offered=held_blocks, fails=st.booleans())
    def put_blocks(self, service_id: str, offered: list[HeldBlock], fails: bool) -> None:
        kept, _ = self.do(lambda tx: tx.put_blocks(service_id, offered), fails)
        for each in offered if kept else ():
            key = (service_id, each.block.index)
            if key not in self.blocks or each.block.version >= self.blocks[key].block.version:
                self.blocks[key] = each

    @rule(posted=letters, fails=st.booleans())
    def post(self, posted: OutboxRow, fails: bool) -> None:
        kept, _ = self.do(lambda tx: tx.post(posted), fails)
        if kept:
            key = (posted.peer, posted.service_id, posted.kind, posted.rid)
            first = self.outbox.get(key, posted)
            self.outbox[key] = posted.model_copy(update={"created_at": first.created_at})

    @rule(posted=letters, fails=st.booleans())
    def unpost(self, posted: OutboxRow, fails: bool) -> None:
        kept, _ = self.do(lambda tx: tx.unpost(posted), fails)
        if kept:
            self.outbox.pop((posted.peer, posted.service_id, posted.kind, posted.rid), None)

    @rule(service_id=service_ids, operation=st.sampled_from(["create", "delete"]), fails=st.booleans())
    def add_intent(self, service_id: str, operation: str, fails: bool) -> None:
        new = intent(service_id, operation=operation)
        kept, done = self.do(lambda tx: tx.add_intent(new), fails)
        if kept:
            assert done == (service_id not in self.intents)
            self.intents.setdefault(service_id, new)

    @rule(service_id=service_ids, fails=st.booleans())
    def delete_intent(self, service_id: str, fails: bool) -> None:
        kept, _ = self.do(lambda tx: tx.delete_intent(service_id), fails)
        if kept:
            self.intents.pop(service_id, None)

    @invariant()
    def the_same_is_there(self) -> None:
        read(self.store, self.compare)

    def compare(self, tx: Tx) -> None:
        for service_id in SERVICES:
            assert tx.service(service_id) == self.services.get(service_id)
            mine = sorted(key for key in self.blocks if key[0] == service_id)
            assert tx.blocks(service_id) == [self.blocks[key] for key in mine]
        assert {each.service_id: each for each in tx.intents()} == self.intents
        found = {(each.peer, each.service_id, each.kind, each.rid): each for each in tx.outbox()}
        assert found == self.outbox
        for site in SITES:
            assert ids(tx.services_shared_with(site)) == self.where(lambda d, s=site: d.member(s) is not None)
            for network in NETWORKS:
                expected = self.where(
                    lambda d, s=site, n=network: (
                        not d.tombstone and any(r.resource_id == n for r in d.resources_of(s))
                    )
                )
                assert ids(tx.services_of_network(site, network)) == expected

    def where(self, holds: Callable[[Any], bool]) -> list[str]:
        return sorted(key for key, each in self.services.items() if holds(each.document))


def ids(rows: list[ServiceRow]) -> list[str]:
    return [each.document.service_id for each in rows]


TestAgainstDicts = AgainstDicts.TestCase
TestAgainstDicts.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
