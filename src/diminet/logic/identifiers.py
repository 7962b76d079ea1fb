"""VNIs, route targets and slots (DESIGN section 5, Identifiers).

VNI = creating site's number x 4096 + k, so 24 bits hold it for numbers up to 4095. Route target =
ASN:(VNI x 256 + slot): a two-octet AS with a four-octet number (RFC 4360, type 0).
"""

from collections.abc import Iterable

from diminet.errors import InvalidRequest, QuotaExceeded
from diminet.model import MAX_MEMBERS, Identifiers

KS_A_SITE = 4096
MOST_SITES = 4095
MOST_ASN = 65535  # a four-octet AS would leave only 16 bits for the rest of the target


def vni(site_number: int, k: int) -> int:
    """Raises InvalidRequest out of bounds: a setting or the directory is wrong then."""
    if not 1 <= site_number <= MOST_SITES:
        raise InvalidRequest(f"site number {site_number} is not in 1..{MOST_SITES}")
    if not 0 <= k < KS_A_SITE:
        raise InvalidRequest(f"VNI index {k} is not in 0..{KS_A_SITE - 1}")
    return site_number * KS_A_SITE + k


def creator(vni: int) -> int:
    """Number of the site that minted it."""
    return vni // KS_A_SITE


def mint(site_number: int, k: int | None, asn: int) -> Identifiers:
    """k: the one taken from the store; None: all are taken. Raises QuotaExceeded then."""
    if k is None:
        raise QuotaExceeded(
            "this site has used up the identifiers (VNIs) that it may mint: delete services that were "
            "created here, wait until all their sites have acknowledged it, or create at another site"
        )
    if not 1 <= asn <= MOST_ASN:
        raise InvalidRequest(f"the ASN of route targets, {asn}, is not in 1..{MOST_ASN}")
    return Identifiers(vni=vni(site_number, k), asn=asn)


def free_slots(taken: Iterable[int], count: int) -> tuple[int, ...]:
    """The lowest `count` slots of 1..250 that no present member has. Raises QuotaExceeded."""
    used = set(taken)
    free = [slot for slot in range(1, MAX_MEMBERS + 1) if slot not in used][:count]
    if len(free) < count:
        raise QuotaExceeded(
            f"a service has at most {MAX_MEMBERS} member sites: make a second service, or remove sites"
        )
    return tuple(free)
