"""Calls to Neutron through openstacksdk, in threads of our own, and what went wrong in DIMINET's words.

openstacksdk brings authentication (and its renewal), the catalog and the HTTP session; the bodies are
those of Neutron's API reference, so that what is sent is exactly what is written here.

Nothing is sent twice but reads: a write whose answer was lost may have been done, and who asked for it
looks before it repeats it.
"""

import asyncio
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import monotonic
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import openstack.connection
import openstack.exceptions
from keystoneauth1 import exceptions as ksa
from keystoneauth1.session import TCPKeepAliveAdapter
from pydantic import SecretStr

from diminet.errors import NotAuthenticated, SiteRefused, SiteUnreachable

RETRY_AFTER_S = 5.0
OF_A_PROXY = (502, 504)  # it may have handed the request on, and Neutron may do it yet
MOST_TEXT = 500  # characters of what Neutron said that are handed on
Json = dict[str, Any]


class Failed(SiteUnreachable):
    """Neutron itself answered that it could not: nothing more comes of that request."""


class Refused(SiteRefused):
    """Neutron said no. status: of HTTP. kind: the class of its error, e.g. `IpAddressInUse`."""

    def __init__(self, message: str, *, site: str, status: int, kind: str) -> None:
        super().__init__(message, sites=[site])
        self.status = status
        self.kind = kind


class Neutron:
    """This site's Neutron, asked as the service user of `connection` (which contacts nothing by itself).

    threads: calls at once. timeout: seconds for a connection, for an answer, and for a free thread
    (`limits.vim_timeout`).
    """

    def __init__(
        self,
        connection: openstack.connection.Connection,
        *,
        site: str,
        threads: int = 16,
        timeout: float = 10.0,
    ) -> None:
        self.site = site
        self._connection = connection
        self._timeout = timeout
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="neutron")
        self._first = threading.Lock()  # openstacksdk looks for the endpoint at the first call
        connection.session.timeout = timeout  # of Keystone's answers too
        for scheme in ("http://", "https://"):
            connection.session.session.mount(scheme, TCPKeepAliveAdapter(pool_maxsize=threads))

    def close(self) -> None:
        """Calls that run go on to their end; nobody waits for them."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    # -- asking ------------------------------------------------------------------------------------

    async def get(self, what: str, path: str, *, as_user: SecretStr | None = None) -> Json:
        """what: what is asked for, as a verb phrase for error texts, e.g. `show network 8f…`.
        as_user: the user's token, so that Neutron decides what that user sees."""
        return await self._call(what, "GET", path, as_user=as_user)

    async def list(self, what: str, path: str, key: str, **query: Any) -> list[Json]:
        """All pages. key: of the list in the answer."""
        items: list[Json] = []
        while True:
            answer = await self._call(what, "GET", path, query=query)
            items += answer[key]
            links = {link["rel"]: link["href"] for link in answer.get(f"{key}_links", ())}
            if "next" not in links:
                return items
            query = _query_of(links["next"])

    async def post(self, what: str, path: str, body: Json) -> Json:
        return await self._call(what, "POST", path, body=body)

    async def put(self, what: str, path: str, body: Json) -> Json:
        return await self._call(what, "PUT", path, body=body)

    async def delete(self, what: str, path: str) -> bool:
        """False if it was gone already."""
        try:
            await self._call(what, "DELETE", path)
        except Refused as refusal:
            if refusal.status != 404:
                raise
            return False
        return True

    async def _call(
        self,
        what: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Json | None = None,
        as_user: SecretStr | None = None,
    ) -> Json:
        """Ends only when the thread has ended, so that who holds a lock around it holds it as long as
        anything may still be written."""
        send = partial(self._send, what, method, path, query, body, as_user, monotonic())
        return await asyncio.get_running_loop().run_in_executor(self._threads, send)

    # -- in a thread -------------------------------------------------------------------------------

    def _send(
        self,
        what: str,
        method: str,
        path: str,
        query: Mapping[str, Any] | None,
        body: Json | None,
        as_user: SecretStr | None,
        asked_at: float,
    ) -> Json:
        more: dict[str, Any] = {"params": dict(query or {}), "timeout": (self._timeout, self._timeout)}
        if body is not None:
            more["json"] = body
        if as_user is not None:
            more |= {"authenticated": False, "headers": {"X-Auth-Token": as_user.get_secret_value()}}
        try:
            response = self._sent(what, method, path, more, asked_at)
        except ksa.ConnectTimeout as error:
            raise self._away(
                f"did not answer within {self._timeout:g} s (limits.vim_timeout) when asked to {what}"
            ) from error
        except ksa.ConnectionError as error:
            raise self._away(f"cannot be reached to {what}: {_cut(str(error))}") from error
        except ksa.HttpError as error:
            raise self._keystone_said(what, error) from error
        except (ksa.ClientException, openstack.exceptions.SDKException) as error:
            raise self._away(f"cannot be asked to {what}: {_cut(str(error))}") from error
        return self._read(what, response, as_user=as_user is not None)

    def _sent(self, what: str, method: str, path: str, more: Mapping[str, Any], asked_at: float) -> Any:
        with self._first:
            if monotonic() - asked_at > self._timeout:
                raise self._away(
                    f"was not asked to {what}: no thread was free for it within {self._timeout:g} s "
                    "(south.threads, limits.vim_timeout)"
                )
            network = self._connection.network
        try:
            return network.request(path, method, **more)
        except ksa.ConnectFailure:
            if method != "GET":
                raise
            return network.request(path, method, **more)  # e.g. an idle connection that Neutron has closed

    def _read(self, what: str, response: Any, *, as_user: bool) -> Json:
        status: int = response.status_code
        if status >= 500:
            told = f"failed with HTTP {status} when asked to {what}: {_said(response)[1]}"
            raise self._away(told, SiteUnreachable if status in OF_A_PROXY else Failed)
        if status == 401 and as_user:
            raise NotAuthenticated(
                f"Neutron of site {self.site} does not accept the user's token: ask for a new one",
                sites=[self.site],
            )
        if status >= 400:
            kind, message = _said(response)
            told = f"Neutron of site {self.site} refused to {what}: {message} (HTTP {status})"
            raise Refused(told, site=self.site, status=status, kind=kind)
        if not response.content:
            return {}
        try:
            answer = response.json()
        except ValueError as error:
            raise self._away(f"answered what is no JSON when asked to {what}") from error
        return answer if isinstance(answer, dict) else {}

    def _away(self, what: str, kind: type[SiteUnreachable] = SiteUnreachable) -> SiteUnreachable:
        return kind(
            f"Neutron of site {self.site} {what}; try again, or tell the site's operator",
            sites=[self.site],
            retry_after=RETRY_AFTER_S,
        )

    def _keystone_said(self, what: str, error: ksa.HttpError) -> SiteRefused | SiteUnreachable:
        """No token for the service user: either Keystone is in trouble, or it does not accept us."""
        if error.http_status >= 500:
            return self._away(f"was not asked to {what}: Keystone failed with {_cut(str(error))}")
        return SiteRefused(
            f"Keystone of site {self.site} gives DIMINET's service user no token: {_cut(str(error))}; its "
            "operator must correct the credentials",
            sites=[self.site],
        )


def _said(response: Any) -> tuple[str, str]:
    """(class of the error, sentence) of `{"NeutronError": {"type", "message", "detail"}}`."""
    try:
        body = response.json()
    except ValueError:
        return "", _cut(response.text or response.reason or "no reason given")
    error = body.get("NeutronError", body) if isinstance(body, dict) else body
    if not isinstance(error, dict):
        return "", _cut(str(error))
    message = error.get("message") or error.get("detail") or str(error)
    return str(error.get("type", "")), _cut(str(message).rstrip("."))


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}…"


def _query_of(url: str) -> dict[str, list[str]]:
    query: dict[str, list[str]] = {}
    for name, value in parse_qsl(urlsplit(url).query):
        query.setdefault(name, []).append(value)
    return query
