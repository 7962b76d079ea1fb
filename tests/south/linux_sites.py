"""Real linux sites for tests: network and mount namespaces on a WAN bridge, with FRR and a reflector."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from diminet import errors
from diminet.south.linux import names

HERE = Path(__file__).parent
ASN = 64999


def run(*words: str, check: bool = True) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def until(true: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Wait until it is so; never asserts how fast."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.1)


class Space:
    """A network and mount namespace, kept by a process; /run/netns in it is its own."""

    def __init__(self) -> None:
        Path("/run/netns").mkdir(exist_ok=True)
        script = (
            "mount -t tmpfs none /run/netns && mkdir /run/netns/.mounts && ip link set lo up"
            " && echo ready && exec sleep infinity"
        )
        self.holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "sh", "-c", script], stdout=subprocess.PIPE, text=True
        )
        assert self.holder.stdout
        assert self.holder.stdout.readline() == "ready\n"

    @property
    def enter(self) -> list[str]:
        return ["nsenter", f"--target={self.holder.pid}", "--net", "--mount"]

    def sh(self, command: str, *, check: bool = True) -> str:
        return run(*self.enter, "sh", "-c", command, check=check)

    def close(self) -> None:
        self.holder.kill()
        self.holder.wait()


class Daemons:
    """`python -m …frr_daemons` in a space."""

    def __init__(self, space: Space, directory: Path, **settings: Any) -> None:
        self.pathspace = settings["pathspace"]
        config = directory / f"{self.pathspace}.json"
        config.write_text(json.dumps(settings))
        self._log = (directory / f"{self.pathspace}.log").open("wb")
        self._command = [*space.enter, sys.executable, "-m", "diminet.south.linux.frr_daemons"]
        self._command += ["--config", str(config)]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=self._log, stderr=subprocess.STDOUT)

    def pid(self, daemon: str) -> int:
        return int((Path("/run/frr") / self.pathspace / f"{daemon}.pid").read_text())

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        self._log.close()
        shutil.rmtree(Path("/run/frr") / self.pathspace, ignore_errors=True)


class Site:
    """A site: its space, its FRR, and an agent that calls `Kernel` and `DataPlane` in it."""

    def __init__(self, wan: "Wan", number: int) -> None:
        self.wan = wan
        self.number = number
        self.vtep = wan.vtep(number)
        self.space = wan.join(f"wan{number}", self.vtep)
        self.run_dir = wan.directory / f"site{number}"
        self.run_dir.mkdir()
        pathspace = f"{wan.name}s{number}"
        self.frr = Daemons(
            self.space, wan.directory, pathspace=pathspace, address=self.vtep, neighbors=[wan.reflector]
        )
        self._settings = {
            "number": number,
            "run_dir": str(self.run_dir),
            "pathspace": pathspace,
            "vtep": self.vtep,
            "vteps": {other: wan.vtep(other) for other in range(1, 10)},
        }
        self.start_agent()

    def start_agent(self) -> None:
        self.agent = subprocess.Popen(
            [*self.space.enter, sys.executable, str(HERE / "site_agent.py"), json.dumps(self._settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.call("start")

    def call(self, name: str, *arguments: Any) -> Any:
        assert self.agent.stdin
        assert self.agent.stdout
        self.agent.stdin.write(json.dumps([name, arguments]) + "\n")
        self.agent.stdin.flush()
        answer = json.loads(self.agent.stdout.readline())
        if "error" in answer:
            raise errors.from_dict(answer["error"])
        return answer["value"]

    def kill_agent(self) -> None:
        self.agent.kill()
        self.agent.wait()

    def network(self, *gateways: tuple[str, int]) -> str:
        network_id = str(uuid.uuid4())
        self.call("network", network_id, gateways)
        return network_id

    def boot(self, network_id: str, *addresses: tuple[str, int], gateways: tuple[str, ...] = ()) -> "Vm":
        vm = Vm(self, network_id, [ip for ip, _ in addresses])
        vm.mac = self.call("boot", network_id, vm.port_id, vm.name, addresses, gateways)
        return vm

    def running_config(self) -> str:
        directory = f"/run/frr/{self.frr.pathspace}"
        return self.space.sh(
            f"vtysh --vty_socket {directory} --config_dir {directory} -c 'show running-config'"
        )

    def snapshot(self) -> dict[str, Any]:
        """Everything of the data plane that must be the same before and after a service."""
        return {
            "links": sorted(re.findall(r"^\d+: ([^:@]+)", self.space.sh("ip -o link"), re.MULTILINE)),
            "netns": self.space.sh("ls /run/netns"),
            "gateways": [
                self.space.sh(f"nsenter --net={path} sh -c 'ip -o link | cut -d: -f2; ip route; ip -6 route'")
                for path in sorted((self.run_dir / "ns").glob("gw-*"))
            ],
            "frr": self.running_config(),
            "nft": self.space.sh("nft list ruleset"),
        }

    def close(self) -> None:
        self.kill_agent()
        self.frr.close()
        self.space.close()


class Vm:
    def __init__(self, site: Site, network_id: str, addresses: list[str]) -> None:
        self.site = site
        self.network_id = network_id
        self.addresses = addresses
        self.port_id = str(uuid.uuid4())
        self.name = f"vm-{self.port_id[:8]}"
        self.mac = ""

    @property
    def path(self) -> Path:
        return self.site.run_dir / "ns" / self.name

    def sh(self, command: str, *, check: bool = True) -> str:
        return self.site.space.sh(f"nsenter --net={self.path} {command}", check=check)

    def pings(self, address: str, *, count: int = 1, wait: int = 1, size: int = 56) -> int:
        """Number of replies."""
        out = self.sh(f"ping -n -M do -s {size} -c {count} -i 0.1 -W {wait} {address}", check=False)
        found = re.search(r"(\d+) received", out)
        return int(found[1]) if found else 0

    def reaches(self, other: "Vm") -> bool:
        return all(self.pings(address) for address in other.addresses)

    @contextlib.contextmanager
    def loses_nothing(self, address: str) -> Iterator[None]:
        """Ping every 20 ms while the block runs; every one must come back."""
        command = [
            *self.site.space.enter,
            "nsenter",
            f"--net={self.path}",
            "ping",
            "-n",
            "-i",
            "0.02",
            address,
        ]
        ping = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            time.sleep(0.3)
            yield
            time.sleep(0.3)
        finally:
            ping.send_signal(signal.SIGINT)
            out, _ = ping.communicate(timeout=20)
        found = re.search(r"(\d+) packets transmitted, (\d+) received", out)
        assert found, out
        sent, received = int(found[1]), int(found[2])
        assert sent - received <= 1, f"{sent - received} of {sent} pings lost"  # the last is on its way

    def close(self) -> None:
        self.site.call("kill", self.port_id, self.name)


class Wan:
    """The bridge that the sites hang on, in a namespace of its own, and a route reflector."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.name = f"t{os.getpid()}x{uuid.uuid4().hex[:4]}"
        self.space = Space()
        self._spaces: list[Space] = []
        self.space.sh("ip link add wan type bridge && ip link set wan up")
        self.reflector = "10.99.0.250"
        space = self.join("rr", self.reflector)
        self.daemons = Daemons(
            space,
            directory,
            pathspace=f"{self.name}rr",
            address=self.reflector,
            listen_range="10.99.0.0/24",
        )

    @staticmethod
    def vtep(number: int) -> str:
        return f"10.99.0.{number}"

    def join(self, port: str, address: str) -> Space:
        space = Space()
        self._spaces.append(space)
        target = space.holder.pid
        self.space.sh(f"ip link add {port} type veth peer name wan0 netns {target}")
        self.space.sh(f"ip link set {port} master wan up")
        space.sh(f"ip addr add {address}/24 dev wan0 && ip link set wan0 up")
        return space

    def close(self) -> None:
        self.daemons.close()
        for space in self._spaces:
            space.close()
        self.space.close()


@contextlib.contextmanager
def sites(directory: Path, count: int) -> Iterator[list[Site]]:
    """That many sites, numbered from 1, whose FRR has a session with the reflector."""
    with contextlib.ExitStack() as stack:
        wan = Wan(directory)
        stack.callback(wan.close)
        made = []
        for number in range(1, count + 1):
            site = Site(wan, number)
            stack.callback(site.close)
            made.append(site)
        for site in made:
            until(lambda site=site: not site.call("problems"), f"a BGP session of site {site.number}")
        yield made


def route_target(vni: int, slot: int) -> str:
    return f"{ASN}:{vni * 256 + slot}"


def target(layer: str, service_id: str, vni: int, slot: int, slots: list[int], **more: Any) -> dict[str, Any]:
    """A `Target` in JSON, of the member with that slot; site numbers are the slots."""
    others = [number for number in slots if number != slot]
    return {
        "service_id": service_id,
        "project_id": "p",
        "layer": layer,
        "vni": vni,
        "export_target": route_target(vni, slot),
        "import_targets": [route_target(vni, number) for number in others],
        "peers": others,
        **more,
    }


def anycast(vm: Vm, gateway: str) -> bool:
    """Whether the instance has the shared gateway's MAC for that address."""
    return names.ANYCAST_MAC in vm.sh(f"ip neigh show {gateway}")


def same(before: list[dict[str, Any]], made: list[Site]) -> None:
    """Nothing is left behind; compared part by part so that a difference can be read."""
    for old, site in zip(before, made, strict=True):
        new = site.snapshot()
        for part, was in old.items():
            assert new[part] == was, f"site {site.number}, {part}"
