"""The composition root: the only module that knows every room.

One process serves a site: the users' API, the API between instances, and on a linux site the
networking service itself. They start in an order in which nobody is promised what is not there yet,
and end in the reverse one; the data plane stays.
"""

import asyncio
import ctypes
import gc
import math
import signal
import ssl
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from pydantic import SecretStr

from diminet import telemetry
from diminet.clock import SystemClock
from diminet.config import Settings
from diminet.directory.file import FileDirectory
from diminet.east_west import tls
from diminet.east_west.client import HttpPeers
from diminet.east_west.metered import MeteredPeers
from diminet.east_west.server import make_east_west_app
from diminet.engine.engine import Engine
from diminet.engine.instance import Instance, Limits
from diminet.engine.ports import Directory, South
from diminet.engine.recovery import Recovery
from diminet.errors import BadSurroundings
from diminet.identity.file import FileIdentity, vouching_rules
from diminet.listener import Listener
from diminet.logic.types import TYPES
from diminet.messages import Caller
from diminet.model import Remains
from diminet.north.app import make_north_app
from diminet.readiness import Readiness
from diminet.south.linux import surroundings
from diminet.south.linux.dataplane import DataPlane
from diminet.south.linux.frr import Frr
from diminet.south.linux.frr_daemons import RUN as FRR_RUN
from diminet.south.linux.garp import Announcer
from diminet.south.linux.kernel import Kernel
from diminet.south.linux.linux import LinuxSouth
from diminet.south.linux.rest import make_vim_app
from diminet.south.linux.vim import LinuxVim
from diminet.south.linux.vim_store import VimStore
from diminet.south.metered import MeteredSouth
from diminet.store import schema
from diminet.store.store import SqlStore

if TYPE_CHECKING:
    from diminet.cloud import Cloud
    from diminet.identity.keystone import KeystoneIdentity
    from diminet.south.neutron.south import NeutronSouth

log = structlog.get_logger()


def serve(settings: Settings) -> None:
    """Run the instance until SIGTERM or SIGINT. Raises BadSurroundings before anything is served."""
    telemetry.configure_logging(settings.log.level)
    asyncio.run(_serve(settings))


def recover(settings: Settings, *, adopt: bool, discard: Sequence[str]) -> tuple[Remains, ...]:
    """What the VIM remembers and the database does not; see `engine.recovery`."""
    return asyncio.run(_recover(settings, adopt=adopt, discard=discard))


async def _recover(settings: Settings, *, adopt: bool, discard: Sequence[str]) -> tuple[Remains, ...]:
    async with AsyncExitStack() as stack:
        make_directory(settings.site.data_dir, "site.data_dir")
        store = open_store(settings, stack)
        south, _ = await open_south(settings, stack)
        recovery = Recovery(store, south, SystemClock())
        for service_id in discard:
            await recovery.discard(service_id)
        return await (recovery.adopt() if adopt else recovery.lost())


async def _serve(settings: Settings) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with AsyncExitStack() as stack:
        site = await Site.open(settings, stack)
        gc.collect()
        gc.freeze()  # what the start made stays: no later collection has to walk it
        _give_back_memory()
        running = asyncio.create_task(site.engine.run())
        stack.push_async_callback(_cancel, running)
        log.info("serving", site=settings.site.name)
        waiting = asyncio.create_task(stopping.wait())
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if running.done():
            running.result()
        log.info("stopping", site=settings.site.name)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class Site:
    """Everything of one instance, opened in order and closed by the stack in the reverse one."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.settings = settings
        self.engine = engine

    @classmethod
    async def open(cls, settings: Settings, stack: AsyncExitStack) -> "Site":
        name = settings.site.name
        check_host(settings)
        metrics = telemetry.Metrics()
        east_west = settings.east_west
        files = tls.TlsFiles(east_west.ca, east_west.cert, east_west.key, east_west.crl)
        credentials = tls.Credentials(files, name, recheck_s=east_west.certificate_check_interval)
        north_context = north_tls(settings)
        make_directory(settings.site.data_dir, "site.data_dir")
        identity = open_identity(settings, stack)
        directory = await open_directory(settings, stack)
        store = open_store(settings, stack)
        meta = await store.read(lambda tx: tx.meta())
        peers = HttpPeers(
            directory,
            site_name=name,
            credentials=credentials,
            incarnation=lambda: meta.incarnation,
            request_timeout_s=settings.limits.request_timeout,
            connect_timeout_s=settings.limits.connect_timeout,
            outgoing=identity.outgoing,
        )
        stack.push_async_callback(peers.close)
        metrics.certificate_days.labels(name).set_function(credentials.days_left)
        south, vim = await open_south(settings, stack)
        here = Instance(
            name=name,
            number=settings.site.number,
            store=store,
            peers=MeteredPeers(peers, metrics.east_west_sent),
            south=MeteredSouth(south, metrics.vim),
            directory=directory,
            identity=identity,
            clock=SystemClock(),
            types=TYPES,
            asn=settings.identifiers.target_asn,
            meter=metrics,
            limits=limits(settings),
        )
        engine = Engine(here)
        stack.push_async_callback(engine.stop)
        if vim is not None:
            vim.keeper = engine.pools
        await engine.start()
        readiness = Readiness(here, credentials, identity.problems)
        given = settings.limits
        listener = partial(
            Listener, grace_s=math.ceil(given.shutdown_timeout), max_connections=given.connections
        )
        north = make_north_app(engine.requests, identity, metrics, readiness.failing, settings)
        listeners = [
            listener(
                make_east_west_app(
                    engine,
                    site_name=name,
                    directory=directory,
                    incarnation=lambda: meta.incarnation,
                    received=metrics.east_west_received,
                    revoked=credentials.revoked,
                    max_body_bytes=given.east_west_body_bytes,
                    body_timeout_s=given.body_timeout,
                    rate_per_second=given.east_west_rate_per_second,
                    rate_burst=given.east_west_rate_burst,
                ),
                east_west.host,
                east_west.port,
                credentials.server(),
                name="east-west API",
            ),
            listener(
                north,
                settings.north.host,
                settings.north.port,
                north_context,
                name="north API",
                trusted_proxies=[settings.north.trusted_proxy] if settings.north.trusted_proxy else [],
            ),
        ]
        if vim is not None:
            networking = make_vim_app(
                vim,
                identity.authenticate,
                anonymous=anonymous(settings.south.vim_anonymous_project),
                max_body=given.body_bytes,
            )
            at = (settings.south.vim_host, settings.south.vim_port)
            listeners.insert(1, listener(networking, *at, name="networking service"))
        await listen(stack, listeners)
        stack.callback(north.state.close_streams)
        return cls(settings, engine)


def _give_back_memory() -> None:
    """What starting took and running does not need: some 2 MB that glibc would keep."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # other C libraries have none
        trim(0)


def anonymous(project: str | None) -> Caller | None:
    """Who asks the networking service without a token; None: nobody may."""
    if project is None:
        return None
    roles = frozenset({"member", "reader"})
    return Caller(user_id="anonymous", project_id=project, roles=roles, token=SecretStr(""))


def open_store(settings: Settings, stack: AsyncExitStack) -> SqlStore:
    """The database, with the schema of this version. Raises BadSurroundings, StorageUnavailable."""
    url, seconds = settings.database_url(), settings.limits.storage_timeout
    schema.upgrade_apart(url, storage_timeout_s=seconds)
    store = SqlStore(url, storage_timeout_s=seconds)
    stack.callback(store.close)
    return store


def check_host(settings: Settings) -> None:
    """Raises BadSurroundings if this machine cannot be a site of that kind."""
    if settings.south.kind == "linux":
        surroundings.check(settings.south.vtep)


# The rooms of OpenStack are imported where they are opened: openstacksdk belongs to the extra `openstack`,
# and takes a second and 50 MB that a linux site need not spend.


def open_cloud(settings: Settings, stack: AsyncExitStack, entry: str) -> "Cloud":
    """This site's Keystone as that entry of clouds.yaml. Raises BadSurroundings; nothing is contacted."""
    from diminet.cloud import Cloud, Entry

    given = settings.openstack
    cloud = Cloud(
        Entry(entry, given.file, settings.region()),
        site=settings.site.name,
        threads=given.threads,
        timeout=settings.limits.vim_timeout,
    )
    stack.callback(cloud.close)
    return cloud


def open_identity(settings: Settings, stack: AsyncExitStack) -> "FileIdentity | KeystoneIdentity":
    """Raises BadSurroundings."""
    given = settings.identity
    if given.kind == "file":
        return FileIdentity(given.path, settings.site.name)
    from diminet.identity.keystone import KeystoneIdentity

    peers = settings.openstack.peers_cloud
    return KeystoneIdentity(
        open_cloud(settings, stack, settings.openstack.cloud),
        settings.site.name,
        cache_s=given.token_cache,
        away_s=given.token_cache_away,
        hand_on=given.hand_on_tokens,
        vouch=vouching_rules(given.path),
        peers_cloud=open_cloud(settings, stack, peers) if peers else None,
    )


async def open_directory(settings: Settings, stack: AsyncExitStack) -> Directory:
    """Raises BadSurroundings."""
    given, site = settings.directory, settings.site
    if given.kind == "file":
        return FileDirectory(given.path, site.name, site.number)
    from diminet.directory.keystone import KeystoneDirectory

    directory = KeystoneDirectory(
        open_cloud(settings, stack, settings.openstack.cloud),
        site.name,
        site.number,
        copy=site.data_dir / "catalog.toml",
        interface=given.interface,
        refresh_s=given.refresh_interval,
    )
    stack.push_async_callback(directory.close)
    await directory.open()
    return directory


async def open_south(settings: Settings, stack: AsyncExitStack) -> tuple[South, LinuxVim | None]:
    """This site's networks; of a linux site also the networking service that DIMINET serves itself."""
    if settings.south.kind == "neutron":
        return open_neutron(settings, stack), None
    make_directory(settings.south.run_dir, "south.run_dir")
    vim, south = await open_linux(settings, stack)
    return south, vim


def open_neutron(settings: Settings, stack: AsyncExitStack) -> "NeutronSouth":
    """Raises BadSurroundings; nothing is contacted."""
    from openstack.connection import Connection

    from diminet.cloud import Entry, configured
    from diminet.south.neutron.neutron import Neutron
    from diminet.south.neutron.south import NeutronSouth

    given, seconds = settings.openstack, settings.limits.vim_timeout
    entry = Entry(given.cloud, given.file, settings.region())
    neutron = Neutron(
        Connection(config=configured(entry, timeout=seconds)),
        site=settings.site.name,
        threads=settings.south.threads,
        timeout=seconds,
    )
    stack.callback(neutron.close)
    return NeutronSouth(neutron, mtu=settings.south.mtu, target_asn=settings.identifiers.target_asn)


async def open_linux(settings: Settings, stack: AsyncExitStack) -> tuple[LinuxVim, LinuxSouth]:
    """The linux site: its networking service and its data plane, repaired after a crash or a reboot."""
    south = settings.south
    kernel = Kernel(south.run_dir)
    stack.callback(kernel.close)
    frr = Frr(FRR_RUN / (south.frr_pathspace or ""), south.bgp_asn, timeout=settings.limits.vim_timeout)
    vteps: dict[int, str] = {}
    dataplane = DataPlane(
        kernel,
        frr,
        site_number=settings.site.number,
        vtep=south.vtep,
        vteps=vteps,
        mtu=south.mtu,
    )
    store = VimStore(settings.vim_database(), busy_timeout=settings.limits.storage_timeout)
    vim = LinuxVim(store, kernel, settings.site.number, mtu=south.mtu)
    await dataplane.start()
    stack.callback(dataplane.close)
    announcer = Announcer(kernel)
    stack.push_async_callback(announcer.close)
    announcer.start()
    await vim.start()
    stack.push_async_callback(vim.close)
    return vim, LinuxSouth(vim, dataplane, mtu=south.mtu, vtep=south.vtep, vteps=vteps)


async def listen(stack: AsyncExitStack, listeners: Sequence[Listener]) -> None:
    """All ports are taken before one is served: a request never meets half an instance."""

    async def stop() -> None:
        await asyncio.gather(*(listener.stop() for listener in listeners))

    stack.push_async_callback(stop)
    for listener in listeners:
        listener.bind()
    for listener in listeners:
        await listener.start()


def make_directory(path: Path, setting: str) -> None:
    """Raises BadSurroundings if it is not there and cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadSurroundings(
            f"the directory {path} cannot be made ({error.strerror}); make it, or set {setting} to another"
        ) from None


def north_tls(settings: Settings) -> ssl.SSLContext | None:
    north = settings.north
    if north.tls_cert is None or north.tls_key is None:
        return None
    return tls.north_context(north.tls_cert, north.tls_key)


def limits(settings: Settings) -> Limits:
    """The engine's part of the settings."""
    given = settings.limits
    return Limits(
        request_timeout=given.request_timeout,
        reservation_lifetime=given.reservation_lifetime,
        undo_share=given.undo_share,
        busy_pause=given.busy_pause,
        confirm_delay=given.confirm_delay,
        sync_interval=given.sync_interval,
        reconcile_interval=given.reconcile_interval,
        lease_lifetime=given.lease_lifetime,
        backoff_first=given.outbox_backoff_first,
        backoff_most=given.outbox_backoff_most,
        refusal_backoff_most=given.refusal_backoff_most,
        vni_k_first=settings.identifiers.vni_k_first,
        vni_k_last=settings.identifiers.vni_k_last,
        settle_interval=settings.settle_interval(),
        audit_interval=given.audit_interval,
        audit_ports=given.audit_ports,
        revoked_ttl=given.revoked_ttl,
        events_ttl=given.events_ttl,
        events_most=given.events_most,
        watermark=math.ceil(given.block_watermark * given.block_rate_per_second),
        pool_step=given.blocks_per_request,
        services_per_project=given.services_per_project,
        members_per_service=given.members_per_service,
        blocks_per_project=given.blocks_per_project,
        round_batch=given.round_batch,
        sync_entries=given.sync_entries,
        peer_refusals_per_hour=given.peer_refusals_per_hour,
    )
