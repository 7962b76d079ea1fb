"""A client of the REST API for users, as the command line, the demo and the benchmarks use it.

Synchronous, by the standard library: one connection for each request. Raises

    ApiError          the instance answered, and said no
    SiteUnreachable   no answer came
"""

import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, Literal

from diminet.errors import BadSurroundings, DiminetError, InvalidRequest, SiteUnreachable

ANSWER_TIMEOUT = 60.0  # seconds without a byte from the instance; its own request_timeout is 10
ANSWER_MOST = 64 * 1024 * 1024  # bytes of an answer
COLLECTION = "/intersite-vertical"

Method = Literal["GET", "POST", "PUT", "DELETE"]


class ApiError(DiminetError):
    """What the instance answered. status: of HTTP; document: the content of its `error`."""

    def __init__(self, status: int, document: dict[str, Any], *, retry_after: float | None = None) -> None:
        super().__init__(
            str(document.get("message") or f"the instance answered {status} without saying why"),
            sites=[str(site) for site in document.get("sites") or ()],
            retry_after=retry_after,
        )
        self.status = status
        self.document = document

    @property
    def word(self) -> str:
        """The stable code that the API gave."""
        return str(self.document.get("code", "internal-error"))


@dataclass(frozen=True)
class Answer:
    """A successful answer; body is None where there is none. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def service(self) -> dict[str, Any]:
        service: dict[str, Any] = self.body["service"]
        return service


@dataclass(frozen=True)
class StreamedEvent:
    """A Server-Sent Event. data: its JSON document."""

    id: str | None
    kind: str | None
    data: Any


class NorthClient:
    """Speaks to the instance at `url` (without path) as the owner of `token`.

    cacert: PEM file of the CA that signed the instance's certificate; None: the system's.
    proxies: whether the environment's HTTP proxies are used.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        cacert: Path | None = None,
        proxies: bool = True,
        timeout: float = ANSWER_TIMEOUT,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise InvalidRequest(f"{url!r} is not a URL: it begins with http:// or https://")
        self.url = url.rstrip("/")
        self._token = token
        self._timeout = timeout
        handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
        if not proxies:
            handlers.append(urllib.request.ProxyHandler({}))
        if self.url.startswith("https://"):
            handlers.append(urllib.request.HTTPSHandler(context=_tls(cacert)))
        self._opener = urllib.request.build_opener(*handlers)

    # -- services --------------------------------------------------------------------------------

    def create(self, service: dict[str, Any], *, respond_async: bool = False) -> Answer:
        """service: the content of the request's `service`. 201, or 202 with a `location` header."""
        headers = {"Prefer": "respond-async"} if respond_async else {}
        return self.request("POST", COLLECTION, {"service": service}, headers)

    def services(self, **filters: str) -> list[dict[str, Any]]:
        return self._all_pages(COLLECTION, "services", filters)

    def show(self, service_id: str) -> Answer:
        return self.request("GET", _path(service_id))

    def modify(self, service_id: str, changes: dict[str, Any], *, if_match: str | None = None) -> Answer:
        headers = {"If-Match": if_match} if if_match else {}
        return self.request("PUT", _path(service_id), {"service": changes}, headers)

    def add(self, service_id: str, resource: dict[str, Any], *, via: str | None = None) -> Answer:
        """via: a site of the service, where this one is asked at a site that is not yet a member."""
        body = {"resource": resource} | ({"via": via} if via else {})
        return self.request("POST", _path(service_id, "resources"), body)

    def remove(self, service_id: str, site: str, resource_id: str | None = None) -> Answer:
        tail = (site, resource_id) if resource_id else (site,)
        return self.request("DELETE", _path(service_id, "resources", *tail))

    def delete(self, service_id: str) -> Answer:
        """204 when every member is clean, 202 while some cannot be reached."""
        return self.request("DELETE", _path(service_id))

    def takeover(self, service_id: str, gone: list[str]) -> Answer:
        return self.request("POST", _path(service_id, "takeover"), {"takeover": {"gone": gone}})

    def forget(self, service_id: str, site: str) -> Answer:
        """204 where the service was only waiting for that site, and is gone."""
        return self.request("POST", _path(service_id, "forget"), {"forget": {"site": site}})

    def events(self, service_id: str) -> list[dict[str, Any]]:
        return self._all_pages(_path(service_id, "events"), "events", {})

    def sites(self) -> list[dict[str, Any]]:
        sites: list[dict[str, Any]] = self.request("GET", "/sites").body["sites"]
        return sites

    def _all_pages(self, path: str, plural: str, filters: Mapping[str, str]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        query: str | None = urllib.parse.urlencode(filters)
        while query is not None:
            body = self.request("GET", f"{path}?{query}" if query else path).body
            found.extend(body[plural])
            query = _next_query(body.get(f"{plural}_links") or [])
        return found

    # -- the wire ----------------------------------------------------------------------------------

    def request(
        self, method: Method, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        with self._open(method, path, body, headers or {}) as response:
            text = response.read(ANSWER_MOST)
            found = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, found, _json(text, self.url) if text else None)

    def stream(self, service_id: str, *, after: str | None = None) -> Iterator[StreamedEvent]:
        """Events as they happen, until the instance ends the stream. after: id of the last one seen."""
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
        with self._open("GET", _path(service_id, "events"), None, headers) as response:
            yield from _server_sent(response, self.url)

    @contextmanager
    def _open(
        self, method: Method, path: str, body: Any, headers: Mapping[str, str]
    ) -> Iterator[HTTPResponse]:
        request = urllib.request.Request(  # noqa: S310 - the constructor let only http and https in
            self.url + path,
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={"Accept": "application/json", "X-Auth-Token": self._token, **headers},
        )
        if body is not None:
            request.add_header("Content-Type", "application/json")
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                yield response
        except urllib.error.HTTPError as refusal:
            with refusal:
                wait = refusal.headers.get("Retry-After", "")
                raise _refusal(refusal.code, refusal.read(ANSWER_MOST), wait) from None
        except (OSError, HTTPException) as failure:
            raise SiteUnreachable(_unreachable(self.url, failure)) from None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The API never redirects; a token must not follow where somebody else points."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _tls(cacert: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(cacert) if cacert else None)
    except (OSError, ssl.SSLError) as error:
        raise BadSurroundings(
            f"{cacert} cannot be used as CA file ({error}): name a PEM file with the CA's certificate"
        ) from None


def _path(*parts: str) -> str:
    return "/".join((COLLECTION, *(urllib.parse.quote(part, safe="") for part in parts)))


def _next_query(links: list[dict[str, str]]) -> str | None:
    """Of the link to the next page; its host is the instance's own name for itself, maybe not ours."""
    href = next((link["href"] for link in links if link.get("rel") == "next"), None)
    return None if href is None else urllib.parse.urlsplit(href).query


def _json(text: bytes, url: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise SiteUnreachable(f"what answers at {url} is not a DIMINET instance: check the URL") from None


def _refusal(status: int, text: bytes, wait: str) -> ApiError:
    try:
        document = json.loads(text)["error"]
    except (ValueError, KeyError, TypeError):
        document = None
    if not isinstance(document, dict):
        document = {
            "code": "internal-error",
            "status": status,
            "message": f"the server answered {status} and no error document: check the URL",
        }
    return ApiError(status, document, retry_after=float(wait) if wait.isdigit() else None)


def _unreachable(url: str, failure: Exception) -> str:
    reason = failure.reason if isinstance(failure, urllib.error.URLError) else failure
    if isinstance(reason, ssl.SSLCertVerificationError):
        return (
            f"the certificate of {url} is not trusted ({reason.verify_message}): "
            "name the CA's file with --cacert"
        )
    if isinstance(reason, ConnectionRefusedError):
        return f"nothing listens at {url}: start the instance there or correct the URL"
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return f"no answer from {url} ({text}): is the instance running, and is the URL right?"


def _server_sent(response: HTTPResponse, url: str) -> Iterator[StreamedEvent]:
    """Read `text/event-stream` (WHATWG HTML, section 9.2); comments and unknown fields are skipped."""
    fields: dict[str, str] = {}
    for line in response:
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        if text:
            name, _, value = text.partition(":")
            value = value.removeprefix(" ")
            fields[name] = f"{fields[name]}\n{value}" if name == "data" and name in fields else value
            continue
        if "data" in fields:
            data = _json(fields["data"].encode(), url)
            yield StreamedEvent(fields.get("id"), fields.get("event"), data)
        fields = {}
