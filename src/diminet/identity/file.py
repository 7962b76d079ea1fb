"""Identity from one file: who holds which token, and for which projects peers may vouch.

    [[tokens]]
    sha256 = "9f86d0…"              # hash_token(token); the token itself is nowhere
    user = "alice"
    project = "demo"
    role = "member"                 # admin, member or reader; each has what the ones after it have
    expires_at = 2027-01-01T00:00:00Z   # optional

    [[vouch]]
    peer = "lyon"                   # "*": every site of the directory
    projects = ["demo"]             # ["*"]: every project

A new token and its hash, at a shell:
    python3 -c 'from diminet.identity.file import *; t = new_token(); print(t, hash_token(t))'

Tokens are 256 bits of chance, so one plain SHA-256 is right: there is nothing to guess, and a slow
password hash would only make every request slow. They are found by their digest, which who asks cannot
steer, so the time that the look-up takes tells nothing about another token.
"""

import hashlib
import json
import os
import secrets
import time
import tomllib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, SecretStr, ValidationError

from diminet.errors import BadSurroundings, NotAuthenticated, NotAuthorised
from diminet.messages import Caller, Context
from diminet.model import SITE_NAME
from diminet.watched import DEFAULT_RECHECK_S, Watched, read_bytes

Role = Literal["admin", "member", "reader"]
Name = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]
ANY = "*"
MAX_TOKEN_LENGTH = 1024  # characters; ours have 43
_IMPLIED: dict[Role, frozenset[str]] = {
    "admin": frozenset({"admin", "member", "reader"}),
    "member": frozenset({"member", "reader"}),
    "reader": frozenset({"reader"}),
}


class TokenEntry(BaseModel):
    """One token of one user in one project. expires_at: with a time zone; None: never."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    user: Name
    project: Name
    role: Role
    expires_at: AwareDatetime | None = None


class Vouch(BaseModel):
    """Whom this site believes: what that peer asks for a tenant of these projects is that tenant's wish."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    peer: str = Field(pattern=SITE_NAME + r"|^\*$")
    projects: tuple[Name, ...] = Field(min_length=1)

    def covers(self, peer: str, project: str) -> bool:
        return self.peer in (ANY, peer) and (ANY in self.projects or project in self.projects)


class IdentityFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: tuple[TokenEntry, ...] = ()
    vouch: tuple[Vouch, ...] = ()


class _Rules:
    def __init__(self, content: IdentityFile) -> None:
        self.by_digest = {entry.sha256: entry for entry in content.tokens}
        self.vouch = content.vouch


class FileIdentity:
    """engine.ports.Identity. Raises BadSurroundings from the constructor if the file is bad; a file that
    becomes bad later leaves the last good copy in force. recheck_s: seconds between looks at it."""

    def __init__(
        self,
        path: Path,
        site_name: str,
        *,
        recheck_s: float = DEFAULT_RECHECK_S,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._site_name = site_name
        self._now = now
        self._watched = Watched("identity file", (path,), lambda: _Rules(load(path)), recheck_s=recheck_s)

    async def authenticate(self, token: str) -> Caller:
        """Raises NotAuthenticated."""
        if not token or len(token) > MAX_TOKEN_LENGTH:
            raise NotAuthenticated(f"send a token of site {self._site_name!r} in X-Auth-Token")
        entry = self._watched.get().by_digest.get(hash_token(token))
        if entry is None:
            raise NotAuthenticated(f"site {self._site_name!r} does not know this token")
        if entry.expires_at is not None and entry.expires_at.timestamp() <= self._now():
            raise NotAuthenticated(f"this token of site {self._site_name!r} has expired; ask for a new one")
        return Caller(
            user_id=entry.user,
            project_id=entry.project,
            roles=_IMPLIED[entry.role],
            token=SecretStr(token),
        )

    async def outgoing(self, ctx: Context) -> Context:
        """The envelope as it may go to another site: a token of this file means nothing there."""
        return ctx.model_copy(update={"token": None})

    async def problems(self) -> tuple[str, ...]:
        """None: the last good copy of the file is always there."""
        return ()

    async def authorise(self, ctx: Context, project_id: str) -> None:
        """Who asks must belong to that project; a peer's word for it counts by the vouching rules only.
        Raises NotAuthorised."""
        project = ctx.initiator.project_id
        if project != project_id:
            raise NotAuthorised(
                f"what is asked for belongs to another project than {project!r} at site {self._site_name!r}",
                sites=[self._site_name],
            )
        if ctx.sender is None:
            return
        if any(rule.covers(ctx.sender, project) for rule in self._watched.get().vouch):
            return
        raise NotAuthorised(
            f"site {self._site_name!r} does not let site {ctx.sender!r} vouch for project {project!r}; its "
            f'operator may add to {self._path.name}: [[vouch]] peer = "{ctx.sender}" '
            f"projects = [{_quoted(project)}]",
            sites=[self._site_name],
        )


def vouching_rules(path: Path, *, recheck_s: float = DEFAULT_RECHECK_S) -> Callable[[], Sequence[Vouch]]:
    """The newest good rules of a file that may be absent, with no tokens in it. Raises BadSurroundings."""

    def rules() -> tuple[Vouch, ...]:
        if not path.exists():
            return ()
        content = load(path)
        if content.tokens:
            raise BadSurroundings(
                f"{path} has tokens, but Keystone says here who asks: leave only [[vouch]] in it"
            )
        return content.vouch

    return Watched("file of vouching rules", (path,), rules, recheck_s=recheck_s).get


def new_token() -> str:
    """256 bits from the system's generator, URL-safe."""
    return secrets.token_urlsafe(32)


def hash_token(token: str) -> str:
    """SHA-256 in hexadecimal: the form in which tokens are kept."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def load(path: Path) -> IdentityFile:
    """Raises BadSurroundings with the place that is wrong; no token's hash is repeated in it."""
    try:
        table = tomllib.loads(read_bytes(path, "identity file").decode("utf-8"))
        content = IdentityFile.model_validate(table)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise BadSurroundings(f"the identity file {path} is not TOML: {exc}") from exc
    except ValidationError as exc:
        problems = "; ".join(
            f"{'.'.join(map(str, error['loc']))}: {error['msg']}"
            for error in exc.errors(include_url=False, include_input=False)[:5]
        )
        raise BadSurroundings(f"the identity file {path} is wrong: {problems}") from exc
    if len({entry.sha256 for entry in content.tokens}) != len(content.tokens):
        raise BadSurroundings(f"the identity file {path} has one token twice; give each user another")
    return content


def write(path: Path, tokens: Sequence[TokenEntry], vouch: Sequence[Vouch] = ()) -> None:
    """Replace the file whole, readable by its owner only."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(render(tokens, vouch))
    beside.replace(path)


def render(tokens: Sequence[TokenEntry], vouch: Sequence[Vouch] = ()) -> str:
    """The file's text."""
    lines: list[str] = []
    for entry in tokens:
        lines += ["[[tokens]]", f'sha256 = "{entry.sha256}"']
        lines += [f"user = {_quoted(entry.user)}", f"project = {_quoted(entry.project)}"]
        lines.append(f'role = "{entry.role}"')
        if entry.expires_at is not None:
            lines.append(f"expires_at = {_moment(entry.expires_at)}")
        lines.append("")
    for rule in vouch:
        projects = ", ".join(_quoted(project) for project in rule.projects)
        lines += ["[[vouch]]", f"peer = {_quoted(rule.peer)}", f"projects = [{projects}]", ""]
    return "\n".join(lines)


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _quoted(text: str) -> str:
    """A TOML basic string. JSON's escapes are TOML's too, as long as characters beyond ASCII stay."""
    return json.dumps(text, ensure_ascii=False)
