"""What every type of service asks of a tenant's entries and of the sites' capabilities."""

from collections.abc import Iterable, Mapping, Sequence

from diminet.errors import IncompatibleSites, InvalidRequest, SiteRefused
from diminet.messages import Reservation, ResourceFacts
from diminet.model import Entry


def named(items: Iterable[str]) -> str:
    return ", ".join(sorted(set(items)))


def check_entries(entries: Sequence[Entry], receiver: str) -> None:
    """Two or more distinct entries, at two or more sites, the receiver's among them. Raises
    InvalidRequest."""
    doubled = {entry.key for entry in entries if entries.count(entry) > 1}
    if doubled:
        what = named(f"{site}:{resource}" if resource else site for site, resource in doubled)
        raise InvalidRequest(f"resources names {what} more than once: name each network once")
    sites = {entry.site for entry in entries}
    if len(sites) < 2:
        raise InvalidRequest("a service joins networks of at least two sites: name one of another site too")
    if receiver not in sites:
        raise InvalidRequest(
            f"site {receiver} is not among the sites of this request: send it to one of {named(sites)}",
            sites=sorted(sites),
        )


def check_sites(reservations: Mapping[str, Reservation], versions: Mapping[int, str]) -> None:
    """Can these sites be joined at all? versions: IP version -> a CIDR of it in the service. Raises
    IncompatibleSites."""
    sites = sorted(reservations)
    offers = {site: set(reservations[site].capabilities.encapsulations) for site in sites}
    if offers and not set.intersection(*offers.values()):
        told = "; ".join(f"{site} has {named(offer) or 'none'}" for site, offer in sorted(offers.items()))
        raise IncompatibleSites(
            f"these sites have no encapsulation in common ({told}): leave out the sites that differ",
            sites=sites,
        )
    for version, cidr in sorted(versions.items()):
        without = [s for s in sites if version not in reservations[s].capabilities.ip_versions]
        if without:
            raise IncompatibleSites(
                f"{cidr} is IPv{version}, which {named(without)} cannot carry: leave out that network "
                "or those sites",
                sites=without,
            )


def facts_of(reservation: Reservation | None, entry: Entry) -> ResourceFacts:
    """What the site said of that entry. Raises SiteRefused if it said nothing."""
    for facts in reservation.resources if reservation else ():
        if facts.network.network_id == entry.resource_id or (facts.made and entry.resource_id is None):
            return facts
    raise SiteRefused(
        f"site {entry.site} gave no reservation for network {entry.resource_id or '(to be made)'}: try again",
        sites=[entry.site],
    )
