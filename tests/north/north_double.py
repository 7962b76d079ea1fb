"""In-memory doubles of the engine's facade and of identity: for the north side's own tests only."""

import asyncio
import time
import uuid

from pydantic import SecretStr

from diminet.errors import (
    IdempotencyConflict,
    NotAuthenticated,
    RevisionConflict,
    ServiceNotFound,
)
from diminet.messages import Caller, PoolView, ResourceView, ServiceView, SiteView
from diminet.model import (
    Document,
    Epoch,
    Event,
    Identifiers,
    Initiator,
    Member,
    OperatingStatus,
    ProvisioningStatus,
    Resource,
    Subnet,
)

MEMBER, OTHER, READER, ADMIN, NOBODY = "t-member", "t-other", "t-reader", "t-admin", "t-nobody"
PEER_URL = "https://10.9.8.7:9791"


class IdentityDouble:
    def __init__(self):
        self.callers = {
            MEMBER: ("ann", "p1", {"member", "reader"}),
            OTHER: ("bob", "p2", {"member", "reader"}),
            READER: ("eve", "p1", {"reader"}),
            ADMIN: ("root", "p0", {"admin", "member", "reader"}),
            NOBODY: ("nil", "p1", set()),
        }

    async def authenticate(self, token):
        if token not in self.callers:
            raise NotAuthenticated("this site does not know this token")
        user, project, roles = self.callers[token]
        return Caller(user_id=user, project_id=project, roles=frozenset(roles), token=SecretStr(token))

    async def authorise(self, ctx, project_id):
        raise AssertionError("not of the north side")


class RequestsDouble:
    """Two sites, paris (here) and lyon. `fails`: raised by the next call of the method of that name.
    `waiting`: sites that changes wait for. `calls`: what was asked."""

    def __init__(self):
        self.services, self.log, self.calls, self.audit = {}, [], [], []
        self.fails, self.waiting, self.keys, self.slow = {}, (), {}, False
        self.news = asyncio.Condition()

    def _called(self, name, caller, *more):
        self.calls.append((name, caller.user_id, *more))
        if name in self.fails:
            raise self.fails.pop(name)

    def _theirs(self, caller, service_id):
        view = self.services.get(service_id)
        if view is None or not (caller.admin or view.document.project_id == caller.project_id):
            raise ServiceNotFound(f"there is no service {service_id}")
        return view

    def _event(self, kind, ctx, service_id, detail=None):
        self.log.append(
            Event(
                seq=len(self.log) + 1,
                at=time.time(),
                kind=kind,
                service_id=service_id,
                project_id=ctx.initiator.project_id,
                request_id=ctx.request_id,
                user_id=ctx.initiator.user_id,
                site=ctx.initiator.site,
                detail=detail
                or {"vni": 4097, "text": f"asked {PEER_URL}", "nested": [{"target": "64999:1048833"}]},
            )
        )

    async def _tell(self):
        async with self.news:
            self.news.notify_all()

    async def create(self, caller, ctx, request, *, wait, idempotency):
        self._called("create", caller, ctx, request, wait, idempotency)
        if idempotency:
            key = (caller.project_id, idempotency[0])
            known = self.keys.setdefault(key, (idempotency[1], str(uuid.uuid4())))
            if known[0] != idempotency[1]:
                raise IdempotencyConflict("this key was used with another body; use a new key")
            service_id = known[1]
            if service_id in self.services:
                return self.services[service_id], True
        else:
            service_id = str(uuid.uuid4())
        view = self._view(service_id, caller, request, Epoch(1, 1), 1)
        self.services[service_id] = view
        self._event("created", ctx, service_id)
        await self._tell()
        return view, wait and not self.waiting

    def _view(self, service_id, caller, request, epoch, revision):
        now = time.time()
        sites = sorted({e.site for e in request.resources})
        resources = tuple(
            Resource(
                site=e.site,
                resource_id=e.resource_id or f"made-{e.site}",
                made=e.resource_id is None,
                subnets=(Subnet(cidr="10.1.0.0/24", ip_version=4, gateway_ip="10.1.0.1"),),
            )
            for e in request.resources
        )
        document = Document(
            service_id=service_id,
            epoch=epoch,
            revision=revision,
            type=request.type,
            project_id=caller.project_id,
            name=request.name,
            description=request.description,
            tags=request.tags,
            on_unreachable=request.on_unreachable,
            members=tuple(Member(site=s, number=n, slot=n) for n, s in enumerate(sites, 1)),
            resources=resources,
            params=request.params,
            identifiers=Identifiers(vni=4097, asn=64999),
            initiator=Initiator(user_id=caller.user_id, project_id=caller.project_id, site="paris"),
            created_at=now,
            updated_at=now,
        )
        return self._of(document)

    def _of(self, document):
        return ServiceView(
            document=document,
            provisioning_status=ProvisioningStatus.ACTIVE,
            operating_status=OperatingStatus.ONLINE,
            synced_at=time.time(),
            warnings=(f"slow: {PEER_URL}",),
            resources=tuple(
                ResourceView(
                    resource=r,
                    provisioning_status=ProvisioningStatus.ACTIVE,
                    operating_status=OperatingStatus.ONLINE,
                    seen_at=time.time() - 1,
                    subnets=(
                        PoolView(
                            cidr="10.1.0.0/24",
                            gateway_ip="10.1.0.1",
                            allocation_pools=(("10.1.0.2", "10.1.0.63"),),
                            used=3,
                            blocks={"pooled": 1, "spare": 1},
                        ),
                    ),
                )
                for r in document.resources
            ),
            connections=({"resource_id": "n", "state": "ACTIVE"},),
        )

    async def change(self, caller, ctx, service_id, change, *, idempotency=None):
        self.key = idempotency
        self._called("change", caller, ctx, service_id, change)
        view = self._theirs(caller, service_id)
        document = view.document
        if change.if_match not in (None, "*", document.pair.etag()):
            raise RevisionConflict("the service has changed; read it again")
        self._event(change.operation, ctx, service_id)
        await self._tell()
        if change.operation == "delete":
            if self.waiting:
                gone = view.model_copy(update={"provisioning_status": ProvisioningStatus.PENDING_DELETE})
                self.services[service_id] = gone
                return gone, self.waiting
            del self.services[service_id]
            return None, ()
        fields = {
            name: getattr(change, name)
            for name in ("name", "description", "tags", "on_unreachable")
            if getattr(change, name) is not None
        }
        resources = document.resources
        if change.resources is not None:
            resources = tuple(
                Resource(site=e.site, resource_id=e.resource_id or "m") for e in change.resources
            )
        if change.operation == "join":
            resources = (
                *resources,
                Resource(site=change.entry.site, resource_id=change.entry.resource_id or "m"),
            )
        if change.operation == "leave":
            resources = tuple(r for r in resources if r.site != change.entry.site)
        revision = document.revision + 1
        document = document.model_copy(update=fields | {"revision": revision, "resources": resources})
        self.services[service_id] = self._of(document)
        return self.services[service_id], self.waiting

    async def show(self, caller, service_id):
        self._called("show", caller, service_id)
        return self._theirs(caller, service_id)

    async def list(self, caller, where):
        self._called("list", caller, where)
        project = where.project_id if caller.admin else caller.project_id
        found = sorted(self.services.values(), key=lambda v: v.document.service_id)
        return [
            v
            for v in found
            if project in (None, v.document.project_id)
            and (where.marker is None or v.document.service_id > where.marker)
            and where.name in (None, v.document.name)
            and set(where.tags) <= set(v.document.tags)
        ][: where.limit]

    async def more_room(self, caller, ctx, service_id, *, idempotency=None):
        self.key = idempotency
        self._called("more_room", caller, ctx, service_id)
        return self._theirs(caller, service_id)

    async def takeover(self, caller, ctx, service_id, gone):
        self._called("takeover", caller, ctx, service_id, gone)
        return self._theirs(caller, service_id)

    async def forget(self, caller, ctx, service_id, site):
        self._called("forget", caller, ctx, service_id, site)
        view = self._theirs(caller, service_id)
        return None if self.waiting else view

    async def events(self, caller, service_id, after, limit):
        self._called("events", caller, service_id, after, limit)
        if service_id is not None:
            self._theirs(caller, service_id)
        return [
            e
            for e in self.log
            if e.seq > after
            and service_id in (None, e.service_id)
            and (caller.admin or e.project_id == caller.project_id)
        ][:limit]

    async def next_event(self, after, timeout):
        try:
            async with asyncio.timeout(timeout), self.news:
                await self.news.wait()
        except TimeoutError:
            return

    async def sites(self, caller):
        self._called("sites", caller)
        urls = {"north_url": "https://10.9.8.7:9790", "east_west_url": PEER_URL}
        return [
            SiteView(name="lyon", number=2, reachable=True, last_seen=1.0, protocol="1.0", **urls),
            SiteView(name="nice", number=3, reachable=None, last_seen=None, **urls),
        ]

    async def refused(self, caller, ctx, what, error):
        if "refused" in self.fails:
            raise self.fails.pop("refused")
        self.audit.append((caller.user_id, ctx.request_id, what, error.code))
