"""What the demo's checks make of what they see. The world is a double: no lab, no packets."""

from collections.abc import Sequence
from typing import Any

import pytest
from rich.console import Console

from diminet.client import Answer, ApiError
from diminet.errors import DiminetError, SiteRefused, SiteUnreachable
from diminet.lab import checks
from diminet.lab.observations import Observations, Path, Phase
from diminet.lab.world import Addresses, Instance, World

A1 = Instance("A", "vm1", "10.9.0.2", "02:00:00:00:00:01")
A2 = Instance("A", "vm2", "10.9.0.3", "02:00:00:00:00:02")
B1 = Instance("B", "vm1", "10.9.0.130", "02:00:00:00:00:03")
POOLS = {"A": [("10.9.0.2", "10.9.0.63")], "B": [("10.9.0.128", "10.9.0.191")]}


class NorthDouble:
    def __init__(self, *answers: Answer | DiminetError) -> None:
        self.answers = list(answers)

    def _next(self, *_: Any, **__: Any) -> Answer:
        answer = self.answers.pop(0)
        if isinstance(answer, DiminetError):
            raise answer
        return answer

    create = delete = show = _next


class WorldDouble(World):
    """silent: sites whose instances answer no ping."""

    def __init__(self, *answers: Answer | DiminetError, silent: Sequence[str] = ()) -> None:
        self._double = NorthDouble(*answers)
        self.silent = silent
        self.really: dict[Instance, Addresses] = {}
        self.things = {"A": frozenset({"port 1"}), "B": frozenset[str]()}
        self.fails: DiminetError | None = None

    def north(self, site: str) -> Any:
        return self._double

    def ping(self, source: Instance, target: Instance, *, count: int) -> int:
        crosses = source.site != target.site
        return 0 if crosses and {source.site, target.site} & set(self.silent) else count

    def boot(self, site: str, network_id: str, name: str) -> Instance:
        if self.fails:
            raise self.fails
        return Instance(site, name, POOLS[site][0][0], f"02:{site}:{name}")

    def pools(self, site: str, network_id: str) -> list[tuple[str, str]]:
        return POOLS[site]

    def addresses(self, instances: Sequence[Instance]) -> list[Addresses]:
        return [self.really.get(one, Addresses(one.mac, (one.ip,))) for one in instances]

    def everything(self, sites: Sequence[str]) -> dict[str, frozenset[str]]:
        return {site: self.things[site] for site in sites}


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "PAUSE", 0.001)


def service(status: str, code: int = 201) -> Answer:
    return Answer(code, {}, {"service": {"id": "s", "provisioning_status": status}})


def refusal(status: int, code: str, message: str) -> ApiError:
    return ApiError(status, {"code": code, "message": message})


@pytest.mark.parametrize(
    ("answer", "ok"),
    [
        (service("ACTIVE"), True),
        (service("ACTIVE", 202), False),
        (service("ERROR"), False),
        (refusal(409, "cidr-overlap", "no"), False),
        (SiteUnreachable("no answer"), False),
    ],
)
def test_create(answer: Answer | DiminetError, ok: bool) -> None:
    seen = Observations()
    made = checks.create(WorldDouble(answer), seen, "x", "A", {})
    assert (seen.failed == []) is ok
    assert (made is None) is isinstance(answer, DiminetError)


def test_pings_fill_table_iv_and_fail_when_one_direction_is_silent() -> None:
    seen = Observations()
    directed = checks.every_direction([A1, B1])
    cell = (Path.INTER, Phase.BEFORE)
    assert checks.pings_all(WorldDouble(), seen, "x", directed, within=0.05, traffic=cell)
    assert seen.traffic[cell] == (6, 6)
    assert not checks.pings_all(WorldDouble(silent="B"), seen, "x", directed, within=0.05)
    assert "0 of 2 after" in seen.failed[0].seen


def test_no_ping() -> None:
    seen = Observations()
    directed = checks.every_direction([A1, B1])
    assert checks.no_ping(WorldDouble(silent="B"), seen, "x", directed, within=0.05)
    assert not checks.no_ping(WorldDouble(), seen, "x", directed, within=0.05)


@pytest.mark.parametrize(
    ("answer", "ok"),
    [
        (refusal(409, "cidr-overlap", "10.1.0.0/24 and 10.1.0.0/16 overlap"), True),
        (refusal(409, "cidr-overlap", "something overlaps"), False),
        (refusal(409, "resource-busy", "10.1.0.0/24 10.1.0.0/16"), False),
        (refusal(400, "cidr-overlap", "10.1.0.0/24 10.1.0.0/16"), False),
        (SiteUnreachable("no answer"), False),
        (service("ACTIVE"), False),
    ],
)
def test_refused(answer: Answer | DiminetError, ok: bool) -> None:
    seen = Observations()
    names = ("10.1.0.0/24", "10.1.0.0/16")
    world = WorldDouble(answer)
    assert checks.refused(world, seen, "x", "A", {}, status=409, code="cidr-overlap", names=names) is ok


def test_a_refusal_that_comes_too_late() -> None:
    seen = Observations()
    world = WorldDouble(refusal(503, "site-unreachable", "C is away"))
    args = {"status": 503, "code": "site-unreachable", "names": ["C"]}
    assert not checks.refused(world, seen, "x", "A", {}, within=0.0, **args)  # type: ignore[arg-type]


def test_nothing_changed_names_what_is_left_and_what_is_missing() -> None:
    seen = Observations()
    world = WorldDouble()
    before = world.everything(("A", "B"))
    assert checks.nothing_changed(world, seen, "x", before)
    world.things = {"A": frozenset(), "B": frozenset({"device vx4097"})}
    assert not checks.nothing_changed(world, seen, "x", before, within=0.01)
    assert seen.failed[0].seen == "A: port 1 is missing; B: device vx4097 is left"


def test_a_doubled_address_fails_its_line_alone() -> None:
    seen = Observations()
    world = WorldDouble()
    assert checks.addresses_distinct(world, seen, "x", [A1, A2, B1])
    world.really[B1] = Addresses(B1.mac, (B1.ip, A1.ip))
    assert not checks.addresses_distinct(world, seen, "x", [A1, A2, B1])
    assert [line.name for line in seen.failed] == ["x: IP addresses"]
    assert A1.ip in seen.failed[0].seen
    world.really = {B1: Addresses(A1.mac, (B1.ip,))}
    assert not checks.addresses_distinct(world, seen, "x", [A1, A2, B1])
    assert seen.failed[1].name == "x: MACs"


def test_no_instances_are_not_distinct() -> None:
    seen = Observations()
    assert not checks.addresses_distinct(WorldDouble(), seen, "x", [])


def test_addresses_from_own_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Observations()
    networks = {"A": "n", "B": "m"}
    world = WorldDouble()
    assert checks.addresses_from_own_blocks(world, seen, "x", networks, [A1, B1])
    stray = Instance("B", "vm9", "10.9.0.9", "m")
    assert not checks.addresses_from_own_blocks(world, seen, "x", networks, [A1, stray])
    monkeypatch.setitem(POOLS, "B", [("10.9.0.0", "10.9.0.191")])
    assert not checks.addresses_from_own_blocks(world, seen, "x", networks, [A1, B1])
    assert "pools meet: A and B" in seen.failed[-1].seen


def test_boot_at_once_tells_a_failure() -> None:
    seen = Observations()
    world = WorldDouble()
    assert len(checks.boot_at_once(world, seen, "x", {"A": "n", "B": "m"}, 3)) == 6
    world.fails = SiteRefused("no address is left")
    assert checks.boot_at_once(world, seen, "x", {"A": "n"}, 1) == []
    assert "no address is left" in seen.failed[0].seen
    assert checks.boots(world, seen, "x", "A", "n", "new1") is None


@pytest.mark.parametrize(
    ("answers", "ok"),
    [
        ([Answer(204, {}, None), refusal(404, "service-not-found", "no")], True),
        (
            [Answer(202, {}, {}), service("PENDING_DELETE", 200), refusal(404, "service-not-found", "no")],
            True,
        ),
        ([Answer(202, {}, {}), *[service("PENDING_DELETE", 200)] * 1000], False),
        ([Answer(204, {}, None), service("PENDING_DELETE", 200)], False),
        ([refusal(503, "site-unreachable", "no")], False),
    ],
)
def test_a_forgotten_tombstone_fails_its_line(answers: list[Any], ok: bool) -> None:
    seen = Observations()
    assert checks.deleted(WorldDouble(*answers), seen, "x", "A", "s", ["B"], within=0.05) is ok


def test_the_tables_are_printed() -> None:
    seen = Observations()
    seen.saw_traffic(Path.INTRA, Phase.BEFORE, sent=3, received=3)
    seen.saw_traffic(Path.INTER, Phase.DURING, sent=3, received=0)
    seen.saw_traffic(Path.INTER, Phase.AFTER, sent=3, received=1)
    seen.see("one [b]", expected="e", seen="s", ok=True)
    console = Console(record=True, width=140, file=None, force_terminal=False, quiet=False)
    with console.capture() as shown:
        seen.print(console)
    text = shown.get()
    assert "✓ (3 of 3 pings)" in text
    assert "× (0 of 3 pings)" in text
    assert "partly (1 of 3 pings)" in text
    assert "one [b]" in text
    assert "all 1 lines ok" in text
    seen.see("two", expected="e", seen="s", ok=False)
    with console.capture() as shown:
        seen.print(console)
    assert "1 of 2 lines FAILED" in shown.get()
