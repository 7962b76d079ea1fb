"""What tenants and operators do in a soak, at random, and the ledger of what they were told."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from seen import Scene

from diminet.client import ApiError
from diminet.errors import DiminetError

SERVICES_MOST = 8
INSTANCES_MOST = 24
BUGS = ("internal-error",)


@dataclass
class Service:
    """What its tenants were told. sure: whether the last answer came; members: network by site."""

    id: str
    kind: str
    name: str
    members: dict[str, str]
    sure: bool = True
    deleted: bool = False


@dataclass
class Ledger:
    """All that was acknowledged. instances: (site, name) -> address."""

    services: dict[str, Service] = field(default_factory=dict)
    instances: dict[tuple[str, str], str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    bugs: list[str] = field(default_factory=list)


class Tenants:
    """Several threads may `operate` at once; one service is changed by one at a time."""

    def __init__(self, scene: Scene, chance: random.Random) -> None:
        self.scene = scene
        self.chance = chance
        self.ledger = Ledger()
        self._lock = threading.Lock()  # of the ledger and the chance
        self._busy = set[str]()  # services that somebody is changing
        self._nets = 0

    def operate(self) -> None:
        """One random operation; what is refused is refused."""
        with self._lock:
            name, work = self.chance.choice(self._possible())
        try:
            work()
            outcome = "ok"
        except ApiError as error:
            outcome = error.word
            if error.word in BUGS:
                self.ledger.bugs.append(f"{name}: {error.status} {error.message}")
        except DiminetError as error:
            outcome = error.code
        self.count(f"{name}: {outcome}")

    def count(self, what: str) -> None:
        with self._lock:
            self.ledger.counts[what] += 1

    def _possible(self) -> list[tuple[str, Callable[[], None]]]:
        standing = [service for service in self.ledger.services.values() if not service.deleted]
        free = [service for service in standing if service.id not in self._busy]
        works: list[tuple[str, Callable[[], None]]] = []
        if len(standing) < SERVICES_MOST:
            works += [("create l3", lambda: self._create("l3")), ("create l2", lambda: self._create("l2"))]
        if free:
            one = self.chance.choice(free)
            works += [
                ("delete", lambda: self._delete(one)),
                ("add", lambda: self._add(one)),
                ("remove", lambda: self._remove(one)),
                ("modify", lambda: self._modify(one)),
                ("takeover", lambda: self._takeover(one)),
            ]
            if len(self.ledger.instances) < INSTANCES_MOST:
                works += [("boot", lambda: self._boot(one))] * 4
        if len(self.ledger.instances) > INSTANCES_MOST // 2:
            works += [("terminate", self._terminate)] * 3
        return works or [("wait", lambda: time.sleep(1.0))]

    @contextmanager
    def _changing(self, service: Service) -> Iterator[None]:
        """Its outcome is not sure until the answer is there."""
        with self._lock:
            self._busy.add(service.id)
            sure, service.sure = service.sure, False
        try:
            yield
            service.sure = sure
        except ApiError as error:
            service.sure = sure and error.status < 500
            raise
        finally:
            with self._lock:
                self._busy.discard(service.id)

    def _network(self, site: str) -> str:
        """/27 now and then: its addresses run out."""
        with self._lock:
            self._nets += 1
            number, length = self._nets, self.chance.choice((24, 24, 27))
        return self.scene.network(site, f"10.{number // 250}.{number % 250}.0/{length}")

    def _create(self, kind: str) -> None:
        with self._lock:
            sites = self.chance.sample(self.scene.sites, self.chance.randint(2, len(self.scene.sites)))
            policy = self.chance.choice(("revoke", "revoke", "defer"))
        entries: dict[str, str | None] = dict.fromkeys(sites)
        for site in sites if kind == "l3" else sites[:1]:
            entries[site] = self._network(site)
        made = self.scene.create(kind, entries, at=sites[0], on_unreachable=policy).service
        members = {entry["site"]: entry["resource_id"] for entry in made["resources"]}
        with self._lock:
            self.ledger.services[made["id"]] = Service(
                made["id"], kind, made["name"], dict.fromkeys(sites, "") | members
            )

    def _any_member(self, service: Service) -> str:
        with self._lock:
            return self.chance.choice(list(service.members))

    def _add(self, service: Service) -> None:
        missing = [site for site in self.scene.sites if site not in service.members]
        if not missing:
            return
        entry = {"site": missing[0]}
        if service.kind == "l3":
            entry["resource_id"] = self._network(missing[0])
        with self._changing(service):
            self.scene.north(self._any_member(service)).add(service.id, entry)
            service.members[missing[0]] = entry.get("resource_id", "")

    def _remove(self, service: Service) -> None:
        """Asked at any member: at the one that goes too, which may be cut off from the master."""
        if len(service.members) < 3:
            return
        site = list(service.members)[-1]
        with self._changing(service):
            self.scene.north(self._any_member(service)).remove(service.id, site)
            del service.members[site]

    def _modify(self, service: Service) -> None:
        name = self.scene.name("renamed")
        with self._changing(service):
            self.scene.north(self._any_member(service)).modify(service.id, {"name": name})
            service.name = name

    def _takeover(self, service: Service) -> None:
        """By agreement, or by votes when the master does not answer."""
        with self._changing(service):
            self.scene.north(self._any_member(service), "admin_token").takeover(service.id, [])

    def _delete(self, service: Service) -> None:
        with self._changing(service):
            self.scene.delete(service.id, at=self._any_member(service))
            service.deleted = True

    def _boot(self, service: Service) -> None:
        places = [(site, network) for site, network in service.members.items() if network]
        if places:
            with self._lock:
                site, network = self.chance.choice(places)
            made = self.scene.boot(site, network)
            with self._lock:
                self.ledger.instances[site, made.name] = made.ip

    def _terminate(self) -> None:
        """Its name leaves the ledger first: whether it is gone is not sure without an answer."""
        with self._lock:
            site, name = self.chance.choice(list(self.ledger.instances))
            del self.ledger.instances[site, name]
        vim = self.scene.vim(site)
        vim.delete("ports", vim.port(name)["id"])
