"""A client of a linux site's Neutron-shaped REST, as far as a lab needs it. Synchronous.

Raises SiteRefused with what the site said, NotAuthenticated for a bad token, SiteUnreachable when no
answer came.
"""

import ipaddress
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from typing import Any

from diminet.errors import InvalidRequest, NotAuthenticated, SiteRefused, SiteUnreachable

VIM_TIMEOUT = 60.0  # seconds; a boot may wait for another site's block
MESSAGE_MOST = 1000  # characters of what the site said

_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Vim:
    """site: name, for messages. url: base URL without path."""

    def __init__(self, site: str, url: str, token: str, *, timeout: float = VIM_TIMEOUT) -> None:
        self._site = site
        self._url = url
        self._token = token
        self._timeout = timeout

    def create_network(self, name: str, cidrs: Sequence[str]) -> dict[str, Any]:
        """A network with one subnet for each CIDR, all or nothing: `network_id`, `subnet_id`, `cidr` of the
        first; all of them in `subnets` if there are several. IPv6 gets stateful addresses."""
        bodies = [_subnet(name, cidr) for cidr in cidrs]
        if not bodies:
            raise InvalidRequest("a network needs at least one CIDR")
        network_id = self._post("networks", "network", {"name": name})["id"]
        try:
            made = [self._post("subnets", "subnet", {**body, "network_id": network_id}) for body in bodies]
        except BaseException:
            self._call("DELETE", f"/v2.0/networks/{network_id}")
            raise
        subnets = [{"subnet_id": subnet["id"], "cidr": subnet["cidr"]} for subnet in made]
        several = {"subnets": subnets} if len(subnets) > 1 else {}
        return {"network_id": network_id, **subnets[0], **several}

    def boot(self, network_id: str, name: str) -> dict[str, Any]:
        """An instance with one port: `name`, `ip` (IPv4 if it has one), `mac`, `network_id`."""
        port = self._post("ports", "port", {"network_id": network_id, "name": name})
        return {
            "name": name,
            "ip": address_of(port, self._site),
            "mac": port["mac_address"],
            "network_id": port["network_id"],
        }

    def has_port(self, name: str) -> bool:
        return bool(self.found("ports", name=name))

    def port(self, name: str) -> dict[str, Any]:
        """The port with that name or id. Raises InvalidRequest if there is none, or more than one."""
        found = self.found("ports", name=name) or self.found("ports", id=name)
        if not found:
            raise InvalidRequest(f"site {self._site} has no instance {name[:80]!r}; boot it first")
        if len(found) > 1:
            ids = ", ".join(port["id"] for port in found)
            raise InvalidRequest(
                f"site {self._site} has several instances {name!r}: give a port's id ({ids})"
            )
        return found[0]

    def found(self, collection: str, **filters: str) -> list[dict[str, Any]]:
        """The networks, subnets, ports or (at a Neutron) bgpvpn/bgpvpns that fit."""
        answer = self._call("GET", f"/v2.0/{collection}?{urllib.parse.urlencode(filters)}")
        objects: list[dict[str, Any]] = answer[collection.rpartition("/")[2]]
        return objects

    def delete(self, collection: str, identifier: str) -> None:
        """A port is deleted with the instance that is plugged into it."""
        self._call("DELETE", f"/v2.0/{collection}/{identifier}")

    def _post(self, collection: str, noun: str, fields: dict[str, Any]) -> dict[str, Any]:
        answer = self._call("POST", f"/v2.0/{collection}", {noun: fields})
        made: dict[str, Any] = answer[noun]
        return made

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(  # noqa: S310 - the URL comes from lab.json
            self._url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"X-Auth-Token": self._token, "Content-Type": "application/json"},
        )
        try:
            with _NO_PROXY.open(request, timeout=self._timeout) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise self._refused(error) from None
        except (OSError, HTTPException) as error:
            raise SiteUnreachable(
                f"the networking service of site {self._site} does not answer at {self._url}: {error}",
                sites=[self._site],
            ) from None
        return json.loads(text) if text else None

    def _refused(self, error: urllib.error.HTTPError) -> SiteRefused | NotAuthenticated:
        message = _message(error.read(64 * 1024).decode(errors="replace"))
        kind = NotAuthenticated if error.code == 401 else SiteRefused
        return kind(f"site {self._site} refused ({error.code}): {message}", sites=[self._site])


def _message(text: str) -> str:
    """Neutron's error document's message, or the text as it is."""
    try:
        document = json.loads(text)
    except ValueError:
        return text[:MESSAGE_MOST]
    found = document.get("NeutronError") or document.get("error") if isinstance(document, dict) else None
    return str(found.get("message") if isinstance(found, dict) else found or text)[:MESSAGE_MOST]


def _subnet(name: str, cidr: str) -> dict[str, Any]:
    try:
        network = ipaddress.ip_network(cidr)
    except ValueError as error:
        raise InvalidRequest(f"{cidr[:80]!r} is not a CIDR ({error}): for example 10.1.0.0/24") from None
    fields: dict[str, Any] = {"name": name, "cidr": str(network), "ip_version": network.version}
    if network.version == 6:
        fields |= {"ipv6_address_mode": "dhcpv6-stateful", "ipv6_ra_mode": "dhcpv6-stateful"}
    return fields


def address_of(port: dict[str, Any], site: str) -> str:
    """IPv4 where it has both. Raises SiteRefused if it has none."""
    addresses = [ipaddress.ip_address(fixed["ip_address"]) for fixed in port["fixed_ips"]]
    if not addresses:
        raise SiteRefused(f"port {port['id']} of site {site} has no address", sites=[site])
    return str(min(addresses, key=lambda address: address.version))
