"""The files of a lab's sites: certificates, tokens, directory and configuration, made on the spot."""

import json
import os
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from diminet.directory import file as directory_file
from diminet.east_west import pki
from diminet.identity import file as identity_file
from diminet.identity.file import TokenEntry, Vouch
from diminet.lab.openstack import templates
from diminet.lab.plan import ASN, EAST_WEST_PORT, NORTH_PORT, SOUTH_PORT, LabPlan, SitePlan
from diminet.lab.state import LAB_FILE
from diminet.model import Model, Site

CONFIG_FILE = "diminet.toml"
CLOUDS_FILE = "clouds.yaml"
IDENTITY_FILE, SITES_FILE = "identity.toml", "sites.toml"
TOKEN_LIFETIME = timedelta(hours=24)
PROJECT, OTHER_PROJECT, ADMIN_PROJECT = "demo", "other", "admin"
CERTIFICATE_DAYS = 30


class Tokens(Model):
    """One for each role that a script needs; the same at all sites. admin: role admin."""

    token: str
    other_token: str
    admin_token: str


def new_tokens() -> Tokens:
    return Tokens(
        token=identity_file.new_token(),
        other_token=identity_file.new_token(),
        admin_token=identity_file.new_token(),
    )


def pathspace(site: SitePlan) -> str:
    """Of its FRR."""
    return f"site-{site.name}"


def make_authority(plan: LabPlan) -> None:
    """The lab's own CA. Raises BadSurroundings."""
    pki.init_ca(plan.state_dir / "ca", days=CERTIFICATE_DAYS)


def provision(plan: LabPlan, site: SitePlan, tokens: Tokens | None, now: datetime | None = None) -> Path:
    """All files of that site but its clouds.yaml; returns its configuration. tokens: of linux sites, which
    have no Keystone. Raises BadSurroundings, OSError."""
    home = plan.directory(site.name)
    (home / "data").mkdir(parents=True, exist_ok=True)
    pki.issue(
        plan.state_dir / "ca",
        site.name,
        (site.wan_ip, site.management_ip),
        home / "pki",
        days=CERTIFICATE_DAYS,
    )
    if tokens is not None:
        _write_identity(home / IDENTITY_FILE, tokens, (now or datetime.now(UTC)) + TOKEN_LIFETIME)
        directory_file.write(home / SITES_FILE, [_entry(other) for other in plan.sites])
    config = home / CONFIG_FILE
    config.write_text(toml(settings(plan, site)), encoding="utf-8")
    return config


def _entry(site: SitePlan) -> Site:
    return Site(name=site.name, number=site.number, north_url=site.north, east_west_url=site.east_west_wan)


def _write_identity(path: Path, tokens: Tokens, expires_at: datetime) -> None:
    """Every site takes every other's word for the lab's projects."""
    entries = [
        TokenEntry(
            sha256=identity_file.hash_token(token),
            user=user,
            project=project,
            role=role,
            expires_at=expires_at,
        )
        for token, user, project, role in (
            (tokens.token, "demo-user", PROJECT, "member"),
            (tokens.other_token, "other-user", OTHER_PROJECT, "member"),
            (tokens.admin_token, "operator", ADMIN_PROJECT, "admin"),
        )
    ]
    identity_file.write(path, entries, [Vouch(peer="*", projects=(PROJECT, OTHER_PROJECT, ADMIN_PROJECT))])


def settings(plan: LabPlan, site: SitePlan) -> dict[str, dict[str, Any]]:
    """What differs from the defaults of diminet.config, by section."""
    home = plan.directory(site.name)
    keys = home / "pki"
    return {
        "site": {"name": site.name, "number": site.number, "data_dir": str(home / "data")},
        "north": {"host": site.management_ip, "port": NORTH_PORT, "plain_http": True},
        "east_west": {
            "port": EAST_WEST_PORT,
            "ca": str(keys / "ca.pem"),
            "cert": str(keys / "site.pem"),
            "key": str(keys / "site.key"),
            "crl": str(keys / "crl.pem"),
        },
        **(_of_neutron(home) if plan.south == "neutron" else _of_linux(home, site)),
    }


def _of_linux(home: Path, site: SitePlan) -> dict[str, dict[str, Any]]:
    return {
        "identity": {"path": str(home / IDENTITY_FILE)},
        "directory": {"path": str(home / SITES_FILE)},
        "south": {
            "vtep_ip": site.wan_ip,
            "frr_pathspace": pathspace(site),
            "bgp_asn": ASN,
            "vim_host": site.management_ip,
            "vim_port": SOUTH_PORT,
        },
    }


def _of_neutron(home: Path) -> dict[str, dict[str, Any]]:
    return {
        "identity": {"kind": "keystone", "path": str(home / IDENTITY_FILE)},
        "directory": {"kind": "keystone"},
        "openstack": {
            "file": str(home / CLOUDS_FILE),
            "cloud": templates.SERVICE_USER,
            "peers_cloud": templates.PEERS_USER,
        },
        "south": {"kind": "neutron"},
    }


def toml(sections: Mapping[str, Mapping[str, Any]]) -> str:
    """Strings, numbers and booleans only; JSON's forms of these are TOML's."""
    lines: list[str] = []
    for section, values in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
        lines.append("")
    return "\n".join(lines)


def write_lab_file(plan: LabPlan, tokens: Tokens, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`lab.json` (DESIGN section 7), readable by its owner only, for it holds tokens; returns its content.
    more: beside `sites`."""
    content: dict[str, Any] = {
        "sites": [
            {
                "name": site.name,
                "number": site.number,
                "north": site.north,
                "east_west": site.east_west,
                "south": site.south,
                **tokens.model_dump(),
            }
            for site in plan.sites
        ],
        **(more or {}),
    }
    beside = plan.state_dir / f".{LAB_FILE}.{secrets.token_hex(4)}"
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(content, file, indent=2)
    beside.replace(plan.state_dir / LAB_FILE)
    return content
