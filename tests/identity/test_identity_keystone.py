"""KeystoneIdentity against a real Keystone."""

import asyncio
import json
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from keystoneauth1.session import Session
from pydantic import SecretStr

from diminet.cloud import Cloud as SiteCloud
from diminet.cloud import Entry
from diminet.errors import NotAuthenticated, NotAuthorised, SiteRefused, SiteUnreachable
from diminet.identity.file import Vouch
from diminet.identity.keystone import KeystoneIdentity
from diminet.lab.openstack.cloud import SHARED, Cloud
from diminet.messages import Context
from diminet.model import Initiator
from openstack_instance import run, site_cloud

CACHE, AWAY = 60.0, 300.0
Make = Callable[..., KeystoneIdentity]


class Clock:
    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(cloud: Cloud, tmp_path: Path, clock: Clock) -> Iterator[Make]:
    """An identity of site A; user: as whom it asks; peers: as whom it goes to other sites."""
    with ExitStack() as stack:

        def made(
            *,
            user: str = "diminet",
            peers: str | None = None,
            keystone: str = SHARED,
            vouch: tuple[Vouch, ...] = (),
            hand_on: bool = True,
        ) -> KeystoneIdentity:
            asked = stack.enter_context(site_cloud(cloud, tmp_path, user=user, keystone=keystone))
            other = stack.enter_context(site_cloud(cloud, tmp_path, user=peers)) if peers else None
            return KeystoneIdentity(
                asked,
                "A",
                cache_s=CACHE,
                away_s=AWAY,
                hand_on=hand_on,
                vouch=lambda: vouch,
                peers_cloud=other,
                now=clock,
            )

        yield made


def context(
    cloud: Cloud, user: str, token: str | None, *, sender: str | None = "B", project: str | None = None
) -> Context:
    """What site B sends for that user."""
    session = cloud.session(user)
    return Context(
        request_id=f"req-{uuid.uuid4()}",
        initiator=Initiator(
            user_id=session.get_user_id(), project_id=project or session.get_project_id(), site="B"
        ),
        sender=sender,
        token=SecretStr(token) if token else None,
    )


@pytest.mark.parametrize(
    ("user", "roles"),
    [("demo", {"member", "reader"}), ("demo-reader", {"reader"}), ("admin", {"admin", "member", "reader"})],
)
def test_keystones_roles_are_ours(cloud: Cloud, make: Make, user: str, roles: set[str]) -> None:
    caller = run(make().authenticate(cloud.token(user)))
    assert caller.roles == roles
    assert caller.project_id == cloud.session(user).get_project_id()
    assert caller.user_id == cloud.session(user).get_user_id()


def test_a_token_without_project_or_unknown_or_absurd_is_refused(cloud: Cloud, make: Make) -> None:
    unscoped = cloud.session("demo")
    unscoped.auth.project_name = unscoped.auth.project_domain_id = None  # type: ignore[union-attr]
    for token in ("", "nobody", "é", "x" * 20_000, str(unscoped.get_token())):
        with pytest.raises(NotAuthenticated):
            run(make().authenticate(token))


def test_a_service_has_no_role_here(cloud: Cloud, make: Make) -> None:
    assert run(make().authenticate(cloud.token("diminet-peers"))).roles == frozenset()


def test_a_revoked_token_is_believed_no_longer_than_the_cache_says(
    cloud: Cloud, make: Make, clock: Clock
) -> None:
    identity, token = make(), cloud.token("demo")
    run(identity.authenticate(token))
    cloud.session("admin").delete(f"{cloud.keystone_url()}/auth/tokens", headers={"X-Subject-Token": token})
    run(identity.authenticate(token))
    clock.ahead = CACHE + 1
    with pytest.raises(NotAuthenticated):
        run(identity.authenticate(token))


def test_while_keystone_is_away_who_was_known_goes_on_and_others_are_told(
    cloud: Cloud, make: Make, clock: Clock
) -> None:
    identity, known, fresh = make(), cloud.token("demo"), cloud.token("other")
    run(identity.authenticate(known))
    cloud.stop_keystone()
    try:
        clock.ahead = CACHE + 1
        assert run(identity.authenticate(known)).project_id
        with pytest.raises(SiteUnreachable, match="Keystone of site A"):
            run(identity.authenticate(fresh))
        clock.ahead = AWAY + 1
        with pytest.raises(SiteUnreachable):
            run(identity.authenticate(known))
    finally:
        cloud.start_keystone()
    assert run(identity.authenticate(fresh)).project_id


def test_an_instance_that_may_not_validate_tokens_says_so(cloud: Cloud, make: Make) -> None:
    with pytest.raises(SiteRefused, match="Keystone of site A refuses"):
        run(make(user="demo").authenticate(cloud.token("other")))


def test_the_tenants_own_token_decides_at_the_asked_site(cloud: Cloud, make: Make) -> None:
    identity, demo = make(), cloud.project_id("demo")
    token = cloud.token("demo")
    given = run(identity.authorise(context(cloud, "demo", token), demo))
    assert given is not None
    assert given.get_secret_value() == token
    with pytest.raises(NotAuthorised):  # another tenant's network
        run(identity.authorise(context(cloud, "other", cloud.token("other")), demo))
    with pytest.raises(NotAuthorised):  # another tenant's token for a project that the peer only claims
        run(identity.authorise(context(cloud, "other", cloud.token("other"), project=demo), demo))
    with pytest.raises(NotAuthorised, match="not of the user"):  # another user's token
        run(identity.authorise(context(cloud, "other", token), demo))
    with pytest.raises(NotAuthorised, match="only read"):
        run(identity.authorise(context(cloud, "demo-reader", cloud.token("demo-reader")), demo))
    assert run(identity.authorise(context(cloud, "admin", cloud.token("admin")), demo))


def test_without_a_token_of_this_keystone_only_a_rule_lets_a_peer_in(cloud: Cloud, make: Make) -> None:
    demo = cloud.project_id("demo")
    cloud.start_keystone("elsewhere")
    try:
        foreign = cloud.token("demo", keystone="elsewhere")
    finally:
        cloud.stop_keystone("elsewhere")
    for token in (None, foreign):
        with pytest.raises(NotAuthorised, match=r"\[\[vouch\]\]"):
            run(make().authorise(context(cloud, "demo", token), demo))
        rule = Vouch(peer="B", projects=(demo,))
        assert run(make(vouch=(rule,)).authorise(context(cloud, "demo", token), demo)) is None
        with pytest.raises(NotAuthorised):
            run(make(vouch=(rule,)).authorise(context(cloud, "other", token, sender="C"), demo))


def test_between_sites_of_one_keystone_both_tokens_go_along(cloud: Cloud, make: Make) -> None:
    asked = context(cloud, "demo", cloud.token("demo"), sender=None)
    sent = run(make(peers="diminet-peers").outgoing(asked))
    assert sent.token == asked.token
    assert sent.service_token is not None
    subject = run(make()._subject(sent.service_token.get_secret_value()))
    assert subject is not None
    assert subject.roles == {"service"}  # a peer can do nothing with it but vouch for having asked
    alone = run(make().outgoing(asked))
    assert (alone.token, alone.service_token) == (asked.token, None)


def test_no_token_goes_to_a_site_of_another_keystone(cloud: Cloud, make: Make) -> None:
    asked = context(cloud, "demo", cloud.token("demo"), sender=None)
    sent = run(make(peers="diminet-peers", hand_on=False).outgoing(asked))
    assert (sent.token, sent.service_token) == (None, None)


def test_an_expired_token_is_refused_although_remembered_and_good_beside_a_service_token(
    cloud: Cloud, make: Make, tmp_path: Path
) -> None:
    """With a Keystone whose tokens last a moment."""
    cloud.start_keystone("brief", token_lifetime=4)
    try:
        identity = make(keystone="brief")
        project = cloud.project_id("demo", keystone="brief")
        token = cloud.token("demo", keystone="brief")
        asked = context(cloud, "demo", token)
        deadline = time.monotonic() + 60
        while _valid(identity, token):
            assert time.monotonic() < deadline
            time.sleep(0.5)
        with pytest.raises(NotAuthorised):
            run(identity.authorise(asked, project))
        tenants = SecretStr(cloud.token("other", keystone="brief"))  # is none of a service
        with pytest.raises(NotAuthorised):
            run(identity.authorise(asked.model_copy(update={"service_token": tenants}), project))
        service = SecretStr(cloud.token("diminet-peers", keystone="brief"))
        assert run(identity.authorise(asked.model_copy(update={"service_token": service}), project))
    finally:
        cloud.stop_keystone("brief")


def _valid(identity: KeystoneIdentity, token: str) -> bool:
    try:
        run(identity.authenticate(token))
    except NotAuthenticated:
        return False
    return True


def test_what_is_remembered_holds_no_token(cloud: Cloud, make: Make) -> None:
    identity, token = make(), cloud.token("demo")
    run(identity.authenticate(token))
    assert token not in repr(identity._seen)


def test_its_own_token_is_renewed(cloud: Cloud, make: Make) -> None:
    identity = make()
    run(identity.authenticate(cloud.token("demo")))
    session: Session = identity._cloud.session
    mine = str(session.get_token())
    cloud.session("admin").delete(f"{cloud.keystone_url()}/auth/tokens", headers={"X-Subject-Token": mine})
    assert run(identity.authenticate(cloud.token("other"))).project_id == cloud.project_id("other")


def test_an_application_credential_does_as_well_as_a_password(cloud: Cloud, tmp_path: Path) -> None:
    session = cloud.session("diminet")
    url = f"{cloud.keystone_url()}/users/{session.get_user_id()}/application_credentials"
    made = session.post(url, json={"application_credential": {"name": str(uuid.uuid4())}}).json()
    given = made["application_credential"]
    auth = {
        "auth_url": cloud.keystone_url(),
        "application_credential_id": given["id"],
        "application_credential_secret": given["secret"],
    }
    path = tmp_path / "clouds.yaml"
    path.write_text(json.dumps({"clouds": {"x": {"auth_type": "v3applicationcredential", "auth": auth}}}))
    asked = SiteCloud(Entry("x", path, "A"), site="A", threads=1, timeout=20.0)
    try:
        identity = KeystoneIdentity(asked, "A", cache_s=CACHE, away_s=AWAY, hand_on=True, vouch=tuple)
        assert run(identity.problems()) == ()
        assert run(identity.authenticate(cloud.token("demo"))).project_id == cloud.project_id("demo")
    finally:
        asked.close()


def test_a_keystone_that_hangs_keeps_nobody_waiting_beyond_the_time_out(cloud: Cloud, tmp_path: Path) -> None:
    """It takes connections and says nothing; more ask than there are threads."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as silent:
        content = cloud.clouds_yaml("diminet")
        content["clouds"]["diminet"]["auth"]["auth_url"] = f"http://127.0.0.1:{silent.getsockname()[1]}/v3"
        path = tmp_path / "clouds.yaml"
        path.write_text(json.dumps(content))
        asked = SiteCloud(Entry("diminet", path, "A"), site="A", threads=2, timeout=1.0)
        identity = KeystoneIdentity(asked, "A", cache_s=CACHE, away_s=AWAY, hand_on=True, vouch=tuple)

        async def go() -> list[object]:
            work = [identity.authenticate(f"token-{number}") for number in range(10)]
            return await asyncio.wait_for(asyncio.gather(*work, return_exceptions=True), 60)

        assert {type(answer) for answer in run(go())} == {SiteUnreachable}
        asked.close()
