"""This site's OpenStack, as the instance asks it: an entry of clouds.yaml, with a password or an application
credential. Its tokens are renewed by keystoneauth; they are never ours to keep.

openstacksdk and keystoneauth block, so their calls run in threads of their own, not in those that
asyncio has for everything.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from diminet.errors import BadSurroundings, SiteRefused, SiteUnreachable

try:
    from keystoneauth1 import exceptions as keystone_errors
    from keystoneauth1.plugin import AUTH_INTERFACE
    from keystoneauth1.session import Session
    from openstack import exceptions as sdk_errors
    from openstack.config import OpenStackConfig
    from openstack.config.cloud_region import CloudRegion
except ImportError as missing:
    raise BadSurroundings(
        f"{missing.name} is not installed: install diminet with its extra, `pip install diminet[openstack]`"
    ) from None

T = TypeVar("T")
WRONG_SHAPE = (AttributeError, TypeError)  # what openstacksdk makes of a clouds.yaml whose fields are not so
SECRET_OPTIONS = ("password", "application_credential_secret", "token", "passcode")
MOST_TEXT = 300  # characters of what Keystone says that are told
RETRY_AFTER = 2.0  # seconds, told to who asked while Keystone is away
IDENTITY = {"interface": AUTH_INTERFACE, "version": (3, 0)}  # the URL of clouds.yaml, not the catalog's


class Entry(NamedTuple):
    """name: of the entry of clouds.yaml. file: that clouds.yaml; None: where OpenStack's clients look
    (the working directory, ~/.config/openstack, /etc/openstack)."""

    name: str
    file: Path | None
    region: str


def configured(entry: Entry, *, timeout: float) -> CloudRegion:
    """Nothing is contacted. timeout: seconds for one call. Raises BadSurroundings with what is wrong."""
    files = [str(entry.file)] if entry.file is not None else None
    where = str(entry.file or "clouds.yaml")
    if entry.file is not None and not entry.file.is_file():
        raise BadSurroundings(f"{where} is not there; make it (docs/openstack.md) or set openstack.file")
    try:
        clouds = OpenStackConfig(config_files=files, load_envvars=False, app_name="diminet")
        return clouds.get_one(cloud=entry.name, region_name=entry.region, api_timeout=timeout)
    except (sdk_errors.SDKException, keystone_errors.ClientException, OSError, *WRONG_SHAPE) as error:
        raise BadSurroundings(f"{where}, entry {entry.name!r}: {error}; correct it") from None


class Cloud:
    """The Keystone of site `site`, asked as `entry`'s user. threads: calls at once. timeout: seconds for one,
    a free thread included. Nothing is contacted before the first `ask`: an instance starts while its
    Keystone is away. Close it at the end."""

    def __init__(self, entry: Entry, *, site: str, threads: int, timeout: float) -> None:
        self.site = site
        self.config = configured(entry, timeout=timeout)
        self.session: Session = self.config.get_session()
        self._entry = entry.name
        self._secrets = [v for k, v in self.config.get_auth_args().items() if k in SECRET_OPTIONS and v]
        self._timeout = timeout
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="keystone")

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def ask(self, work: Callable[[Session], T]) -> T:
        """work(session) in one of the threads. Raises SiteUnreachable while Keystone is away or all threads
        wait for it, SiteRefused for what it says no to."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout):
                return await loop.run_in_executor(self._threads, self._work, work)
        except TimeoutError:
            raise SiteUnreachable(
                f"the Keystone of site {self.site} does not answer within {self._timeout:g} s",
                sites=[self.site],
                retry_after=RETRY_AFTER,
            ) from None

    def _work(self, work: Callable[[Session], T]) -> T:
        began = time.monotonic()
        try:
            return work(self.session)
        except keystone_errors.Unauthorized:
            raise SiteRefused(
                f"the Keystone of site {self.site} refuses this instance's own credentials (entry "
                f"{self._entry!r} of clouds.yaml): correct them",
                sites=[self.site],
            ) from None
        except (
            keystone_errors.ConnectionError,
            keystone_errors.DiscoveryFailure,
            keystone_errors.HttpServerError,
            keystone_errors.TooManyRequests,
        ) as error:
            seconds, why = time.monotonic() - began, self._why(error)
            raise SiteUnreachable(
                f"the Keystone of site {self.site} does not answer ({why}, after {seconds:.1f} s)",
                sites=[self.site],
                retry_after=RETRY_AFTER,
            ) from None
        except keystone_errors.ClientException as error:
            why = self._why(error)
            raise SiteRefused(f"the Keystone of site {self.site} refuses: {why}", sites=[self.site]) from None

    def _why(self, error: Exception) -> str:
        """What Keystone says, less this instance's own secrets."""
        access = getattr(self.session.auth, "auth_ref", None)
        own = [access.auth_token] if access is not None else []
        return without(str(error).strip(), [*self._secrets, *own])[:MOST_TEXT] or type(error).__name__


def get(session: Session, path: str, **headers: str) -> dict[str, Any]:
    """One GET of Keystone's v3 API: the JSON body. What Keystone says of a header is told without it."""
    try:
        answer = session.get(path, endpoint_filter=IDENTITY, headers=headers)
    except keystone_errors.HttpError as error:
        error.args = (without(str(error), headers.values()),)
        raise
    try:
        body: dict[str, Any] = answer.json()
    except ValueError:
        raise keystone_errors.ClientException("it answers what is no JSON") from None
    return body


def without(text: str, secrets: Iterable[str]) -> str:
    """The text as it may be told."""
    for secret in secrets:
        text = text.replace(secret, "[redacted]")
    return text
