"""MAC addresses of ports, on the rows of one transaction. At no two sites the same: those that are given
carry the site's number (`names`). Neutron's errors."""

from diminet.south.linux import names
from diminet.south.linux import vim_subnets as rules
from diminet.south.linux.vim_errors import InUse
from diminet.south.linux.vim_store import VimTx
from diminet.south.linux.vim_tables import NetworkRow

ATTEMPTS = 64  # MACs tried until one is not yet on the network


def free(tx: VimTx, network: NetworkRow, port_id: str, site_number: int) -> str:
    for attempt in range(ATTEMPTS):
        mac = names.port_mac(site_number, port_id, attempt)
        if not tx.has_mac(network.id, mac):
            return mac
    raise InUse("MacAddressGenerationFailure", f"Unable to generate unique mac on network {network.id}.")


def check(tx: VimTx, network: NetworkRow, mac: str, site_number: int) -> None:
    """May a tenant choose it? Raises InUse."""
    if rules.stretched(tx, network.id) or network.ours:
        raise InUse(
            "MacAddressInUse",
            f"Network {network.id} is shared with other sites, which could have {mac} too: leave the "
            "MAC address out to be given one that is this site's own.",
        )
    if tx.has_mac(network.id, mac) or mac == names.gateway_mac(site_number, network.id):
        raise InUse(
            "MacAddressInUse",
            f"Unable to complete operation for network {network.id}. The mac address {mac} is in use.",
        )
