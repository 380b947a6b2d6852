"""A client's way to a node: which socket, and opening it again when the node was restarted."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mesh.errors import NoNode
from mesh.files import Shelf
from mesh.link import Link

Document = dict[str, Any]

NODE_ENDED = "node_ended"


def find_socket(home: str | os.PathLike[str] | None = None, node: str | None = None) -> Path:
    """The local socket of a running node. Raises NoNode, naming the command that starts one; UsageError for a bad name."""
    from mesh.runtime.ended import last
    from mesh.runtime.home import Home

    place = Home.locate(Path(home) if home is not None else None)
    where = f" --home {place.path}" if home is not None else ""
    if node:
        folder = place.node(node)
        if not folder.is_running():
            if (own := [each.name for each in place.nodes()]) and node not in own:
                # Not "mesh up": that would start another node of this name beside the one that is meant, which is another home's.
                what = f"{place.path} has no node {node!r}, only {', '.join(own)}; what is in another home is asked there, with its --home"
                raise NoNode(what, fix=f"mesh id{where}", code="no_such_node")
            if (why := last(folder)) is not None:
                raise NoNode(why.message, fix=why.fix, code=NODE_ENDED)
            running = [each.name for each in place.running()]
            also = f"; running here: {', '.join(running)}" if running else ""
            raise NoNode(f"no node {node!r} runs in {place.path}{also}", fix=f"mesh up{where} --name {node}")
        return folder.socket_path
    for folder in place.running():
        return folder.socket_path
    for why in filter(None, map(last, place.nodes())):
        raise NoNode(f"no node runs in {place.path}: {why.message}", fix=why.fix, code=NODE_ENDED)
    raise NoNode(f"no node runs in {place.path}", fix=f"mesh up{where}")


class Reconnecting:
    """A link that is opened again when it is needed and its node was restarted. What was under way is lost, and said so."""

    def __init__(self, find: Callable[[], Path]) -> None:
        self._find = find
        self._link: Link | None = None
        self._opening = asyncio.Lock()
        self.shelf: Shelf | None = None

    @property
    def node(self) -> Document:
        assert self._link is not None
        return self._link.node

    async def open(self) -> None:
        link = Link(self._find())
        await link.open()
        self._link = link
        blobs = Path(link.node["blobs"])
        if self.shelf is None or self.shelf.blobs != blobs:
            if self.shelf is not None:
                self.shelf.close()
            self.shelf = Shelf(blobs, link.path)

    async def ask(self, verb: str, params: Document, *, timeout_s: float | None = None, what: str = "") -> Document:
        if self._link is None or not self._link.alive:
            async with self._opening:
                if self._link is None or not self._link.alive:
                    await self.open()
        assert self._link is not None
        return await self._link.ask(verb, params, timeout_s=timeout_s, what=what)

    def close(self) -> None:
        if self._link is not None:
            self._link.close()
        if self.shelf is not None:
            self.shelf.close()
