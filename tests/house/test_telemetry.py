"""Logs never show secrets; metrics have the promised names and stay bounded."""

import io
import json
import logging

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from diminet.errors import SiteRefused
from diminet.telemetry import KINDS_PER_REQUEST, Metrics, configure_logging, log_context

PLANTED = "pl4nted-s3cret"


@pytest.fixture
def log():
    root = logging.getLogger()
    before = (root.level, root.handlers[:])
    stream = io.StringIO()
    configure_logging("info", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    structlog.reset_defaults()
    root.setLevel(before[0])
    root.handlers[:] = before[1]


def test_lines_are_json_with_the_context_bound(log):
    with log_context(request_id="req-1", service_id="s", peer="lyon"):
        structlog.get_logger().info("asked", steps=3)
        logging.getLogger("some.library").warning("slow %s", "thing")
    ours, theirs = log()
    assert (ours["event"], ours["level"], ours["request_id"], ours["steps"]) == ("asked", "info", "req-1", 3)
    assert (theirs["event"], theirs["peer"], theirs["logger"]) == ("slow thing", "lyon", "some.library")


SECRET_PLACES = [
    {"token": PLANTED},
    {"X-Auth-Token": PLANTED},
    {"headers": {"authorization": PLANTED, "x-service-token": PLANTED}},
    {"value": SecretStr(PLANTED)},
    {"list": [{"password": PLANTED}, (SecretStr(PLANTED),)]},
    {"url": f"postgresql://user:{PLANTED}@host/db"},
    {"Set_Cookie": PLANTED},
]


@pytest.mark.parametrize("fields", SECRET_PLACES)
def test_a_secret_is_not_in_the_log(log, fields):
    structlog.get_logger().error("failed", **fields)
    assert len(log()) == 1
    assert PLANTED not in json.dumps(log())


@given(st.dictionaries(st.text(min_size=1).filter(lambda k: k != "event"), st.text(), max_size=4))
def test_any_field_can_be_logged(fields):
    from diminet.telemetry import redact

    assert set(redact(None, "info", dict(fields))) == set(fields)


def test_an_exception_is_logged_with_its_traceback_in_one_line(log):
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger().exception("bug")
    (line,) = log()
    assert "Traceback" in line["exception"]
    assert "broken" in line["exception"]


def test_the_promised_families_are_there():
    metrics = Metrics()
    metrics.north_request("/intersite-vertical", "POST", 201, 0.1)
    metrics.east_west_received("lyon", "reserve", "req-1", "ok")
    metrics.east_west_sent("lyon", "reserve", "no-answer")
    metrics.set_services({("l2", "ACTIVE"): 2})
    metrics.set_blocks({("paris", "spare"): 8})
    metrics.set_outbox(3, 1.5)
    metrics.set_audit({"address": 2})
    metrics.create_step("reserve", 0.2)
    metrics.set_certificate("east-west", 29.5)
    with metrics.vim("ports"):
        pass
    with pytest.raises(SiteRefused), metrics.vim("ports"):
        raise SiteRefused("no")
    text = metrics.text().decode()
    for line in (
        'diminet_north_requests_total{code="201",method="POST",route="/intersite-vertical"} 1.0',
        'diminet_north_request_seconds_count{route="/intersite-vertical"} 1.0',
        'diminet_east_west_messages_total{code="ok",direction="in",kind="reserve",peer="lyon"} 1.0',
        'diminet_east_west_messages_total{code="no-answer",direction="out",kind="reserve",peer="lyon"} 1.0',
        'diminet_east_west_request_messages{kind="reserve",peer="lyon",request_id="req-1"} 1.0',
        'diminet_services{status="ACTIVE",type="l2"} 2.0',
        'diminet_blocks{owner="paris",state="spare"} 8.0',
        'diminet_audit_findings{kind="address"} 2.0',
        "diminet_outbox_depth 3.0",
        "diminet_outbox_oldest_age_seconds 1.5",
        'diminet_vim_calls_total{call="ports",outcome="site-refused"} 1.0',
        'diminet_vim_call_seconds_count{call="ports"} 2.0',
        'diminet_create_step_seconds_count{step="reserve"} 1.0',
        'diminet_certificate_days_left{certificate="east-west"} 29.5',
    ):
        assert line in text
    assert "process_resident_memory_bytes" in text


def test_a_gauge_that_is_set_whole_forgets_what_is_gone():
    metrics = Metrics()
    metrics.set_services({("l2", "PENDING_CREATE"): 1})
    metrics.set_services({("l2", "ACTIVE"): 1})
    assert "PENDING_CREATE" not in metrics.text().decode()


def test_two_instances_in_one_process_do_not_meet():
    one, other = Metrics(), Metrics()
    one.set_outbox(5, 0)
    assert "diminet_outbox_depth 0.0" in other.text().decode()


def test_messages_by_request_id_are_bounded():
    metrics = Metrics(request_ids=10)
    for number in range(100):
        metrics.east_west_received("lyon", "put", f"req-{number}", "ok")
        metrics.east_west_received("lyon", "put", "req-kept", "ok")
    text = metrics.text().decode()
    assert text.count("diminet_east_west_request_messages{") == 10
    assert metrics.received_for("req-kept") == {"put": 100}
    assert metrics.received_for("req-0") == {}
    for number in range(KINDS_PER_REQUEST * 3):
        metrics.east_west_received("lyon", f"kind{number}", "req-wide", "ok")
    wide = metrics.received_for("req-wide")
    assert len(wide) == KINDS_PER_REQUEST + 1
    assert wide["other"] == KINDS_PER_REQUEST * 2
