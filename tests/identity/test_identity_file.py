"""Who is asking, by one file."""

import asyncio
import os
import tomllib
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from diminet.errors import BadSurroundings, NotAuthenticated, NotAuthorised
from diminet.identity.file import (
    FileIdentity,
    IdentityFile,
    TokenEntry,
    Vouch,
    hash_token,
    load,
    new_token,
    render,
    write,
)
from diminet.messages import Context
from diminet.model import Initiator

NAME = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40)
DIGEST = st.from_regex(r"\A[0-9a-f]{64}\Z")
TOKENS = st.lists(
    st.builds(
        TokenEntry,
        sha256=DIGEST,
        user=NAME,
        project=NAME,
        role=st.sampled_from(["admin", "member", "reader"]),
        expires_at=st.none() | st.datetimes(min_value=datetime(1990, 1, 1), timezones=st.just(UTC)),
    ),
    max_size=4,
)
RULES = st.lists(
    st.builds(
        Vouch,
        peer=st.just("*") | st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,20}\Z"),
        projects=st.lists(NAME, min_size=1, max_size=3).map(tuple),
    ),
    max_size=4,
)


def entry(token, **more):
    fields = {"user": "alice", "project": "demo", "role": "member"} | more
    return TokenEntry(sha256=hash_token(token), **fields)


def identity(path, tokens=(), vouch=(), **more):
    write(path, tokens, vouch)
    return FileIdentity(path, "A", recheck_s=0.0, **more)


def asking(project, sender=None):
    initiator = Initiator(user_id="alice", project_id=project, site="B")
    return Context(request_id="r", initiator=initiator, sender=sender)


@pytest.mark.parametrize(
    ("role", "roles"),
    [("admin", {"admin", "member", "reader"}), ("member", {"member", "reader"}), ("reader", {"reader"})],
)
def test_a_token_says_who_it_is(tmp_path, role, roles):
    token = new_token()
    caller = asyncio.run(identity(tmp_path / "i.toml", [entry(token, role=role)]).authenticate(token))
    assert (caller.user_id, caller.project_id, caller.roles) == ("alice", "demo", roles)
    assert caller.token == SecretStr(token)
    assert token not in (tmp_path / "i.toml").read_text()
    assert (tmp_path / "i.toml").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("token", ["", "x", "x" * 100_000, hash_token("t"), "t\n", "\ud800", "t "])
def test_other_tokens_are_not_known(tmp_path, token):
    with pytest.raises(NotAuthenticated):
        asyncio.run(identity(tmp_path / "i.toml", [entry("t")]).authenticate(token))


def test_tokens_expire(tmp_path):
    now = [datetime.now(UTC).timestamp()]
    end = datetime.fromtimestamp(now[0] + 60, timezone(timedelta(hours=5)))
    who = identity(tmp_path / "i.toml", [entry("t", expires_at=end)], now=lambda: now[0])
    asyncio.run(who.authenticate("t"))
    now[0] += 60
    with pytest.raises(NotAuthenticated, match="expired"):
        asyncio.run(who.authenticate("t"))


RULE_TABLE = [
    Vouch(peer="B", projects=("demo", "x")),
    Vouch(peer="*", projects=("open",)),
    Vouch(peer="D", projects=("*",)),
]


@pytest.mark.parametrize(
    ("sender", "project", "allowed"),
    [
        (None, "demo", True),
        (None, "nobody-vouches", True),
        ("B", "demo", True),
        ("B", "x", True),
        ("B", "other", False),
        ("C", "demo", False),
        ("C", "open", True),
        ("b", "demo", False),
        ("D", "anything", True),
        ("*", "demo", False),
    ],
)
def test_peers_are_believed_by_the_rules_only(tmp_path, sender, project, allowed):
    who = identity(tmp_path / "i.toml", (), RULE_TABLE)
    if allowed:
        asyncio.run(who.authorise(asking(project, sender), project))
        return
    with pytest.raises(NotAuthorised) as caught:
        asyncio.run(who.authorise(asking(project, sender), project))
    assert f'[[vouch]] peer = "{sender}" projects = ["{project}"]' in caught.value.message
    assert caught.value.sites == ("A",)


@pytest.mark.parametrize("sender", [None, "B", "D"])
def test_nobody_acts_for_another_project(tmp_path, sender):
    who = identity(tmp_path / "i.toml", (), RULE_TABLE)
    with pytest.raises(NotAuthorised, match="another project"):
        asyncio.run(who.authorise(asking("demo", sender), "x"))


def test_changes_are_taken_up_and_a_bad_file_changes_nothing(tmp_path):
    path = tmp_path / "i.toml"
    who = identity(path, [entry("one")])
    asyncio.run(who.authenticate("one"))
    write(path, [entry("two")])
    asyncio.run(who.authenticate("two"))
    with pytest.raises(NotAuthenticated):
        asyncio.run(who.authenticate("one"))
    for break_it in (lambda: path.write_text("[[tokens]"), path.unlink):
        break_it()
        asyncio.run(who.authenticate("two"))
    write(path, [])
    with pytest.raises(NotAuthenticated):
        asyncio.run(who.authenticate("two"))


GOOD = '[[tokens]]\nsha256 = "' + "0" * 64 + '"\nuser = "u"\nproject = "p"\nrole = "member"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[tokens]", "not TOML"),
        (GOOD + GOOD, "one token twice"),
        (GOOD.replace("0" * 64, "plain-token"), "tokens.0.sha256"),
        (GOOD.replace("member", "root"), "tokens.0.role"),
        (GOOD.replace('user = "u"\n', ""), "tokens.0.user"),
        (GOOD + "expires_at = 2026-01-01T00:00:00\n", "tokens.0.expires_at"),
        (GOOD + 'colour = "red"\n', "tokens.0.colour"),
        ('[[vouch]]\npeer = "B"\nprojects = []\n', "vouch.0.projects"),
        ('[[vouch]]\npeer = "B C"\nprojects = ["x"]\n', "vouch.0.peer"),
        ('[[vouches]]\npeer = "B"\n', "vouches"),
    ],
)
def test_bad_files_at_start_are_clear(tmp_path, text, says):
    path = tmp_path / "i.toml"
    path.write_text(text)
    with pytest.raises(BadSurroundings, match=says) as caught:
        FileIdentity(path, "A")
    assert "plain-token" not in caught.value.message


def test_missing_binary_and_directory(tmp_path):
    with pytest.raises(BadSurroundings, match="does not exist"):
        FileIdentity(tmp_path / "none", "A")
    with pytest.raises(BadSurroundings, match="cannot be read"):
        FileIdentity(tmp_path, "A")
    (tmp_path / "b").write_bytes(b"\xff\xfe")
    with pytest.raises(BadSurroundings, match="not TOML"):
        FileIdentity(tmp_path / "b", "A")


@pytest.mark.skipif(os.getuid() != 0, reason="takes root's rights off to see")
def test_a_file_that_this_user_may_not_read(tmp_path):
    write(tmp_path / "i.toml", [])
    os.seteuid(65534)
    try:
        with pytest.raises(BadSurroundings, match=r"cannot be read by this user \(uid"):
            FileIdentity(tmp_path / "i.toml", "A")
    finally:
        os.seteuid(0)


@given(TOKENS, RULES)
def test_what_is_written_is_read(tokens, rules):
    content = IdentityFile.model_validate(tomllib.loads(render(tokens, rules)))
    assert content == IdentityFile(tokens=tuple(tokens), vouch=tuple(rules))


def test_tokens_are_new_and_long(tmp_path):
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert min(map(len, tokens)) >= 43
    write(tmp_path / "i.toml", [entry(token) for token in tokens])
    assert len(load(tmp_path / "i.toml").tokens) == 100
