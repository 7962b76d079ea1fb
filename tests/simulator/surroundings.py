"""What else an instance is given: the directory, who is trusted, and a meter that nobody reads."""

from typing import Any

from diminet.errors import NotAuthorised, SiteUnknown
from diminet.messages import Caller, Context
from diminet.model import Site
from simulator.vim import PROJECT


class Names:
    """Directory."""

    def __init__(self, names: list[str]) -> None:
        self.all = tuple(
            Site(name=n, number=i + 1, north_url=f"http://{n}", east_west_url=f"https://{n}")
            for i, n in enumerate(names)
        )
        self.by_name = {site.name: site for site in self.all}

    async def site(self, name: str) -> Site:
        if name not in self.by_name:
            raise SiteUnknown(f"site {name} is not in the directory", sites=[name])
        return self.by_name[name]

    async def sites(self) -> tuple[Site, ...]:
        return self.all


class Trust:
    """Identity: every site vouches for the given projects only."""

    def __init__(self, *projects: str) -> None:
        self.projects = projects or (PROJECT,)

    async def authenticate(self, token: str) -> Caller:
        raise NotImplementedError

    async def authorise(self, ctx: Context, project_id: str) -> None:
        if ctx.initiator.project_id != project_id or (ctx.sender and project_id not in self.projects):
            raise NotAuthorised("not vouched for")


class Quiet:
    """Meter."""

    def create_step(self, step: str, seconds: float) -> None:
        return

    def set_services(self, counts: Any) -> None:
        return

    def set_blocks(self, counts: Any) -> None:
        return

    def set_audit(self, counts: Any) -> None:
        return

    def set_outbox(self, depth: int, oldest_age: float) -> None:
        return
