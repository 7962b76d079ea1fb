"""The frames that tell hosts of a binding."""

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

from hypothesis import given
from hypothesis import strategies as st

from diminet.south.linux import garp

macs = st.binary(min_size=6, max_size=6).map(lambda octets: octets.hex(":"))


@given(macs, st.ip_addresses(v=4))
def test_a_gratuitous_request_names_the_address_twice(mac: str, address: IPv4Address) -> None:
    data = garp.frame(mac, str(address))
    assert data[:14] == b"\xff" * 6 + bytes.fromhex(mac.replace(":", "")) + b"\x08\x06"
    kinds = struct.unpack("!HHBBH", data[14:22])
    assert kinds == (1, 0x0800, 6, 4, 1)
    assert data[22:28] == data[6:12]
    assert data[28:32] == data[38:42] == address.packed
    assert len(data) == 42


@given(macs, st.ip_addresses(v=6))
def test_an_advertisement_is_one_of_rfc_4861(mac: str, address: IPv6Address) -> None:
    data = garp.frame(mac, str(address))
    header, body = data[14:54], data[54:]
    assert data[12:14] == b"\x86\xdd"
    assert struct.unpack("!IHBB", header[:8]) == (6 << 28, len(body), 58, 255)
    assert ip_address(header[24:40]) == ip_address("ff02::1")
    assert header[8:24] == body[8:24] == address.packed
    assert body[:2] == b"\x88\x00"
    assert body[4] == 0x20
    assert body[24:] == b"\x02\x01" + data[6:12]
    summed = header[8:40] + struct.pack("!II", len(body), 58) + body
    total = sum(struct.unpack(f"!{len(summed) // 2}H", summed))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert total == 0xFFFF
