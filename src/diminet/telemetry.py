"""What an instance tells its operator: JSON lines on stderr and Prometheus metrics. Never a secret.

Logs: `configure_logging(level)` once at start-up, then `structlog.get_logger()` anywhere. What is bound with
`log_context(request_id=…, service_id=…, peer=…)` is in every line of that task.
"""

import logging
import re
import sys
from collections import Counter as Tally
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from time import perf_counter
from typing import Any, Final, TextIO, cast

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from pydantic import SecretBytes, SecretStr

log_context = structlog.contextvars.bound_contextvars

# -- logs ------------------------------------------------------------------------------------------

REDACTED: Final = "[redacted]"
_SECRET_WORDS = re.compile(
    r"token|password|passwd|authori[sz]ation|secret|cookie|credential|api_?key|private_?key",
    re.IGNORECASE,
)
_SECRET_IN_URL = re.compile(r"(?<=://)[^/\s@]*:[^/\s@]*@")
_MOST_DEPTH = 6
_MOST_TEXT = 20_000
"""Characters of one text in a log line; longer ones are cut."""


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: replaces values that are secret by their key or type, at any depth."""
    return {key: _clean(key, value, 0) for key, value in event.items()}


def _clean(key: str, value: Any, depth: int) -> Any:
    if isinstance(value, SecretStr | SecretBytes) or (_SECRET_WORDS.search(key) and value is not None):
        return REDACTED
    if isinstance(value, Mapping) and depth < _MOST_DEPTH:
        return {str(k): _clean(str(k), v, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset) and depth < _MOST_DEPTH:
        return [_clean("", item, depth + 1) for item in value]
    if isinstance(value, bool | int | float) or value is None:
        return value
    text = _SECRET_IN_URL.sub(f"{REDACTED}@", value if isinstance(value, str) else str(value))
    return text if len(text) <= _MOST_TEXT else text[:_MOST_TEXT] + "…"


class LossyStream:
    """A text stream on which a line that cannot be written (a full disk, a reader that went away) is lost:
    an instance goes on without its log, and the log must not fail what it tells of."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            return self._stream.write(text)
        return 0

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def configure_logging(level: str = "info", stream: TextIO | None = None) -> None:
    """JSON lines to stderr (or `stream`), of structlog and of the standard library's loggers alike."""
    lossy = cast(TextIO, LossyStream(stream or sys.stderr))
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[structlog.typing.Processor] = [
        structlog.processors.format_exc_info,
        redact,
        structlog.processors.JSONRenderer(),
    ]
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=lossy),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(lossy)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(level=number, handlers=[handler], force=True)
    # Every request is logged once, by us, with its id: the server's own lines would show it twice.
    logging.getLogger("uvicorn.access").disabled = True
    # keystoneauth tells at debug what Keystone and Neutron answer, whatever that holds.
    quiet = ("aiohttp.access", "asyncio", "sqlalchemy.engine", "alembic", "pyroute2", "keystoneauth")
    for chatty in quiet:
        logging.getLogger(chatty).setLevel(max(number, logging.WARNING))


# -- metrics ---------------------------------------------------------------------------------------

disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the text and say when we started

REQUEST_IDS_KEPT: Final = 1000
"""Request ids whose east-west messages are counted one by one: the most recent ones."""
KINDS_PER_REQUEST: Final = 64
"""Pairs of (kind, peer) counted apart for one request id; the rest go to kind `other`."""
OTHER: Final = "other"
_FAST = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class _RecentRequests(Collector):
    """`diminet_east_west_request_messages{request_id,kind,peer}` of the last REQUEST_IDS_KEPT request ids.

    Bounded: the request id that was silent longest goes first, and one id has at most KINDS_PER_REQUEST rows.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._counts: OrderedDict[str, Tally[tuple[str, str]]] = OrderedDict()

    def count(self, request_id: str, kind: str, peer: str) -> None:
        tally = self._counts.setdefault(request_id, Tally())
        self._counts.move_to_end(request_id)
        if (kind, peer) not in tally and len(tally) >= KINDS_PER_REQUEST:
            kind = peer = OTHER
        tally[kind, peer] += 1
        while len(self._counts) > self._most:
            self._counts.popitem(last=False)

    def of(self, request_id: str) -> dict[str, int]:
        """Kind -> messages received."""
        kinds: Tally[str] = Tally()
        for (kind, _peer), count in self._counts.get(request_id, Tally[tuple[str, str]]()).items():
            kinds[kind] += count
        return dict(kinds)

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(
            "diminet_east_west_request_messages",
            f"Messages received from peers, by request id; only of the last {self._most} request ids",
            labels=["request_id", "kind", "peer"],
        )
        for request_id, tally in list(self._counts.items()):
            for (kind, peer), count in list(tally.items()):
                family.add_metric([request_id, kind, peer], count)
        yield family


class Metrics:
    """The metrics of one instance, in one registry (a new one unless given).

    Labels are bounded: routes are templates, kinds and steps are words of the code, peers are sites of the
    directory (the caller passes the proven name). The methods are for the rooms; gauges are set whole.
    """

    def __init__(
        self, registry: CollectorRegistry | None = None, *, request_ids: int = REQUEST_IDS_KEPT
    ) -> None:
        self.registry = r = registry if registry is not None else CollectorRegistry()
        self.north_requests = Counter(
            "diminet_north_requests", "Requests of users", ["route", "method", "code"], registry=r
        )
        self.north_seconds = Histogram(
            "diminet_north_request_seconds",
            "Seconds from a user's request to the end of its answer",
            ["route"],
            buckets=_FAST,
            registry=r,
        )
        self.east_west_messages = Counter(
            "diminet_east_west_messages",
            "Messages between instances; direction in or out; code ok, an error code or no-answer",
            ["peer", "kind", "direction", "code"],
            registry=r,
        )
        self.services = Gauge("diminet_services", "Services", ["type", "status"], registry=r)
        self.blocks = Gauge(
            "diminet_blocks", "Address blocks; state pooled, spare, remote…", ["owner", "state"], registry=r
        )
        self.audit_findings = Gauge(
            "diminet_audit_findings",
            "What the VIM has against what services state; kind address, mac, subnet or filter",
            ["kind"],
            registry=r,
        )
        self.outbox_depth = Gauge("diminet_outbox_depth", "Messages that must still reach a peer", registry=r)
        self.outbox_age = Gauge(
            "diminet_outbox_oldest_age_seconds", "Seconds that the oldest of them has waited", registry=r
        )
        self.vim_calls = Counter(
            "diminet_vim_calls",
            "Calls to the VIM; outcome ok or an error code",
            ["call", "outcome"],
            registry=r,
        )
        self.vim_seconds = Histogram(
            "diminet_vim_call_seconds", "Seconds of a call to the VIM", ["call"], buckets=_FAST, registry=r
        )
        self.create_steps = Histogram(
            "diminet_create_step_seconds",
            "Seconds of a step of a create",
            ["step"],
            buckets=_FAST,
            registry=r,
        )
        self.certificate_days = Gauge(
            "diminet_certificate_days_left", "Days until a certificate expires", ["certificate"], registry=r
        )
        self._recent = _RecentRequests(request_ids)
        r.register(self._recent)
        ProcessCollector(registry=r)
        PlatformCollector(registry=r)

    # north
    def north_request(self, route: str, method: str, code: int, seconds: float) -> None:
        """route: the path's template, never the path itself."""
        self.north_requests.labels(route, method, str(code)).inc()
        self.north_seconds.labels(route).observe(seconds)

    # east-west
    def east_west_received(self, peer: str, kind: str, request_id: str, code: str) -> None:
        """A message of a peer was answered with that code (`ok` or an error code)."""
        self.east_west_messages.labels(peer, kind, "in", code).inc()
        self._recent.count(request_id, kind, peer)

    def east_west_sent(self, peer: str, kind: str, code: str) -> None:
        """A message to a peer ended with that code (`ok`, an error code, or `no-answer`)."""
        self.east_west_messages.labels(peer, kind, "out", code).inc()

    def received_for(self, request_id: str) -> dict[str, int]:
        """Kind -> messages received under that request id, if it is one of the recent ones."""
        return self._recent.of(request_id)

    # engine
    def set_services(self, counts: Mapping[tuple[str, str], int]) -> None:
        """(type, status) -> how many."""
        _set_all(self.services, counts)

    def set_blocks(self, counts: Mapping[tuple[str, str], int]) -> None:
        """(owner, state) -> how many."""
        _set_all(self.blocks, counts)

    def set_outbox(self, depth: int, oldest_age: float) -> None:
        """oldest_age: seconds; 0 when the outbox is empty."""
        self.outbox_depth.set(depth)
        self.outbox_age.set(oldest_age)

    def set_audit(self, counts: Mapping[str, int]) -> None:
        """Kind of finding -> how many stand."""
        _set_all(self.audit_findings, {(kind,): count for kind, count in counts.items()})

    def create_step(self, step: str, seconds: float) -> None:
        self.create_steps.labels(step).observe(seconds)

    # south
    def vim_call(self, call: str, outcome: str, seconds: float) -> None:
        self.vim_calls.labels(call, outcome).inc()
        self.vim_seconds.labels(call).observe(seconds)

    @contextmanager
    def vim(self, call: str) -> Iterator[None]:
        """Counts and times one call to the VIM; the outcome is `ok` or the error's code or class."""
        start, outcome = perf_counter(), "ok"
        try:
            yield
        except BaseException as error:
            outcome = getattr(error, "code", None) or type(error).__name__
            raise
        finally:
            self.vim_call(call, str(outcome), perf_counter() - start)

    # certificates
    def set_certificate(self, certificate: str, days_left: float) -> None:
        self.certificate_days.labels(certificate).set(days_left)

    def text(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self.registry)


def _set_all(gauge: Gauge, values: Mapping[tuple[str, str], int] | Mapping[tuple[str], int]) -> None:
    """Sets the gauge to exactly these; what it had besides goes away."""
    gauge.clear()
    for labels, value in values.items():
        gauge.labels(*labels).set(value)
