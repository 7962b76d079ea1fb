"""Settings: what is read, what is refused, and that a refusal says what to do."""

import re
from pathlib import Path

import pytest

from diminet.config import Settings, load
from diminet.config_limits import LimitSettings
from diminet.config_values import Section
from diminet.errors import BadSurroundings

LEAST = """
[site]
name = "paris"
number = 1
[south]
vtep_ip = "10.0.0.1"
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    for name in ("DIMINET_URL", "DIMINET_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    def _write(text):
        path = tmp_path / "diminet.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return _write


def test_the_least_file_gives_the_documented_defaults(write):
    settings = load(write(LEAST))
    assert (settings.north.port, settings.east_west.port, settings.south.vim_port) == (9790, 9791, 9696)
    limits = settings.limits
    assert (limits.sync_interval, limits.request_timeout, settings.settle_interval()) == (10, 10, 0)
    assert (limits.revoked_ttl, limits.rate_per_second, limits.rate_burst) == (86400, 20, 100)
    assert (limits.body_bytes, limits.list_page_most) == (2**20, 1000)
    assert settings.database_url() == "sqlite:////var/lib/diminet/diminet.db"
    assert str(settings.vim_database()) == "/var/lib/diminet/vim.db"


def test_the_environment_goes_before_the_file_and_merges_into_a_section(write, monkeypatch):
    monkeypatch.setenv("DIMINET_LIMITS__SYNC_INTERVAL", "20")
    monkeypatch.setenv("DIMINET_URL", "http://the.cli/uses/this")
    settings = load(write(LEAST + "[limits]\nsync_interval = 15\nrequest_timeout = 7\n"))
    assert (settings.limits.sync_interval, settings.limits.request_timeout) == (20, 7)


def test_every_setting_is_described():
    sections = [f.annotation for f in Settings.model_fields.values()]
    assert all(issubclass(section, Section) for section in sections)
    bare = [f"{s.__name__}.{n}" for s in sections for n, f in s.model_fields.items() if not f.description]
    assert bare == []


def test_every_time_says_its_unit():
    words = ("timeout", "interval", "ttl", "lifetime", "backoff", "keepalive", "watermark")
    wrong = [
        name
        for name, field in LimitSettings.model_fields.items()
        if any(w in name for w in words) and "seconds" not in field.description
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (LEAST + "[limits]\nfoo = 1\n", "limits.foo: there is no such setting"),
        (LEAST + "[nort]\nport = 1\n", "nort: there is no such setting"),
        ("[site]\nname = 'paris'\n", "site.number: is missing; add it"),
        (LEAST + "[north]\nport = 70000\n", "north.port: "),
        (LEAST + "[north]\nhost = '0.0.0.0'\n", "set tls_cert and tls_key, or trusted_proxy"),
        (LEAST + "[north]\ntls_cert = '/x'\n", "go together"),
        (LEAST + "[identifiers]\ntarget_asn = 64512\n", "choose one that no BGP speaker uses"),
        (LEAST + "[identifiers]\nbgp_asns=[]\ntarget_asn = 64512\n", "they must differ"),
        (LEAST + "[identifiers]\nvni_k_first=9\nvni_k_last=8\n", "no VNI is left"),
        (LEAST + "[limits]\noutbox_backoff_most = 11\n", "outbox_backoff_most exceeds sync_interval"),
        (LEAST + "[limits]\nsync_interval = nan\n", "limits.sync_interval"),
        (LEAST + "[limits]\nreservation_lifetime = 10\n", "raise it"),
        (LEAST + "[limits]\nlist_page = 20\nlist_page_most = 10\n", "list_page_most is below"),
        ("[site\n", "is not valid TOML"),
        (b"\xff\xfe", "is not UTF-8"),
    ],
)
def test_a_bad_file_is_refused_with_file_setting_and_what_to_do(write, text, says):
    path = write(text)
    with pytest.raises(BadSurroundings) as refusal:
        load(path)
    assert str(path) in refusal.value.message
    assert says in refusal.value.message


def test_a_missing_file_and_a_directory_are_refused(tmp_path):
    with pytest.raises(BadSurroundings, match="there is no such file"):
        load(tmp_path / "none.toml")
    with pytest.raises(BadSurroundings, match="cannot be read"):
        load(tmp_path)


def test_a_bad_variable_is_refused(write, monkeypatch):
    monkeypatch.setenv("DIMINET_IDENTIFIERS__BGP_ASNS", "64512,64513")
    with pytest.raises(BadSurroundings, match="are JSON"):
        load(write(LEAST))


def test_what_make_tells_the_tests_is_no_setting():
    """DIMINET_OPENSTACK=long once was refused as a bad section by every instance that a test started."""
    told = re.findall(r"DIMINET_([A-Z]+)=", (Path(__file__).parents[2] / "Makefile").read_text())
    assert told
    assert {name.lower() for name in told}.isdisjoint(Settings.model_fields)


def test_a_password_in_the_file_is_not_in_the_refusal(write):
    path = write(LEAST + "[database]\nurl = 'postgresql://u:pa55word@h/d'\nport = 1\n")
    with pytest.raises(BadSurroundings) as refusal:
        load(path)
    assert "pa55word" not in refusal.value.message


NEUTRON = """
[site]
name = "paris"
number = 1
[south]
kind = "neutron"
[identity]
kind = "keystone"
[directory]
kind = "keystone"
"""


def test_a_neutron_site_needs_no_vtep_and_settles_for_a_second(write):
    settings = load(write(NEUTRON))
    assert (settings.region(), settings.settle_interval()) == ("paris", 1)
    assert load(write(NEUTRON + '[openstack]\nregion = "r1"\n')).region() == "r1"
    assert load(write(NEUTRON + "[limits]\nsettle_interval = 0\n")).settle_interval() == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[site]\nname = "paris"\nnumber = 1\n[south]\nkind = "linux"\n', "vtep_ip is missing: add"),
        (NEUTRON + "token_cache_away = 1\n", "there is no such setting"),
        (NEUTRON.replace("[directory]", "token_cache_away = 1\n[directory]"), "below token_cache: raise it"),
    ],
)
def test_what_the_kinds_need_is_said(write, text, said):
    with pytest.raises(BadSurroundings, match=said):
        load(write(text))


def test_requests_without_a_token_only_on_loopback(write):
    """`openstack --os-auth-type none` of the operator on the host itself, never of the network."""
    assert load(write(LEAST)).south.vim_anonymous_project is None
    opened = LEAST + 'vim_anonymous_project = "demo"\n'
    assert load(write(opened)).south.vim_anonymous_project == "demo"
    with pytest.raises(BadSurroundings, match="set vim_host"):
        load(write(opened + 'vim_host = "192.0.2.1"\n'))
