"""The certificate authority and its commands."""

import json
import stat
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from diminet.cli.pki import app
from diminet.east_west import pki
from diminet.east_west.certificates import site_of
from diminet.east_west.tls import TlsFiles, check
from diminet.errors import BadSurroundings, DiminetError, InvalidRequest

runner = CliRunner()


def load(path):
    return x509.load_pem_x509_certificate(path.read_bytes())


@pytest.fixture
def ca(tmp_path):
    pki.init_ca(tmp_path / "ca")
    return tmp_path / "ca"


def test_what_a_certificate_says(ca, tmp_path):
    files = pki.issue(ca, "lyon", ["10.0.0.2", "2001:db8::2", "lyon.example"], tmp_path / "lyon")
    check(TlsFiles(ca=files.ca, cert=files.cert, key=files.key, crl=files.crl), "lyon")
    certificate, authority = load(files.cert), load(ca / "ca.pem")
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["diminet://site/lyon"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.2", "2001:db8::2"]
    assert names.get_values_for_type(x509.DNSName) == ["lyon.example"]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.critical
    assert not basic.value.ca
    assert authority.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert (
        certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        == authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.key_identifier
    )
    assert certificate.not_valid_before_utc < datetime.now(UTC) - timedelta(minutes=30)
    assert certificate.serial_number.bit_length() > 64
    for key in (files.key, ca / "ca.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert not list(tmp_path.rglob(".*.new"))


def test_openssl_agrees(ca, tmp_path):
    files = pki.issue(ca, "lyon", ["10.0.0.2"], tmp_path / "lyon")
    verify = ["openssl", "verify", "-x509_strict", "-crl_check", "-CRLfile", files.crl, "-CAfile", files.ca]
    assert subprocess.run([*verify, files.cert], check=False, capture_output=True).returncode == 0
    pki.revoke(ca, "lyon")
    verify[5] = ca / "crl.pem"
    revoked = subprocess.run([*verify, files.cert], check=False, capture_output=True, text=True)
    assert "revoked" in revoked.stderr


def test_nothing_is_overwritten(ca, tmp_path):
    files = pki.issue(ca, "lyon", ["10.0.0.2"], tmp_path / "lyon")
    before = files.cert.read_bytes(), files.key.read_bytes(), (ca / "ca.key").read_bytes()
    with pytest.raises(BadSurroundings, match="not overwritten"):
        pki.init_ca(ca)
    with pytest.raises(BadSurroundings, match="not overwritten"):
        pki.issue(ca, "paris", ["10.0.0.1"], tmp_path / "lyon")
    assert before == (files.cert.read_bytes(), files.key.read_bytes(), (ca / "ca.key").read_bytes())


def test_renewal_keeps_site_and_addresses_with_a_new_key(ca, tmp_path):
    files = pki.issue(ca, "lyon", ["10.0.0.2", "lyon.example"], tmp_path / "lyon", days=10)
    old, old_key = load(files.cert), files.key.read_bytes()
    pki.renew(ca, tmp_path / "lyon", days=20)
    new = load(files.cert)
    names = [c.extensions.get_extension_for_class(x509.SubjectAlternativeName).value for c in (old, new)]
    assert names[0] == names[1]
    assert new.not_valid_after_utc - old.not_valid_after_utc > timedelta(days=9)
    assert files.key.read_bytes() != old_key
    check(TlsFiles(ca=files.ca, cert=files.cert, key=files.key), "lyon")


def test_revocation_names_all_of_a_site_and_only_these(ca, tmp_path):
    mine = [load(pki.issue(ca, "lyon", [], tmp_path / "1").cert).serial_number]
    pki.renew(ca, tmp_path / "1")
    mine.append(load(tmp_path / "1" / "site.pem").serial_number)
    pki.issue(ca, "paris", [], tmp_path / "2")
    pki.revoke(ca, "lyon")
    pki.revoke(ca, "lyon")
    crl = x509.load_pem_x509_crl((ca / "crl.pem").read_bytes())
    assert sorted(entry.serial_number for entry in crl) == sorted(mine)
    with pytest.raises(BadSurroundings, match="no certificate to site 'rome'"):
        pki.revoke(ca, "rome")


def test_a_certificate_does_not_outlive_its_ca(tmp_path):
    pki.init_ca(tmp_path / "ca", days=5)
    files = pki.issue(tmp_path / "ca", "lyon", [], tmp_path / "lyon", days=500)
    assert load(files.cert).not_valid_after_utc == load(tmp_path / "ca" / "ca.pem").not_valid_after_utc
    with pytest.raises(BadSurroundings, match="CA has expired"):
        pki.renew(tmp_path / "ca", tmp_path / "lyon", now=datetime.now(UTC) + timedelta(days=6))


@pytest.mark.parametrize(
    ("site", "addresses", "days"),
    [
        ("", [], 1),
        ("a b", [], 1),
        ("../x", [], 1),
        ("x\n", [], 1),
        ("x" * 64, [], 1),
        ("lyon", ["bad name"], 1),
        ("lyon", ["a/b"], 1),
        ("lyon", ["host\n"], 1),
        ("lyon", ["10.0.0.1/24"], 1),
        ("lyon", [], 0),
        ("lyon", [], 10**6),
    ],
)
def test_bad_input_leaves_nothing(ca, tmp_path, site, addresses, days):
    with pytest.raises(InvalidRequest):
        pki.issue(ca, site, addresses, tmp_path / "out", days=days)
    assert not (tmp_path / "out").exists()
    assert list((ca / "issued").iterdir()) == []


@given(st.text(max_size=30))
def test_addresses_are_read_or_refused(text):
    try:
        name = pki._general_name(text)
    except InvalidRequest:
        return
    assert isinstance(name, x509.IPAddress | x509.DNSName)


def test_without_a_ca_or_with_a_broken_one(tmp_path, ca):
    with pytest.raises(BadSurroundings, match="does not exist"):
        pki.issue(tmp_path / "none", "lyon", [], tmp_path / "out")
    (ca / "ca.key").write_text("x")
    with pytest.raises(BadSurroundings, match="not a PEM key"):
        pki.issue(ca, "lyon", [], tmp_path / "out")
    with pytest.raises(DiminetError, match="cannot be made"):
        pki.init_ca(ca / "ca.pem" / "below")


def test_two_uris_name_no_site(ca):
    certificate, key = pki._load_ca(pki.Authority(ca))
    own = pki.ec.generate_private_key(pki.ec.SECP256R1())
    now = datetime.now(UTC)
    for uris in (["diminet://site/A", "diminet://site/B"], ["diminet://site/A/B"], ["https://site/A"], []):
        names = [x509.UniformResourceIdentifier(uri) for uri in uris] or [x509.DNSName("A")]
        made = (
            pki._builder(certificate.subject, certificate.subject, own.public_key(), now, now + timedelta(1))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(key, pki.hashes.SHA256())
        )
        assert site_of(made) is None


def test_the_commands(tmp_path):
    ca, out = str(tmp_path / "ca"), str(tmp_path / "lyon")

    def call(*args, code=0):
        result = runner.invoke(app, [*args, "--json"])
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)

    assert call("init", "--dir", ca)["ca"].endswith("ca.pem")
    issued = call(
        "issue", "--dir", ca, "--site", "lyon", "--address", "10.0.0.2", "--address", "l.ex", "--out", out
    )
    assert issued["site"] == "lyon"
    assert load(tmp_path / "lyon" / "site.pem").subject.rfc4514_string() == "CN=lyon"
    assert call("renew", "--dir", ca, "--out", out)["cert"] == issued["cert"]
    assert call("revoke", "--dir", ca, "--site", "lyon")["crl"].endswith("crl.pem")
    refused = call("init", "--dir", ca, code=1)
    assert refused["error"]["code"] == "bad-surroundings"
    human = runner.invoke(app, ["init", "--dir", ca])
    assert human.exit_code == 1
    assert "not overwritten" in human.output
    assert "Traceback" not in human.output
    assert runner.invoke(app, ["issue", "--dir", ca]).exit_code == 2
