"""The configuration files of the Keystones and the Neutrons: no message broker, sqlite, which bears one
thread for each process, and tokens that are believed from a cache in memory. Pure."""

from collections.abc import Mapping
from pathlib import Path

from diminet.lab.openstack.environment import Environment
from diminet.model import Model

CACHE_TIME = 300  # seconds that Neutron believes a token that it has validated
PORTS_MOST = 100_000  # of a project: with a limit, Neutron tells what is in the making
VNI_RANGE = "1:1000"  # of Neutron's own tenant networks; rows are made for each at the first start
MTU = 1500  # bytes, of Neutron's underlay; its VXLAN networks get 50 less


class User(Model):
    name: str
    password: str
    project: str
    roles: tuple[str, ...]


class Accounts(Model):
    """Who is in the Keystone. `admin` has every role; `diminet` is the instances' service user."""

    admin_password: str
    projects: tuple[str, ...]
    users: tuple[User, ...]

    def user(self, name: str) -> User:
        if name == "admin":
            return User(name="admin", password=self.admin_password, project="admin", roles=("admin",))
        return next(user for user in self.users if user.name == name)


def ini(sections: Mapping[str, Mapping[str, object]]) -> str:
    """oslo.config's form."""
    lines: list[str] = []
    for section, values in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {value}" for key, value in values.items()]
        lines.append("")
    return "\n".join(lines)


def keystone(directory: Path, *, token_lifetime: int) -> str:
    """token_lifetime: seconds."""
    return ini(
        {
            "DEFAULT": {"use_stderr": True},
            "database": _sqlite(directory / "keystone.sqlite"),
            "cache": {"enabled": True, "backend": "oslo_cache.dict"},
            "identity": {"password_hash_rounds": 4},
            "token": {"expiration": token_lifetime, "allow_expired_window": 600},
            "fernet_tokens": {"key_repository": directory / "fernet"},
            "fernet_receipts": {"key_repository": directory / "receipts"},
            "credential": {"key_repository": directory / "credentials"},
        }
    )


def neutron(
    directory: Path,
    environment: Environment,
    *,
    region: str,
    keystone_url: str,
    service: User,
    base_mac: str,
    database: str | None = None,
) -> str:
    """keystone_url: with /v3. service: the user by which Neutron validates tokens. base_mac: of its ports.
    database: SQLAlchemy's URL; None: neutron.sqlite in its directory."""
    extensions = environment.site_packages / "networking_bgpvpn" / "neutron" / "extensions"
    driver = "networking_bgpvpn.neutron.services.service_drivers.driver_api.BGPVPNDriver"
    return ini(
        {
            "DEFAULT": {
                "use_stderr": True,
                "core_plugin": "ml2",
                "service_plugins": "router,bgpvpn",
                "api_extensions_path": extensions,
                "api_paste_config": environment.root / "etc" / "neutron" / "api-paste.ini",
                "auth_strategy": "keystone",
                "transport_url": "fake://",
                "rpc_workers": 0,
                "rpc_response_timeout": 1,
                "dhcp_agent_notification": False,
                "notify_nova_on_port_status_changes": False,
                "notify_nova_on_port_data_changes": False,
                "base_mac": base_mac,
                "global_physnet_mtu": MTU,
                "state_path": directory / "state",
            },
            "oslo_concurrency": {"lock_path": directory / "locks"},
            "oslo_messaging_notifications": {"driver": "noop"},
            "database": {"connection": database} if database else _sqlite(directory / "neutron.sqlite"),
            "keystone_authtoken": {
                "auth_type": "password",
                "interface": "public",
                "auth_url": keystone_url,
                "www_authenticate_uri": keystone_url,
                "username": service.name,
                "password": service.password,
                "project_name": service.project,
                "user_domain_id": "default",
                "project_domain_id": "default",
                "region_name": region,
                "service_token_roles": "service",
                "service_token_roles_required": True,
                "token_cache_time": CACHE_TIME,
            },
            "quotas": {"quota_network": -1, "quota_subnet": -1, "quota_port": PORTS_MOST},
            "service_providers": {"service_provider": f"BGPVPN:Dummy:{driver}:default"},
            "ml2": {
                "type_drivers": "vxlan,local,flat",
                "tenant_network_types": "vxlan",
                "mechanism_drivers": "",
                "extension_drivers": "port_security",
            },
            "ml2_type_vxlan": {"vni_ranges": VNI_RANGE},
        }
    )


def _sqlite(path: Path) -> dict[str, object]:
    """Not flushed to the disk: what a killed server wrote stays, and no cloud outlives the machine."""
    return {"connection": f"sqlite:///{path}", "sqlite_synchronous": False}


def base_mac(number: int) -> str:
    """Every region its own, so that no MAC is at two sites of one L2 service (docs/openstack.md): the site's
    number is in the third and fourth octets. A fourth one of 00 would mean any to Neutron."""
    high, low = divmod(number - 1, 255)
    return f"fa:16:{high:02x}:{low + 1:02x}:00:00"
