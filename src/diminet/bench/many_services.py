"""The same instance with few services and with many, asked the same (`crowd`)."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from diminet.bench import idle
from diminet.bench.crowd import HERE, NEAR, service_id
from diminet.bench.scale_results import Cost, Crowd
from diminet.bench.simulated import ADMIN_TOKEN, TOKEN
from diminet.client import COLLECTION, NorthClient
from diminet.errors import BadSurroundings

TIMES = 9  # that each request is made
IDLE_SECONDS = 30.0
SETTLE_SECONDS = 15.0  # until the loops have all been round
PAGE = 25
CHANGE = {"description": "changed"}

Note = Callable[[str], None]


def measure(services: int, directory: Path, note: Note) -> Crowd:
    """In processes of its own, on a database in that directory. Raises BadSurroundings."""
    database = directory / f"crowd-{services}.db"
    note(f"{services} services: writing them")
    command = [sys.executable, "-m", "diminet.bench.crowd"]
    given = ["--database", str(database), "--services", str(services)]
    if subprocess.run([*command, "fill", *given], check=False).returncode != 0:
        raise BadSurroundings(f"{services} services could not be written to {database}; see above")
    size = database.stat().st_size
    note(f"{services} services: asking")
    began = time.monotonic()
    with ExitStack() as stack:
        instance = _Instance([*command, "serve", *given], stack)
        start = time.monotonic() - began
        costs = {**instance.ask("costs"), **_requests(instance)}
        instance.ask("run")
        time.sleep(SETTLE_SECONDS)
        cpu, rss = instance.resting(IDLE_SECONDS)
        instance.ask("rest")
    return Crowd(services=services, start=start, rss=rss, cpu=cpu, database=size, costs=costs)


class _Instance:
    def __init__(self, command: list[str], stack: ExitStack) -> None:
        self._process = stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        stack.callback(self._end)
        told = self._answer()
        url = f"http://127.0.0.1:{told['port']}"
        self.networks: dict[str, str] = told["networks"]
        self.north = NorthClient(url, TOKEN, proxies=False)
        self.operator = NorthClient(url, ADMIN_TOKEN, proxies=False)

    def ask(self, what: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BadSurroundings("the instance with many services ended; see above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(30.0)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def resting(self, seconds: float) -> tuple[float, int]:
        """Share of one core over that time, and RSS in bytes."""
        found = idle.watch(self._process.pid, seconds)
        return found.cpu, found.rss

    def cost(self, requests: Callable[[], object], times: int = TIMES) -> Cost:
        seconds = []
        for _ in range(times):
            before = self.ask("count")
            began = time.monotonic()
            requests()
            seconds.append(time.monotonic() - began)
            after = self.ask("count")
        return Cost(
            seconds=statistics.median(seconds),
            statements=after["statements"] - before["statements"],
            messages=after["messages"] - before["messages"],
        )


def _requests(instance: _Instance) -> dict[str, Cost]:
    """What users and operators ask."""
    north, operator = instance.north, instance.operator

    def page(client: NorthClient, query: str) -> Callable[[], object]:
        return lambda: client.request("GET", f"{COLLECTION}?limit={PAGE}&{query}")

    middle = service_id(PAGE)
    costs = {
        "list: a project's page": instance.cost(page(north, "sort_key=name")),
        "list: a project's services of a type": instance.cost(page(north, "type=l2")),
        "list: first page of all": instance.cost(page(operator, "sort_key=created_at")),
        "list: a later page of all": instance.cost(page(operator, f"sort_key=created_at&marker={middle}")),
        "list: last page of all": instance.cost(page(operator, "sort_key=updated_at&sort_dir=desc")),
        "list: by name, of all": instance.cost(page(operator, "name=service+7")),
        "list: of a site, of all": instance.cost(page(operator, f"site={NEAR}")),
        "show": instance.cost(lambda: north.show(service_id(0))),
        "sites": instance.cost(north.sites),
        "events": instance.cost(lambda: north.events(service_id(0))),
    }
    made: list[str] = []
    resources = [{"site": site, "resource_id": instance.networks[site]} for site in (HERE, NEAR)]
    body = {"name": "one more", "type": "l3", "resources": resources}
    seconds: dict[str, list[Cost]] = {"create": [], "modify": [], "delete": []}
    for _ in range(TIMES):
        seconds["create"].append(
            instance.cost(lambda: made.append(north.create(body).service["id"]), times=1)
        )
        seconds["modify"].append(instance.cost(lambda: north.modify(made[-1], CHANGE), times=1))
        seconds["delete"].append(instance.cost(lambda: north.delete(made[-1]), times=1))
    return {**costs, **{name: _median(found) for name, found in seconds.items()}}


def _median(costs: list[Cost]) -> Cost:
    last = costs[-1]
    return last.model_copy(update={"seconds": statistics.median(cost.seconds for cost in costs)})
