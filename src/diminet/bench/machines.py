"""The sites of a running lab as a benchmark handles them: floor agents, paused instances, metrics, pings."""

import asyncio
import os
import platform
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from diminet.bench.orders import Done, Order
from diminet.errors import BadSurroundings, SiteUnreachable
from diminet.lab.client import Lab
from diminet.lab.provision import CONFIG_FILE

AGENT_TIMEOUT = 60.0  # seconds for an agent to start, or to answer
METRICS_TIMEOUT = 30.0  # seconds
PING_INTERVAL = "0.01"  # seconds between two pings of one pair while the first answer is awaited
PING_DEADLINE = 20.0  # seconds until a pair is given up
LINE_MOST = 1024 * 1024  # bytes of an agent's answer

_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))

STEPS = "diminet_create_step_seconds_sum"
VIM_SECONDS = "diminet_vim_call_seconds_sum"
VIM_COUNT = "diminet_vim_call_seconds_count"


class Machine(NamedTuple):
    """A site. pid: of its instance, on the host. config: the instance's file. neutron: pid of its Neutron."""

    name: str
    number: int
    north: str
    vtep: str
    pid: int
    config: Path
    neutron: int | None = None

    def inside(self, *more: str) -> tuple[str, ...]:
        """Prefix of a command that is to run where the instance runs. more: options of nsenter."""
        return ("nsenter", f"--target={self.pid}", "--net", "--mount", *more, "--")


def machines(lab: Lab) -> dict[str, Machine]:
    """Of a lab that is up, in the order of its sites."""
    found = {}
    for site in lab.status()["sites"]:
        if "instance" not in site["pids"]:
            raise BadSurroundings(f"the instance of site {site['name']} does not run: start the lab anew")
        found[site["name"]] = Machine(
            name=site["name"],
            number=site["number"],
            north=site["north"],
            vtep=site["wan_ip"],
            pid=site["pids"]["instance"],
            config=lab.state_dir / site["name"] / CONFIG_FILE,
            neutron=site["pids"].get("neutron"),
        )
    return found


def this_machine() -> str:
    """The one that is measured on, in words."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    python = ".".join(map(str, sys.version_info[:3]))
    return f"{os.cpu_count()} processors, {memory:.0f} GiB, Linux {platform.release()}, Python {python}"


# -- metrics ---------------------------------------------------------------------------------------


class Figures(NamedTuple):
    """Sums since the instance's start. steps, vim: seconds by name; calls: how many."""

    steps: Mapping[str, float]
    vim: Mapping[str, float]
    calls: Mapping[str, float]

    def since(self, before: "Figures") -> "Figures":
        """What was added; names of which nothing was are left out."""
        return Figures(*(_added(was, now) for was, now in zip(before, self, strict=True)))


def _added(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    gained = {name: value - before.get(name, 0.0) for name, value in after.items()}
    return {name: value for name, value in gained.items() if value > 0}


def parse_figures(text: str) -> Figures:
    steps, vim, calls = dict[str, float](), dict[str, float](), dict[str, float]()
    wanted = {STEPS: (steps, "step"), VIM_SECONDS: (vim, "call"), VIM_COUNT: (calls, "call")}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in wanted:
                into, label = wanted[sample.name]
                into[sample.labels[label]] = sample.value
    return Figures(steps, vim, calls)


def figures(machine: Machine) -> Figures:
    """Blocking. Raises SiteUnreachable."""
    return parse_figures(metrics(machine))


def metrics(machine: Machine) -> str:
    """Blocking. Raises SiteUnreachable."""
    try:
        with _NO_PROXY.open(f"{machine.north}/metrics", timeout=METRICS_TIMEOUT) as answer:
            text: str = answer.read().decode()
            return text
    except (OSError, urllib.error.URLError) as error:
        raise SiteUnreachable(
            f"the metrics of site {machine.name} cannot be read: {error}", sites=[machine.name]
        ) from None


# -- floor agents ----------------------------------------------------------------------------------


class Agent:
    """`diminet.bench.floor` on one site's machine."""

    def __init__(self, machine: Machine, process: asyncio.subprocess.Process) -> None:
        self._machine = machine
        self._process = process

    @classmethod
    async def start(cls, machine: Machine, stack: AsyncExitStack) -> "Agent":
        process = await asyncio.create_subprocess_exec(
            *machine.inside("--pid"),
            *(sys.executable, "-m", "diminet.bench.floor", "--config", str(machine.config)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_MOST,
        )
        agent = cls(machine, process)
        stack.push_async_callback(agent.end)
        await agent._answer()
        return agent

    async def ask(self, order: Order) -> Done:
        """Raises BadSurroundings with what the site refused."""
        assert self._process.stdin is not None
        self._process.stdin.write(order.model_dump_json().encode() + b"\n")
        done = Done.model_validate_json(await self._answer())
        if done.error is not None:
            raise BadSurroundings(f"the floor of site {self._machine.name}: {done.error}")
        return done

    async def _answer(self) -> bytes:
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), AGENT_TIMEOUT)
        except TimeoutError:
            raise BadSurroundings(
                f"the floor of site {self._machine.name} does not answer in {AGENT_TIMEOUT:.0f} s"
            ) from None
        if not line:
            said = await self._process.stderr.read() if self._process.stderr else b""
            raise BadSurroundings(
                f"the floor of site {self._machine.name} ended: {said.decode(errors='replace')[-500:]}"
            )
        return line

    async def end(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), AGENT_TIMEOUT)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def paused(these: Iterable[Machine]) -> AsyncIterator[None]:
    """Their instances stand still meanwhile: what runs is bare, and nothing is tidied away beneath it."""
    stopped = []
    try:
        for machine in these:
            os.kill(machine.pid, signal.SIGSTOP)
            stopped.append(machine)
        yield
    finally:
        for machine in stopped:
            with suppress(ProcessLookupError):
                os.kill(machine.pid, signal.SIGCONT)


# -- pings -----------------------------------------------------------------------------------------


async def first_answer(machine: Machine, namespace: str, address: str) -> float:
    """Ping from the instance in that namespace until the first answer; on the loop's clock, seconds.
    Raises BadSurroundings if none comes."""
    process = await asyncio.create_subprocess_exec(
        *machine.inside(),
        *("nsenter", f"--net={namespace}", "--"),
        *(
            "ping",
            "-n",
            "-i",
            PING_INTERVAL,
            "--",
            address,
        ),  # with -w it would end at the first "unreachable"
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PING_DEADLINE):
            while line := await process.stdout.readline():
                if b" bytes from " in line:
                    return asyncio.get_running_loop().time()
    except TimeoutError:
        pass
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
    raise BadSurroundings(
        f"no ping from site {machine.name} to {address} was answered in {PING_DEADLINE:.0f} s"
    )
