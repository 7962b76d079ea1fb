"""Who may speak, and that the other end is the site that was meant: real handshakes on loopback."""

import asyncio
import os
import shutil
import ssl
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest
from east_west_world import context, run

from diminet.east_west import pki
from diminet.east_west.tls import Credentials, TlsFiles, check, days_left, north_context
from diminet.errors import BadSurroundings, NotAuthorised, SiteUnreachable
from diminet.listener import Listener

NOW = datetime.now(UTC)
LONG_AGO = NOW - timedelta(days=400)
IN_A_WEEK = NOW + timedelta(days=7)


class Unchecked(Credentials):
    """Credentials that do not look at their own certificate first, as a careless peer's software."""

    def client(self, site):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.load_cert_chain(self._files.cert, self._files.key)
        return context

    def server(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._files.cert, self._files.key)
        return context

    def not_after(self):
        return 4e9

    def revoked(self, serial):
        return False


def unchecked(files, site):
    credentials = Unchecked.__new__(Unchecked)
    credentials._files = files
    credentials._site_name = site
    return credentials


async def hello(world, credentials=None):
    async with world.serving(), world.peers(credentials) as peers:
        return await peers.at("A").hello(context())


# -- what A does with those who connect ------------------------------------------------------------


@pytest.mark.parametrize(
    ("ca", "when", "says"),
    [
        ("other", NOW, "does not trust the CA of this site's certificate"),
        ("ca", LONG_AGO, "it says that this site's certificate has expired"),
        ("ca", IN_A_WEEK, "does not accept this site's certificate .not valid yet"),
    ],
)
def test_bad_client_certificates_do_not_get_in(world, ca, when, says):
    world.files("A")
    files = world.files("B", ca=ca, now=when)
    with pytest.raises(SiteUnreachable, match=says):
        run(hello(world, unchecked(files, "B")))
    assert world.horizontal.calls == []
    assert world.received == []


def test_no_client_certificate(world):
    async def go():
        trust = ssl.create_default_context(cafile=str(world.files("A").ca))
        async with world.serving() as listener, aiohttp.ClientSession() as session:
            # TLS 1.3: the refusal comes after the handshake, at the first read.
            with pytest.raises(aiohttp.ClientError, match="CERTIFICATE_REQUIRED"):
                await session.get(f"https://127.0.0.1:{listener.port}/", ssl=trust)

    run(go())
    assert world.received == []


def test_an_old_tls_version_is_refused(world):
    async def go():
        old = unchecked(world.files("B"), "B").client("A")
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        async with world.serving() as listener:
            with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
                await asyncio.open_connection("127.0.0.1", listener.port, ssl=old)

    run(go())


def test_plain_http_gets_nothing(world):
    async def go():
        async with world.serving() as listener, aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                await session.get(f"http://127.0.0.1:{listener.port}/")

    run(go())


def test_a_site_that_is_not_in_the_directory_is_refused(world):
    async def go():
        async with world.serving(), world.peers() as peers:
            await peers.at("A").hello(context())
            del world.directory.table["B"]
            await peers.at("A").hello(context())

    with pytest.raises(NotAuthorised, match="'B' is not in the directory of 'A'"):
        run(go())
    assert [code for *_, code in world.received] == ["ok", "not-authorised"]
    assert world.received[1][0] == "unknown"


def test_a_site_that_shows_our_own_name_is_refused(world):
    with pytest.raises(NotAuthorised, match="is that of 'A' itself"):
        run(hello(world, Credentials(world.files("A"), "A")))


def test_a_certificate_without_a_site_is_refused(world):
    files = world.files("B")
    ca, key = pki._load_ca(pki.Authority(world.ca))
    own = pki.ec.generate_private_key(pki.ec.SECP256R1())
    name = pki.x509.Name([pki.x509.NameAttribute(pki.NameOID.COMMON_NAME, "B")])
    certificate = pki._builder(name, ca.subject, own.public_key(), NOW, NOW + timedelta(days=1)).sign(
        key, pki.hashes.SHA256()
    )
    pki._write_key(files.key, own)
    files.cert.write_bytes(certificate.public_bytes(pki.serialization.Encoding.PEM))
    with pytest.raises(NotAuthorised, match="names no DIMINET site"):
        run(hello(world, unchecked(files, "B")))


# -- what B does with those who answer -------------------------------------------------------------


@pytest.mark.parametrize(
    ("site", "ca", "when", "says"),
    [
        ("C", "ca", NOW, "its certificate is that of site 'C', not that of 'A'"),
        ("A", "other", NOW, "not signed by this site's CA"),
        ("A", "ca", LONG_AGO, "its certificate has expired"),
        ("A", "ca", IN_A_WEEK, "not valid yet; compare the clocks"),
    ],
)
def test_the_wrong_server_gets_no_message(world, site, ca, when, says):
    world.files("B")
    server = unchecked(world.files(site, ca=ca, now=when), site)

    async def go():
        async with world.serving(server), world.peers() as peers:
            await peers.at("A").hello(context())

    with pytest.raises(SiteUnreachable, match=says) as caught:
        run(go())
    assert caught.value.sites == ("A",)
    assert world.received == []


def test_something_that_speaks_no_tls(world):
    async def app(scope, receive, send):
        raise AssertionError("never reached")

    async def go():
        listener = Listener(app, "127.0.0.1", 0, grace_s=1)
        await listener.start()
        world.directory.point("A", listener.port)
        try:
            async with world.peers() as peers:
                await peers.at("A").hello(context())
        finally:
            await listener.stop()

    with pytest.raises(SiteUnreachable, match="does an instance of DIMINET listen"):
        run(go())


# -- new files without a restart -------------------------------------------------------------------


def test_renewed_certificates_are_taken_up(world):
    async def go():
        a, b = world.credentials("A"), world.credentials("B")
        async with world.serving(a), world.peers(b) as peers:
            await peers.at("A").hello(context())
            before = a.not_after()
            pki.renew(world.ca, world.files("A").cert.parent, days=900)
            pki.renew(world.ca, world.files("B").cert.parent, days=900)
            await peers.at("A").hello(context())
            return before, a.not_after(), a.days_left()

    before, after, left = run(go())
    assert after - before == pytest.approx(535 * 86_400, abs=60)
    assert left == pytest.approx(900, abs=0.1)


def test_another_ca_is_taken_up_by_both_and_the_old_one_is_shut_out(world):
    async def go():
        a, b = world.credentials("A"), world.credentials("B")
        shutil.copytree(world.files("B").cert.parent, world.root / "old")
        old = pki.SiteFiles(world.root / "old")
        async with world.serving(a), world.peers(b) as peers:
            await peers.at("A").hello(context())
            for site in "AB":
                shutil.rmtree(world.root / f"ca-{site}")
                other = world.files(site, ca="other")
                shutil.copytree(other.cert.parent, world.root / f"ca-{site}")
            await peers.at("A").hello(context())
            async with world.peers(
                unchecked(TlsFiles(ca=old.ca, cert=old.cert, key=old.key), "B")
            ) as outsider:
                with pytest.raises(SiteUnreachable):
                    await outsider.at("A").hello(context())

    run(go())
    assert len(world.received) == 2


def test_revocation_ends_kept_connections_and_shuts_out_new_ones(world):
    async def go():
        async with world.serving(), world.peers() as peers:
            await peers.at("A").hello(context())
            crl = pki.revoke(world.ca, "B")
            shutil.copy(crl, world.files("A").crl)
            with pytest.raises(NotAuthorised, match="'B' is revoked"):
                await peers.at("A").hello(context())  # on the kept connection
            async with world.peers() as again:
                for _ in range(2):  # new handshakes: 403, or refused by TLS itself
                    with pytest.raises((SiteUnreachable, NotAuthorised), match="revoked"):
                        await again.at("A").hello(context())

    run(go())
    assert len(world.horizontal.calls) == 1


def test_a_revoked_server_gets_no_message(world):
    world.files("A")
    shutil.copy(pki.revoke(world.ca, "A"), world.files("B").crl)
    server = unchecked(world.files("A"), "A")

    async def go():
        async with world.serving(server), world.peers() as peers:
            await peers.at("A").hello(context())

    with pytest.raises(SiteUnreachable, match="its certificate is revoked"):
        run(go())


def test_a_bad_file_later_leaves_the_last_good_copy(world):
    async def go():
        async with world.serving(), world.peers() as peers:
            await peers.at("A").hello(context())
            good = world.files("A").cert.read_bytes()
            world.files("A").cert.write_text("nonsense")
            async with world.peers() as fresh:
                await fresh.at("A").hello(context())
            world.files("A").cert.write_bytes(good)
            async with world.peers() as fresh:
                await fresh.at("A").hello(context())

    run(go())
    assert len(world.received) == 3


def test_a_peer_not_met_before_is_reached_while_the_files_are_being_replaced(world):
    """The last good copy is the content, not the files: they may be gone just now, or half written."""

    async def go():
        b = world.credentials("B")
        world.files("B").cert.unlink()
        world.files("B").key.write_text("half")
        async with world.serving(), world.peers(b) as peers:
            await peers.at("A").hello(context())

    run(go())
    assert len(world.received) == 1


def test_own_expired_certificate_is_named(world):
    """B's clock (or certificate) is off: the message says so instead of blaming A."""

    async def go():
        b = world.credentials("B")
        async with world.peers(b, now=lambda: b.not_after() + 60) as peers:
            await peers.at("A").hello(context())

    with pytest.raises(SiteUnreachable, match=r"certificate of this site \(B\) expired on"):
        run(go())


# -- check at start-up -----------------------------------------------------------------------------


def test_check_says_what_is_wrong(world, tmp_path):
    files = world.files("A")
    check(files, "A")

    def but(**changes):
        fields = {"ca": files.ca, "cert": files.cert, "key": files.key, "crl": files.crl} | changes
        return TlsFiles(**fields)

    garbage = tmp_path / "garbage"
    garbage.write_text("-----BEGIN CERTIFICATE-----\nxx\n-----END CERTIFICATE-----\n")
    start, end = 3600, 366 * 86_400
    now = datetime.now(UTC).timestamp()
    for wrong, name, at, says in [
        (but(cert=tmp_path / "none"), "A", now, "does not exist"),
        (but(cert=tmp_path), "A", now, "cannot be read"),
        (but(cert=garbage), "A", now, "not a PEM certificate"),
        (but(key=garbage), "A", now, "not a PEM key"),
        (but(key=world.files("B").key), "A", now, "does not belong to the certificate"),
        (but(ca=world.files("B", ca="other").ca), "A", now, "not signed by the CA"),
        (but(crl=garbage), "A", now, "not a PEM CRL"),
        (but(crl=world.files("B", ca="other").crl), "A", now, "not signed by the CA"),
        (files, "Z", now, "is of site 'A', but this site is 'Z'"),
        (files, "A", now - start - 600, "set the clock"),
        (files, "A", now + end, "expired on .* `diminet pki renew`"),
    ]:
        with pytest.raises(BadSurroundings, match=says):
            check(wrong, name, at)
    shutil.copy(pki.revoke(world.ca, "A"), files.crl)
    with pytest.raises(BadSurroundings, match="is revoked"):
        check(files, "A")


@pytest.mark.skipif(os.getuid() != 0, reason="takes root's rights off to see")
def test_an_unreadable_key_says_so(world):
    files = world.files("A")
    files.key.chmod(0o600)
    os.seteuid(65534)
    try:
        with pytest.raises(BadSurroundings, match="cannot be read by this user"):
            check(files, "A")
    finally:
        os.seteuid(0)


def test_days_left(world):
    assert days_left(world.files("A", days=30).cert) == pytest.approx(30, abs=0.1)
    assert days_left(world.files("B", days=30).cert, now=IN_A_WEEK.timestamp()) == pytest.approx(23, abs=0.1)


def test_north_tls_asks_for_no_certificate_and_is_renewed(world):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(scope["peer_certificate"]).encode()})

    async def go():
        files = world.files("A")
        listener = Listener(app, "127.0.0.1", 0, north_context(files.cert, files.key, recheck_s=0.0))
        await listener.start()
        trust = ssl.create_default_context(cafile=str(files.ca))
        seen = []
        try:
            for _ in range(2):
                reader, writer = await asyncio.open_connection("127.0.0.1", listener.port, ssl=trust)
                seen.append(writer.get_extra_info("peercert")["serialNumber"])
                writer.write(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
                assert b"None" in await reader.read()
                writer.close()
                pki.renew(world.ca, files.cert.parent)
        finally:
            await listener.stop()
        return seen

    first, second = run(go())
    assert first != second


def test_a_taken_port_is_a_clear_message(world):
    async def go():
        async with world.serving() as listener:
            second = Listener(None, "127.0.0.1", listener.port, name="north API")
            with pytest.raises(BadSurroundings, match=rf"port {listener.port} is taken.*north API"):
                await second.start()
        with pytest.raises(BadSurroundings, match="no interface"):
            await Listener(None, "192.0.2.1", 0).start()
        with pytest.raises(BadSurroundings, match="cannot listen"):
            await Listener(None, "no-such-host.invalid", 0).start()

    run(go())
