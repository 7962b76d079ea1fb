"""Identity from this site's Keystone: a user's token is what Keystone says it is.

At the north API: `reader` reads, `member` manages the services of its project, `admin` all. When another
site asks for a tenant, that tenant's own token comes along in X-Auth-Token and is judged by this site's
Keystone and Neutron. Where the sites have different Keystones it is worth nothing here; then, as with
kind `file`, the vouching rules of this site decide, and without a rule nothing is joined. Projects of
such sites are the same ones if they have the same id (docs/openstack.md).

What is remembered of a token, under its SHA-256 and for `cache_s` seconds, is what Keystone said of it.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, NamedTuple

import structlog
from keystoneauth1 import exceptions as keystone_errors
from keystoneauth1.session import Session
from pydantic import SecretStr

from diminet.cloud import Cloud, get
from diminet.errors import NotAuthenticated, NotAuthorised, SiteRefused, SiteUnreachable
from diminet.identity.file import Vouch, hash_token
from diminet.messages import Caller, Context

ROLES = frozenset({"admin", "member", "reader"})  # of Keystone's, those that mean something here
SERVICE_ROLE = "service"
MAX_TOKEN_LENGTH = 16_384  # characters; Fernet's have some 250
MAX_REMEMBERED = 10_000  # tokens
TOKENS = "/auth/tokens?nocatalog=1"
SELF = "/auth/projects"  # what any user may ask


log = structlog.get_logger(__name__)


class Subject(NamedTuple):
    """What Keystone says of a token. project_id None: it is of no project. expires_at, seen_at: epoch s."""

    user_id: str
    project_id: str | None
    roles: frozenset[str]
    expires_at: float
    seen_at: float


class KeystoneIdentity:
    """engine.ports.Identity. cloud: this site's, as the instance's user, who may validate tokens.

    cache_s: seconds that a token is believed without asking again. away_s: the same while Keystone does
    not answer. peers_cloud: the user whose token goes to other sites in X-Service-Token, with the role
    `service` and no other; None: none is sent. hand_on: whether users' tokens go to other sites, which
    is right where they ask the same Keystone. vouch: this site's rules.
    """

    def __init__(
        self,
        cloud: Cloud,
        site_name: str,
        *,
        cache_s: float,
        away_s: float,
        hand_on: bool,
        vouch: Callable[[], Iterable[Vouch]],
        peers_cloud: Cloud | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._cloud = cloud
        self._site_name = site_name
        self._cache_s = cache_s
        self._away_s = away_s
        self._hand_on = hand_on
        self._vouch = vouch
        self._peers_cloud = peers_cloud
        self._now = now
        self._seen: OrderedDict[str, Subject] = OrderedDict()

    async def authenticate(self, token: str) -> Caller:
        """Raises NotAuthenticated; SiteUnreachable, SiteRefused if Keystone cannot be asked."""
        if not token or len(token) > MAX_TOKEN_LENGTH or not token.isascii():
            raise NotAuthenticated(f"send a token of site {self._site_name!r} in X-Auth-Token")
        subject = await self._subject(token)
        if subject is None:
            raise NotAuthenticated(
                f"the Keystone of site {self._site_name!r} does not know this token, or it has expired; get "
                "a new one"
            )
        if subject.project_id is None:
            raise NotAuthenticated("this token is of no project; ask Keystone for one that is")
        return Caller(
            user_id=subject.user_id,
            project_id=subject.project_id,
            roles=subject.roles & ROLES,
            token=SecretStr(token),
        )

    async def authorise(self, ctx: Context, project_id: str) -> SecretStr | None:
        """The token with which this site's Neutron may be asked as that user; None where a rule vouches.
        Raises NotAuthorised, and as `authenticate` does if Keystone cannot be asked."""
        subject = await self._initiator(ctx)
        if subject is not None:
            self._check(subject, ctx, project_id)
            return ctx.token
        if ctx.initiator.project_id != project_id:
            raise self._not_authorised(
                f"what is asked for belongs to another project than {ctx.initiator.project_id!r} at site "
                f"{self._site_name!r}"
            )
        if ctx.sender is not None and not any(rule.covers(ctx.sender, project_id) for rule in self._vouch()):
            raise self._not_authorised(
                f"site {ctx.sender!r} handed on no token that the Keystone of site {self._site_name!r} knows "
                f"and no rule there lets it vouch for project {project_id!r}; ask again with a new token, or "
                f'let the operator add: [[vouch]] peer = "{ctx.sender}" projects = ["{project_id}"]'
            )
        return None

    async def outgoing(self, ctx: Context) -> Context:
        """The envelope as it may go to another site: with those tokens only that it can judge. A service
        token that cannot be had now is left out: the user's alone is enough while it has not expired."""
        if not self._hand_on:
            return ctx.model_copy(update={"token": None})
        if self._peers_cloud is None or ctx.token is None:
            return ctx
        try:
            service = await self._peers_cloud.ask(Session.get_token)
        except (SiteUnreachable, SiteRefused) as error:
            log.warning("no service token for other sites", reason=error.message)
            return ctx
        return ctx.model_copy(update={"service_token": SecretStr(service or "")})

    async def problems(self) -> tuple[str, ...]:
        """Why Keystone cannot be asked now; empty when it can."""
        try:
            await self._cloud.ask(lambda session: get(session, SELF))
        except (SiteUnreachable, SiteRefused) as error:
            return (error.message,)
        return ()

    async def _initiator(self, ctx: Context) -> Subject | None:
        """Who asked, by the token that came along; None without one that this Keystone knows. An expired
        one is good enough beside a service's: what takes long is finished, within Keystone's window."""
        if ctx.token is None:
            return None
        token = ctx.token.get_secret_value()
        subject = await self._subject(token)
        if subject is None and ctx.service_token is not None:
            service = await self._subject(ctx.service_token.get_secret_value())
            if service is not None and SERVICE_ROLE in service.roles:
                subject = await self._ask(token, expired=True)
        return subject

    def _check(self, subject: Subject, ctx: Context, project_id: str) -> None:
        if subject.user_id != ctx.initiator.user_id:
            raise self._not_authorised(
                f"the token that came along is not of the user who is said to ask at site {self._site_name!r}"
            )
        if "admin" in subject.roles:
            return
        if subject.project_id != project_id:
            raise self._not_authorised(
                f"the token that came along is not of project {project_id!r} at site {self._site_name!r}"
            )
        if "member" not in subject.roles:
            raise self._not_authorised(
                f"the user may only read at site {self._site_name!r}; ask for the role member there"
            )

    def _not_authorised(self, message: str) -> NotAuthorised:
        return NotAuthorised(message, sites=[self._site_name])

    async def _subject(self, token: str) -> Subject | None:
        """As remembered, or as Keystone says now; None if it is not valid."""
        digest = hash_token(token)
        now = self._now()
        known = self._seen.get(digest)
        if known is not None and now < min(known.seen_at + self._cache_s, known.expires_at):
            return known
        try:
            subject = await self._ask(token)
        except SiteUnreachable:
            if known is not None and now < min(known.seen_at + self._away_s, known.expires_at):
                return known
            raise
        self._seen.pop(digest, None)
        if subject is not None:
            self._seen[digest] = subject
            while len(self._seen) > MAX_REMEMBERED:
                self._seen.popitem(last=False)
        return subject

    async def _ask(self, token: str, *, expired: bool = False) -> Subject | None:
        path = f"{TOKENS}&allow_expired=1" if expired else TOKENS
        now = self._now()
        return await self._cloud.ask(lambda session: _validated(session, path, token, now))


def _validated(session: Session, path: str, token: str, now: float) -> Subject | None:
    try:
        said = get(session, path, **{"X-Subject-Token": token}).get("token", {})
    except keystone_errors.NotFound:
        return None
    try:
        return _subject_of(said, now)
    except (KeyError, TypeError, ValueError):
        raise keystone_errors.ClientException("what it says of a token is not understood") from None


def _subject_of(said: dict[str, Any], now: float) -> Subject:
    return Subject(
        user_id=said["user"]["id"],
        project_id=said.get("project", {}).get("id"),
        roles=frozenset(role["name"] for role in said.get("roles", ())),
        expires_at=datetime.fromisoformat(said["expires_at"]).timestamp(),
        seen_at=now,
    )
