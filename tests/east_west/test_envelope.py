"""What one end writes the other reads, for anything; and bounds of bodies."""

import contextlib
import json
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from diminet import errors
from diminet.east_west import envelope
from diminet.messages import Context
from diminet.model import Initiator, Wire

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
WORD = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._:-]{0,127}\Z").filter(str.isascii)
TOKEN = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=60)


def lists(headers):
    return {name.lower(): [value] for name, value in headers.items()}


@given(WORD, TEXT, TEXT, TEXT, st.none() | TOKEN, WORD, st.floats(0, 3600), st.floats(0, 4e9))
def test_the_envelope_round_trips(request_id, user, project, site, token, incarnation, left, now):
    initiator = Initiator(user_id=user, project_id=project, site=site)
    ctx = Context(request_id=request_id, initiator=initiator, token=SecretStr(token) if token else None)
    headers = envelope.to_headers(ctx, incarnation=incarnation, seconds_left=left)
    for name, value in headers.items():
        assert all(" " <= character <= "~" for character in name + value)
    back = envelope.from_headers(lists(headers), sender="B", now=now)
    assert (back.request_id, back.initiator, back.token) == (request_id, initiator, ctx.token)
    assert back.incarnation == incarnation
    assert back.deadline == pytest.approx(now + left, abs=0.001)


@given(st.text(max_size=300))
def test_any_headers_are_read_or_refused(text):
    for name in (envelope.REQUEST_ID, envelope.INITIATOR, envelope.DEADLINE, envelope.USER_TOKEN):
        headers = lists(
            {
                envelope.REQUEST_ID: "r",
                envelope.INITIATOR: '{"user_id":"u","project_id":"p","site":"B"}',
                envelope.INCARNATION: "i",
            }
        )
        headers[name.lower()] = [text.encode("utf-8").decode("latin-1")]
        with contextlib.suppress(errors.InvalidRequest, errors.NotAuthenticated):
            envelope.from_headers(headers, sender="B", now=0.0)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=30,
)


@given(JSON)
def test_unknown_fields_are_handed_on_as_they_are(content):
    data = json.dumps({"future": content}).encode()
    again = envelope.parse(Wire, envelope.parse(Wire, data, "x").model_dump_json().encode(), "x")
    assert again.model_extra == {"future": content}


@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_any_bytes_are_read_or_refused(data):
    with contextlib.suppress(errors.InvalidRequest):
        envelope.parse(Initiator, data, "the body")
    assert envelope.error_of(data, "A") is None


@pytest.mark.parametrize("depth", [1, envelope.MAX_DEPTH - 1, envelope.MAX_DEPTH, 150, 1000, 100_000])
def test_depth_is_bounded(depth):
    data = b'{"f":' * depth + b"1" + b"}" * depth
    if depth < envelope.MAX_DEPTH:
        envelope.parse(Wire, data, "x")
    else:
        with pytest.raises(errors.InvalidRequest, match=r"nests deeper|recursion"):
            envelope.parse(Wire, data, "x")


@given(st.uuids())
def test_service_ids(value):
    assert envelope.service_id_of(str(value)) == str(value)
    for odd in (value.hex, "{" + str(value) + "}", "urn:uuid:" + str(value), str(value) + "\n", ""):
        with pytest.raises(errors.InvalidRequest):
            envelope.service_id_of(odd)


def test_every_code_has_a_status():
    assert set(envelope.STATUS) == set(errors.BY_CODE)


@given(st.sampled_from(sorted(errors.BY_CODE)), TEXT, st.none() | st.floats(0, 1000))
def test_errors_round_trip(code, message, retry_after):
    error = errors.BY_CODE[code](message, sites=["A"], retry_after=retry_after)
    back = envelope.error_of(json.dumps(error.as_dict()).encode(), "Z")
    assert back is not None
    assert (back.code, back.message, back.sites, back.retry_after) == (code, message, ("A",), retry_after)


def test_other_forms_of_a_uuid_are_another_path():
    text = str(uuid.uuid4()).upper()
    if text != text.lower():
        with pytest.raises(errors.InvalidRequest):
            envelope.service_path(text)
