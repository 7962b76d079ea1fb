"""Several sites deal, give, grow, join, leave and vanish while the news of it comes late, doubled, out of
order or not at all: no address is ever at two sites (invariant 1; the way Weave's IPAM is tested)."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from logic_cases import (
    addresses_in,
    document,
    draft,
    given,
    made,
    network,
    pools_of,
    port,
    request,
    reservation,
    subnet,
)

from diminet.errors import PoolExhausted
from diminet.logic import addressing
from diminet.logic import blocks as block_logic
from diminet.logic.l2 import L2
from diminet.logic.lifecycle import believe
from diminet.logic.service_type import Draft
from diminet.model import Block, Entry, Member

CIDR = "10.0.0.0/26"
NUMBERS = {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}
MASTER = "a"
L2_TYPE = L2()


class Place:
    """A site: what it knows, what it has pooled, and which addresses its instances have."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.known: dict[tuple[str, int], Block] = {}
        self.pooled: set[tuple[str, int]] = set()
        self.ports: set[int] = set()
        self.gateway: int | None = None

    def owned(self) -> list[Block]:
        return [b for b in self.known.values() if b.owner == self.name]

    def in_pool(self) -> list[Block]:
        return [b for b in self.owned() if block_logic.key(b) in self.pooled]

    def spare(self) -> list[Block]:
        return [b for b in self.owned() if block_logic.key(b) not in self.pooled]

    def write(self, blocks: tuple[Block, ...]) -> None:
        for b in blocks:
            self.known[block_logic.key(b)] = b


class Wandering(RuleBasedStateMachine):
    @initialize(
        size=st.sampled_from([None, 1, 2, 4]),
        used=st.sets(st.integers(2, 61), max_size=20),
        late=st.lists(st.integers(0, 99), max_size=5),
    )
    def create(self, size, used, late):
        """a, with instances already and more of them while the create runs, joins b and c to itself."""
        params = {"gateway": "local"} | ({"block_size": size} if size else {})
        net = network("na", subnet(CIDR, "10.0.0.1"))
        low = addressing.span_of(CIDR)[0]
        ports = [port(addressing.text(low + n, 4)) for n in sorted(used)]
        asked = request("a", ("a", "b", "c"), L2_TYPE.wanted([net], params, None), "na", params)
        narrowed = L2_TYPE.narrow(net, ports, asked, "a")
        free = sorted(addresses_in(narrowed[0].pools) - {addressing.number(p.ip) for p in ports})
        facts = {"a": given(net, *ports, narrowed=narrowed), "b": made("nb"), "c": made("nc")}
        plan = draft(facts, params=params)
        decision = L2_TYPE.decide(plan)
        self.document = document("l2", decision, plan.members)
        self.places = {name: Place(name) for name in NUMBERS}
        self.away: set[str] = set()  # removed without knowing it
        self.news: list[tuple[str, tuple[Block, ...]]] = []
        self.size = L2_TYPE.block_size(self.document, CIDR)
        origin = self.places["a"]
        origin.ports = {addressing.number(p.ip) for p in ports}
        origin.ports |= {free[pick % len(free)] for pick in late} if free else set()
        for name in "abc":
            self.places[name].write(decision.blocks)
            self.take_part(name)

    def members(self) -> list[str]:
        return [m.site for m in self.document.members]

    def attached(self) -> list[Place]:
        return [self.places[name] for name in (*self.members(), *self.away)]

    def take_part(self, name: str) -> None:
        place = self.places[name]
        gateway = self.document.resources_of(name)[0].subnets[0].gateway_ip
        assert gateway is not None
        place.gateway = addressing.number(gateway)
        taken = [addressing.text(n, 4) for n in {*place.ports, place.gateway}]
        place.pooled = {block_logic.key(b) for b in block_logic.first_pool(place.owned(), taken, self.size)}

    @rule(name=st.sampled_from("abcde"), pick=st.integers(0, 99))
    def boot(self, name, pick):
        """An instance takes any free address of its site's pool; a dry pool first takes in spare."""
        place = self.places[name]
        if place not in self.attached():
            return
        if not self.free(place):
            more = block_logic.choose_spare(place.spare(), 2)
            place.pooled |= {block_logic.key(b) for b in more}
        free = self.free(place)
        if free:
            place.ports.add(free[pick % len(free)])

    def free(self, place: Place) -> list[int]:
        resource = self.document.resources[0].model_copy(update={"site": place.name})
        shapes = L2_TYPE.shapes(self.document, resource, place.in_pool())
        pool = {n for shape in shapes for n in addresses_in(shape.pools)}
        return sorted(pool - place.ports - {place.gateway})

    @rule(name=st.sampled_from("abcde"), pick=st.integers(0, 99))
    def destroy(self, name, pick):
        ports = sorted(self.places[name].ports)
        if ports:
            self.places[name].ports.discard(ports[pick % len(ports)])

    @rule(giver=st.sampled_from("abcde"), asker=st.sampled_from("abcde"), count=st.integers(1, 8))
    def ask(self, giver, asker, count):
        """The gift is durable at the giver; whether and when the asker hears of it is another matter."""
        if giver == asker or not {giver, asker} <= set(self.members()):
            return
        owner = self.places[giver]
        gift = tuple(
            block_logic.next_version(b, asker) for b in block_logic.choose_gift(owner.spare(), count)
        )
        owner.write(gift)
        self.news.append((giver, gift))

    @rule(name=st.sampled_from("abcde"), count=st.integers(1, 3))
    def unpool(self, name, count):
        """Blocks without an address in use come out of the pool, to be given."""
        place = self.places[name]
        taken = [addressing.text(n, 4) for n in {*place.ports, place.gateway} if n is not None]
        idle = [b for b in place.in_pool() if not block_logic.in_use(b, self.size, taken)]
        place.pooled -= {block_logic.key(b) for b in idle[:count]}

    @precondition(lambda self: self.news)
    @rule(pick=st.integers(0, 999), name=st.sampled_from("abcde"))
    def hear(self, pick, name):
        sender, blocks = self.news[pick % len(self.news)]
        self.learn(name, sender, blocks)

    @rule(name=st.sampled_from("abcde"), peer=st.sampled_from("abcde"))
    def synchronise(self, name, peer):
        if name != peer and {name, peer} <= set(self.members()):
            self.learn(name, peer, tuple(self.places[peer].known.values()))

    def learn(self, name: str, sender: str, blocks: tuple[Block, ...]) -> None:
        place = self.places[name]
        for b in blocks:
            if believe(place.known.get(block_logic.key(b)), b, sender, name, self.document):
                place.write((b,))

    @rule(name=st.sampled_from("bcde"))
    def join(self, name):
        if name in self.members():
            return
        before, master = self.document, self.places[MASTER]
        newcomer = Member(site=name, number=NUMBERS[name], slot=NUMBERS[name])
        entries = [Entry(site=r.site, resource_id=r.resource_id) for r in before.resources]
        plan = Draft(
            service_id="s",
            master=MASTER,
            members=(*before.members, newcomer),
            entries=(*entries, Entry(site=name)),
            params=before.params,
            reservations={name: reservation(name, NUMBERS[name], made(f"n{name}"))},
            before=before,
            blocks=tuple(master.known.values()),
            spare=tuple(master.spare()),
        )
        try:
            decision = L2_TYPE.decide(plan)
        except PoolExhausted:
            return
        master.write(decision.gives)
        place = self.places[name]
        place.ports, place.pooled = set(), set()
        self.away.discard(name)
        self.document = before.model_copy(
            update={"members": plan.members, "resources": decision.resources, "revision": before.revision + 1}
        )
        self.learn(name, MASTER, tuple(master.known.values()))
        self.take_part(name)

    @rule(name=st.sampled_from("bcde"))
    def leave(self, name):
        """Acknowledged: its networks are down, its blocks are the master's, who may hear it later."""
        if name not in self.members():
            return
        place = self.places[name]
        back = tuple(block_logic.next_version(b, MASTER) for b in place.owned())
        place.ports, place.pooled, place.gateway = set(), set(), None
        place.write(back)
        self.news.append((name, back))
        self.remove(name)

    @rule(name=st.sampled_from("bcde"))
    def vanish(self, name):
        """Removed while it cannot be reached: it goes on with what it owns, which is in quarantine."""
        if name in self.members():
            self.remove(name)
            self.away.add(name)

    def remove(self, name: str) -> None:
        self.document = self.document.model_copy(
            update={
                "members": tuple(m for m in self.document.members if m.site != name),
                "resources": tuple(r for r in self.document.resources if r.site != name),
                "revision": self.document.revision + 1,
            }
        )

    @invariant()
    def no_block_has_two_owners_who_think_so(self):
        if not hasattr(self, "places"):
            return
        seen: set[tuple[str, int]] = set()
        for place in self.places.values():
            own = {block_logic.key(b) for b in place.owned()}
            assert not own & seen
            seen |= own

    @invariant()
    def no_address_is_at_two_sites(self):
        if not hasattr(self, "places"):
            return
        seen: set[int] = set()
        for place in self.attached():
            here = place.ports | {place.gateway}
            assert not here & seen
            seen |= here

    @invariant()
    def what_is_in_quarantine_is_nobodys_else(self):
        if not hasattr(self, "places"):
            return
        master = self.places[MASTER]
        held = block_logic.quarantined(self.document, master.known.values())
        for block in held:
            assert all(block not in self.places[name].owned() for name in self.members())

    @invariant()
    def the_masters_pool_has_nothing_of_others(self):
        if not hasattr(self, "places"):
            return
        mine = pools_of(self.document, tuple(self.places[MASTER].in_pool()), MASTER)
        for place in self.attached():
            if place.name != MASTER:
                assert not mine & (place.ports | {place.gateway})


TestWandering = Wandering.TestCase
TestWandering.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
