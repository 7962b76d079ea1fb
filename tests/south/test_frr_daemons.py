"""The configuration and the start of a site's FRR."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from diminet.errors import BadSurroundings
from diminet.south.linux import frr_daemons
from diminet.south.linux.frr_daemons import FrrDaemons, FrrSettings


def settings(**more: object) -> FrrSettings:
    return FrrSettings.model_validate(
        {"pathspace": "unit", "address": "10.0.0.1", "neighbors": ["10.0.0.250"], **more}
    )


def test_a_site_advertises_and_filters_both_ways() -> None:
    text = frr_daemons.bgpd_config(settings())
    assert "  advertise-all-vni" in text
    assert " neighbor 10.0.0.250 peer-group PEERS" in text
    assert "  neighbor PEERS route-map TUNNEL-IN in" in text
    assert "  neighbor PEERS route-map TUNNEL-OUT out" in text
    assert "permit RT:65000:" in text
    assert "bfd" not in text
    assert " neighbor PEERS bfd" in frr_daemons.bgpd_config(settings(bfd=True))


def test_a_reflector_has_clients_and_no_tunnels() -> None:
    text = frr_daemons.bgpd_config(settings(listen_range="10.0.0.0/24"))
    assert " bgp listen range 10.0.0.0/24 peer-group CLIENTS" in text
    assert "  neighbor CLIENTS route-reflector-client" in text
    assert "advertise-all-vni" not in text


def test_misuse_is_told_and_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "frr.json"
    assert frr_daemons.main(["--config", str(config)]) == 2
    for bad in (
        {"pathspace": "../x", "address": "a", "neighbors": ["b"]},
        {"pathspace": "x", "address": "a"},
    ):
        config.write_text(json.dumps(bad))
        assert frr_daemons.main(["--config", str(config)]) == 2
    said = capsys.readouterr().err
    assert "give in `neighbors` the addresses" in said
    assert "Traceback" not in said


def test_without_frr_it_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(BadSurroundings, match="install the Debian package frr"):
        asyncio.run(FrrDaemons(settings(), daemons=tmp_path).run())


def test_without_root_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zebra").touch()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(BadSurroundings, match="root"):
        asyncio.run(FrrDaemons(settings(), daemons=tmp_path).run())
