"""Who is trusted by an instance of the simulator."""

from diminet.errors import NotAuthorised
from diminet.messages import Caller, Context
from simulator.vim import PROJECT


class Trust:
    """Identity: every site vouches for the given projects only."""

    def __init__(self, *projects: str) -> None:
        self.projects = projects or (PROJECT,)

    async def authenticate(self, token: str) -> Caller:
        raise NotImplementedError

    async def authorise(self, ctx: Context, project_id: str) -> None:
        if ctx.initiator.project_id != project_id or (ctx.sender and project_id not in self.projects):
            raise NotAuthorised("not vouched for")
