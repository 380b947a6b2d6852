"""What `LocalMesh` does besides machines and networks: agents come and go while the mesh runs, as when one version replaces another."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mesh.errors import UsageError

if TYPE_CHECKING:
    from mesh.agent import Agent
    from mesh.sim.host import Host
    from mesh.testing import _Attachment


class Swapping:
    _agents: dict[str, tuple[Agent, ...]]
    _attachments: dict[str, list[_Attachment]]

    def _host(self, node: str) -> Host:
        raise NotImplementedError

    def _serve(self, node: str, agent: Agent) -> asyncio.Future[None]:
        raise NotImplementedError

    async def attach(self, node: str, agent: Agent) -> None:
        """Serve one more agent on `node`, from now on. Raises UsageError if it is down."""
        if not self._host(node).up:
            raise UsageError(f"{node} is down", fix=f"restart({node!r}) first")
        self._agents[node] = (*self._agents[node], agent)
        await self._serve(node, agent)

    def detach(self, node: str, agent: Agent) -> None:
        """Its worker there ends at once, with what it runs. Raises UsageError if it is not served there."""
        self._host(node)
        if agent not in self._agents[node]:
            raise UsageError(f"{node} does not serve {agent.name}", fix=f"attach({node!r}, agent) first")
        self._agents[node] = tuple(one for one in self._agents[node] if one is not agent)
        for attachment in [one for one in self._attachments[node] if one._agent is agent]:
            self._attachments[node].remove(attachment)
            attachment.close()
