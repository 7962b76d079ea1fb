"""Every setting of an instance: its name, unit, default and what it is for (DESIGN section 9).

Read from a TOML file, overridden by the environment: `DIMINET_<SECTION>__<SETTING>`, for example
`DIMINET_LIMITS__REQUEST_TIMEOUT=5`. Lists and tables are JSON there. Unknown settings are refused.
"""

import os
import tomllib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from diminet.config_limits import LimitSettings
from diminet.config_values import Asn, Port, Seconds, Section
from diminet.errors import BadSurroundings
from diminet.model import SITE_NAME

DEFAULT_FILE = Path("/etc/diminet/diminet.toml")
ENVIRONMENT_PREFIX = "DIMINET_"


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


class SiteSettings(Section):
    """Who this instance is."""

    name: str = Field(pattern=SITE_NAME, description="unique name of this site (the OpenStack region)")
    number: int = Field(ge=1, le=4095, description="unique number of this site, published, never reused")
    data_dir: Path = Field(Path("/var/lib/diminet"), description="directory of what must outlive a restart")
    run_dir: Path = Field(Path("/run/diminet"), description="directory of sockets and other run-time state")


class NorthSettings(Section):
    """The REST API for users. It needs TLS, a trusted proxy that does TLS, or a loopback address."""

    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: Port = Field(9790, description="TCP port to listen on (0: any free one)")
    tls_cert: Path | None = Field(None, description="PEM file with this server's certificate chain")
    tls_key: Path | None = Field(None, description="PEM file with its private key")
    trusted_proxy: str | None = Field(
        None, description="address of the proxy that does TLS in front of this port and alone reaches it"
    )
    plain_http: bool = Field(
        False, description="serve without TLS although the address is not loopback (a lab, never production)"
    )
    public_url: str | None = Field(
        None, pattern=r"^https?://[^\s]+$", description="base URL that users see; default: what they asked"
    )

    @model_validator(mode="after")
    def _protected(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together: set both or neither")
        if not (self.tls_cert or self.trusted_proxy or _is_loopback(self.host) or self.plain_http):
            raise ValueError(
                f"host {self.host} is not loopback: set tls_cert and tls_key, or trusted_proxy to the "
                "address of the proxy that does TLS"
            )
        return self


class EastWestSettings(Section):
    """The REST API between instances: always mutual TLS."""

    host: str = Field("0.0.0.0", min_length=1, description="address to listen on")  # noqa: S104 - mutual TLS
    port: Port = Field(9791, description="TCP port to listen on (0: any free one)")
    ca: Path = Field(Path("/etc/diminet/pki/ca.pem"), description="PEM file with the CA of the peers")
    cert: Path = Field(Path("/etc/diminet/pki/site.pem"), description="PEM file with this site's certificate")
    key: Path = Field(Path("/etc/diminet/pki/site.key"), description="PEM file with its private key")
    crl: Path = Field(
        Path("/etc/diminet/pki/crl.pem"),
        description="PEM file with the CA's revocation list; while there is none, nothing is revoked",
    )
    certificate_check_interval: Seconds = Field(
        10.0, description="seconds between looks for new certificate files, taken up without restart"
    )


class DatabaseSettings(Section):
    url: str | None = Field(
        None, min_length=1, description="SQLAlchemy URL; default: SQLite file diminet.db in site.data_dir"
    )


class IdentitySettings(Section):
    """Who may ask."""

    kind: Literal["file", "keystone"] = Field(
        "file",
        description="`file`: hashed tokens and vouching rules in one file; `keystone`: this site's Keystone",
    )
    path: Path = Field(
        Path("/etc/diminet/identity.toml"),
        description="the file of kind `file`; of kind `keystone` the file of vouching rules, if there is one",
    )
    token_cache: Seconds = Field(
        60.0, description="keystone: seconds that a token is believed without asking Keystone again"
    )
    token_cache_away: Seconds = Field(
        300.0, description="keystone: the same while Keystone does not answer; at least token_cache"
    )
    hand_on_tokens: bool = Field(
        True,
        description="keystone: the other sites ask the same Keystone, so users' tokens are handed on to "
        "them; false where each site has a Keystone of its own and the vouching rules decide",
    )

    @model_validator(mode="after")
    def _away_is_longer(self) -> Self:
        if self.token_cache_away < self.token_cache:
            raise ValueError("token_cache_away is below token_cache: raise it")
        return self


class DirectorySettings(Section):
    """Who the other sites are."""

    kind: Literal["file", "keystone"] = Field(
        "file",
        description="`file`: names, numbers and URLs of sites in one file; `keystone`: the catalog's "
        "endpoints `intersite` and `intersite-horizontal` of each region",
    )
    path: Path = Field(Path("/etc/diminet/sites.toml"), description="the file of kind `file`")
    interface: Literal["public", "internal", "admin"] = Field(
        "public", description="keystone: which endpoints of the catalog"
    )
    refresh_interval: Seconds = Field(60.0, description="keystone: seconds between two looks at the catalog")


class OpenStackSettings(Section):
    """This site's OpenStack, for identity, directory and south of the kinds that ask it."""

    cloud: str = Field(
        "diminet",
        min_length=1,
        description="entry of clouds.yaml: the instance's user, roles `admin`, `service`",
    )
    peers_cloud: str | None = Field(
        None,
        min_length=1,
        description="entry of clouds.yaml whose token goes to other sites in X-Service-Token: a user with "
        "the role `service` and no other; default: none is sent",
    )
    file: Path | None = Field(
        None, description="the clouds.yaml; default: where OpenStack's clients look (/etc/openstack, …)"
    )
    region: str | None = Field(None, min_length=1, description="region of this site; default: site.name")
    threads: int = Field(8, ge=1, le=100, description="calls to Keystone at once")


class SouthSettings(Section):
    """This site's own networks."""

    kind: Literal["linux", "neutron"] = Field("linux", description="kind of site")
    mtu: int = Field(
        1450, ge=1280, le=65485, description="bytes that the way between the sites carries, less 50 for VXLAN"
    )
    threads: int = Field(16, ge=1, le=200, description="neutron: calls to Neutron at once")
    vtep_ip: str | None = Field(
        None,
        min_length=2,
        description="linux, must be given: IP address of this host that ends the VXLAN tunnels",
    )
    frr_pathspace: str | None = Field(
        None, min_length=1, description="`-N NAME` of the FRR that serves this site; default: the plain one"
    )
    run_dir: Path = Field(Path("/run/diminet/south"), description="directory of namespaces and FRR sockets")
    bgp_asn: Asn = Field(64512, description="AS number that this site's FRR runs EVPN with")
    vim_host: str = Field("127.0.0.1", min_length=1, description="address of the Neutron-shaped REST")
    vim_port: Port = Field(9696, description="TCP port of the Neutron-shaped REST (0: any free one)")
    vim_anonymous_project: str | None = Field(
        None,
        min_length=1,
        max_length=255,
        description="project that requests without a token act in (`--os-auth-type none`), as a member; only "
        "with a loopback vim_host, where every user of this host may then ask; default: a token is needed",
    )
    vim_database: Path | None = Field(
        None, description="SQLite file of the networks, subnets and ports; default: vim.db in site.data_dir"
    )

    @model_validator(mode="after")
    def _has_its_tunnel(self) -> Self:
        if self.kind == "linux" and self.vtep_ip is None:
            raise ValueError("vtep_ip is missing: add this host's address towards the other sites")
        return self

    @property
    def vtep(self) -> str:
        """Of kind linux, which has one."""
        assert self.vtep_ip is not None
        return self.vtep_ip

    @model_validator(mode="after")
    def _anonymous_here_only(self) -> Self:
        if self.vim_anonymous_project and not _is_loopback(self.vim_host):
            raise ValueError(
                f"vim_anonymous_project lets anybody in who reaches vim_host {self.vim_host}: set vim_host "
                "to 127.0.0.1, or leave the project out and use tokens"
            )
        return self


class IdentifierSettings(Section):
    """VNI = site number x 4096 + k; route target = target_asn:(VNI x 256 + slot)."""

    target_asn: int = Field(
        64999, ge=1, le=65535, description="ASN of route targets, the same at all sites, of no BGP speaker"
    )
    bgp_asns: tuple[Asn, ...] = Field(
        (64512,), max_length=1000, description="AS numbers that BGP speakers of the sites use"
    )
    vni_k_first: int = Field(1, ge=0, le=4095, description="lowest k that this site mints VNIs with")
    vni_k_last: int = Field(4095, ge=0, le=4095, description="highest k that this site mints VNIs with")

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.target_asn in self.bgp_asns:
            raise ValueError(
                f"target_asn {self.target_asn} is also in bgp_asns: choose one that no BGP speaker uses, "
                "because FRR's automatic route targets are AS:VNI"
            )
        if self.vni_k_first > self.vni_k_last:
            raise ValueError("vni_k_first is above vni_k_last: no VNI is left")
        return self


class LogSettings(Section):
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level logged")


class Settings(BaseSettings):
    """Everything above; the methods at its end fill in what depends on another setting."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    site: SiteSettings
    south: SouthSettings
    north: NorthSettings = Field(default_factory=NorthSettings)
    east_west: EastWestSettings = Field(default_factory=EastWestSettings)
    database: DatabaseSettings = Field(default_factory=DatabaseSettings)
    identity: IdentitySettings = Field(default_factory=IdentitySettings)
    directory: DirectorySettings = Field(default_factory=DirectorySettings)
    openstack: OpenStackSettings = Field(default_factory=OpenStackSettings)
    identifiers: IdentifierSettings = Field(default_factory=IdentifierSettings)
    limits: LimitSettings = Field(default_factory=LimitSettings)
    log: LogSettings = Field(default_factory=LogSettings)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment goes before the file, whose content is handed to the constructor."""
        return env_settings, init_settings

    @model_validator(mode="after")
    def _asns_differ(self) -> Self:
        if self.identifiers.target_asn == self.south.bgp_asn:
            raise ValueError(
                f"identifiers.target_asn and south.bgp_asn are both {self.south.bgp_asn}: they must differ"
            )
        return self

    def database_url(self) -> str:
        return self.database.url or f"sqlite:///{self.site.data_dir / 'diminet.db'}"

    def vim_database(self) -> Path:
        return self.south.vim_database or self.site.data_dir / "vim.db"

    def region(self) -> str:
        return self.openstack.region or self.site.name

    def settle_interval(self) -> float:
        """Neutron may be giving an address out while its pool changes; the linux site's own does not."""
        default = 1.0 if self.south.kind == "neutron" else 0.0
        return default if self.limits.settle_interval is None else self.limits.settle_interval


def load(path: Path | str) -> Settings:
    """The settings of that TOML file and the environment.

    Raises BadSurroundings with the file, the setting and what to do.
    """
    path = Path(path)
    data = _toml(path)
    try:
        return Settings(**data)
    except ValidationError as error:
        raise BadSurroundings(_sentence(path, error)) from None
    except SettingsError as error:
        raise BadSurroundings(f"environment: {error}: lists and tables there are JSON, correct it") from None


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadSurroundings(
            f"{path}: there is no such file; create it or name another with --config"
        ) from None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise BadSurroundings(
            f"{path}: cannot be read ({reason}); make it a file that this user may read"
        ) from None
    except UnicodeDecodeError:
        raise BadSurroundings(f"{path}: is not UTF-8 text; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise BadSurroundings(f"{path}: is not valid TOML: {error}; correct that line") from None


def _sentence(path: Path, error: ValidationError) -> str:
    """All faults in one line each. Values are not repeated: one of them may be a password in a URL."""
    return f"{path}: " + "; ".join(
        _fault(fault["type"], fault["loc"], fault["msg"]) for fault in error.errors()
    )


def _fault(kind: str, location: tuple[int | str, ...], message: str) -> str:
    key = ".".join(str(part) for part in location)
    if kind == "extra_forbidden":
        return f"{key}: there is no such setting; remove it or correct its name{_near(location)}"
    if kind == "missing":
        return f"{key}: is missing; add it"
    message = message.removeprefix("Value error, ")
    return f"{key}: {message}; correct it (file, or variable {_variable(location)})" if key else message


def _near(location: tuple[int | str, ...]) -> str:
    """The settings that there are, at that place."""
    fields = Settings.model_fields
    if len(location) > 1 and location[0] in fields:
        section = fields[str(location[0])].annotation
        fields = getattr(section, "model_fields", {})
    return f" (there are: {', '.join(sorted(fields))})"


def _variable(location: tuple[int | str, ...]) -> str:
    return ENVIRONMENT_PREFIX + "__".join(str(part) for part in location if isinstance(part, str)).upper()
