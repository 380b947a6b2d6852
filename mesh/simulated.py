"""What `mesh.testing` gives clients and runners instead of a local socket: the verbs of a node, answered by a simulated one."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mesh.core import inputs
from mesh.core.policy.document import canonical
from mesh.core.records.story import Story, gathered
from mesh.core.work import inputs as handlers
from mesh.core.work.gates import verdict_of
from mesh.errors import NoNode, NoSuchFile, Refused, TimedOut, UsageError, from_body
from mesh.files import Shelf
from mesh.messages.policy import Policy
from mesh.messages.signed import Signed
from mesh.messages.work import Placement
from mesh.runtime import presiding
from mesh.runtime.params_local import COMMANDS, amounts_of
from mesh.runtime.trust import policies
from mesh.sim.host import Host
from mesh.sim.story import read_story

if TYPE_CHECKING:
    from mesh.testing import LocalMesh


class Connection:
    """What `Mesh` and a runner ask of a node, answered by a simulated one."""

    def __init__(self, mesh: LocalMesh, host: Host, worker: int = 0) -> None:
        self._mesh, self._host, self._worker = mesh, host, worker
        self._streams: dict[str, int] = {}
        self.shelf = Shelf(mesh.folder / host.name, Path("/nonexistent"))

    @property
    def node(self) -> dict[str, Any]:
        return {"node": self._host.name, "id": self._host.name, "pid": 0, "body_bytes_max": self._mesh.world.limits.work.body_bytes_max}

    def close(self) -> None:
        self.shelf.close()

    async def ask(self, verb: str, params: dict[str, Any], *, timeout_s: float | None = None, what: str = "") -> dict[str, Any]:
        if not self._host.up:
            raise NoNode(f"{self._host.name} is down", fix=f"restart({self._host.name!r})")
        here = {"put": self._put, "read": self._read, "fetch": self._fetch, "nodes": self._nodes, "secret": self._secret}.get(verb)
        here = here or {
            "policy": self._policy,
            "policy_set": self._set_policy,
            "policy_explain": self._explain_policy,
            "coordinator": self._coordinator,
        }.get(verb)
        if here is not None:
            return here(params)
        body = await self._request(verb, params, timeout_s, what)
        if params.get("question") == "story":
            story = self._story(body["story"])
            return {"entries": story.rows(), "more": story.more}
        if params.get("question") == "audit":
            return gathered([self._story(page) for _, page in body["pages"]], body["missing"], self._host.directory.name_of)
        return body

    def _story(self, packed: bytes) -> Story:
        return read_story((host.disk for host in self._mesh.world.hosts.values()), packed)

    async def _request(self, verb: str, params: dict[str, Any], timeout_s: float | None, what: str) -> dict[str, Any]:
        mesh, host = self._mesh, self._host
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

        def answered(ok: bool, body: dict[str, Any]) -> None:
            if not future.done():
                future.set_result(body) if ok else future.set_exception(from_body(body))
            mesh._time.touch()

        request = mesh.world.ask(host.name, lambda number: self._command(verb, number, params), answered)
        mesh._asked[future] = host.name
        alarm = None
        if timeout_s is not None:
            error = TimedOut(f"{what or verb} did not end within {timeout_s:g} s")

            def over() -> None:
                if not future.done():
                    future.set_exception(error)

            alarm = mesh._time.call_later(timeout_s, over)
        mesh._time.waiting += 1
        mesh._time.touch()
        try:
            return dict(await future)
        finally:
            mesh._time.waiting -= 1
            del mesh._asked[future]
            if alarm is not None:
                alarm.cancel()
            if host.requests.pop(request, None) is not None:
                host.tell(inputs.RequestGone(request))

    def _command(self, verb: str, number: int, params: dict[str, Any]) -> Any:
        if verb == "stream":
            self._streams[params["stream"]] = number
            return replace(_command(self._host.name, "call", number, params, self._worker), stream=True)
        if verb == "next":
            return inputs.StreamNext(number, self._streams.get(params["stream"], 0), params["after"], params["epoch"])
        return _command(self._host.name, verb, number, params, self._worker)

    # ---- answered here

    def _nodes(self, _: dict[str, Any]) -> dict[str, Any]:
        rows = self._host.directory.rows()
        keys = ("name", "id", "state", "addr", "caps", "self", "linked", "incarnation")
        values = ((r.name, r.node, r.state, r.door, sorted(r.offers), r.node == self._host.name, r.linked, r.incarnation) for r in rows)
        return {"schema": "mesh.nodes/1", "nodes": [dict(zip(keys, row, strict=True)) for row in values]}

    def _coordinator(self, _: dict[str, Any]) -> dict[str, Any]:
        host = self._host
        return presiding.shown(host.assembly, host.clock.read(host.world.now_s), host.directory.name_of)

    def _policy(self, _: dict[str, Any]) -> dict[str, Any]:
        return policies.shown(self._host.assembly, self._host.directory.name_of)

    def _explain_policy(self, params: dict[str, Any]) -> dict[str, Any]:
        return policies.explained(self._host.assembly, params)

    def _set_policy(self, params: dict[str, Any]) -> dict[str, Any]:
        """Every node of a LocalMesh may: it has the root's key."""
        held = self._host.assembly.policies
        document, rules = policies.wanted(held, params)
        seq = policies.next_version(held)
        self._host.tell(inputs.Proclaim(Signed("root", Policy("", seq, canonical(document), *policies.words_of(params), 0))))
        self._mesh._time.touch()
        return {"schema": "mesh.policy/1", "version": seq, "rules": rules, "by": "root"}

    def _secret(self, params: dict[str, Any]) -> dict[str, Any]:
        """Scopes are a real node's affair: a test says what its handlers get."""
        if params["name"] not in self._mesh.secrets:
            raise Refused(
                f"this LocalMesh has no secret {params['name']!r}", fix='LocalMesh(..., secrets={"name": "text"})', code="no_such_secret"
            )
        return {"text": self._mesh.secrets[params["name"]]}

    def _put(self, params: dict[str, Any]) -> dict[str, Any]:
        partial = self._host.disk.partial.setdefault(params["upload"], bytearray())
        partial.extend(params["data"])
        if not params["last"]:
            return {}
        data = bytes(self._host.disk.partial.pop(params["upload"]))
        sha256 = hashlib.sha256(data).hexdigest()
        self._host.disk.files[sha256] = data
        self._host.tell(inputs.FileKnown(sha256, len(data)))
        materialise(self._mesh, self._host)
        return {"sha256": sha256, "size": len(data)}

    def _read(self, params: dict[str, Any]) -> dict[str, Any]:
        data = self._host.disk.files.get(params["file"])
        if data is None:
            raise NoSuchFile(f"the file {params['file'][:12]}... is not in this node's store")
        return {"data": data[params["offset"] : params["offset"] + params["size"]], "total": len(data)}

    def _fetch(self, params: dict[str, Any]) -> dict[str, Any]:
        for host in self._mesh.world.living():
            if (data := host.disk.files.get(params["file"])) is not None:
                self._host.disk.files[params["file"]] = data
                materialise(self._mesh, self._host)
                return {"file": params["file"], "here": True}
        raise NoSuchFile(f"the file {params['file'][:12]}... is in no living node's store")


def _command(node: str, verb: str, number: int, params: dict[str, Any], worker: int) -> Any:
    """The node's command for a verb of the local protocol."""
    if verb in COMMANDS:
        asked = COMMANDS[verb](params)
        asked.request = number
        if verb == "coordinate":
            asked.words = tuple(Signed(node, verdict) for verdict in asked.verdicts)
        return asked
    if verb == "ask":
        question, key, args = params["question"], params["key"], params["args"]
        words = (Signed(node, verdict_of(key, args, 0)),) if question == "answer" else ()
        return inputs.Enquire(number, question, key, args, words)
    if verb == "down":
        return inputs.Leave(number)
    if verb == "drain":
        return inputs.Drain(number, params["wait_ms"], params["undo"])
    files = tuple((sha256, size) for sha256, size in params.get("files", ()))
    queue_ms, run_ms, heartbeat_ms = params.get("bounds", (0, 0, 0))
    bounds = (queue_ms, run_ms, heartbeat_ms)
    wanted = params.get("placement", {})
    placement = Placement(tuple(wanted.get("where", ())), wanted.get("near", ""), wanted.get("apart", ""), wanted.get("hedge", False))
    priority, share = params.get("rank", (0, ""))
    rank = (priority, share)
    budget = amounts_of(params, "budget")
    baggage = tuple((name, text) for name, text in params.get("baggage", ()))
    if verb == "call":
        work = (params["capability"], params["input"], params.get("timeout_ms", 0), params.get("parent", ""), files)
        return inputs.Call(number, *work, bounds=bounds, placement=placement, rank=rank, budget=budget, baggage=baggage)
    if verb == "submit":
        return replace(
            inputs.Submit(number, params["capability"], params["input"], params["timeout_ms"], params["retries"], files),
            by=params.get("by", ""),
            bounds=bounds,
            key=params.get("key", ""),
            placement=placement,
            rank=rank,
            budget=budget,
            baggage=baggage,
        )
    if verb == "step":
        step = (params["parent"], params["fence"], params["name"], params["capability"], params["input"])
        made = inputs.Step(number, *step, params.get("timeout_ms", 0), files, bounds, rank, placement, params.get("retries", -1))
        made.budget, made.baggage = budget, baggage
        return made
    if verb in ("effect", "effected"):
        effect = (params["task"], params["fence"], params["key"], params["call"])
        if verb == "effect":
            return handlers.EffectBegin(number, worker, *effect, params["once"])
        return handlers.EffectEnd(number, *effect, params["output"], params["error"])
    raise UsageError(f"LocalMesh answers no {verb!r}", fix="ask a real node: mesh up")


def materialise(mesh: LocalMesh, host: Host) -> None:
    """Write the files that the node has to where handlers look for them."""
    for sha256, data in host.disk.files.items():
        path = mesh.folder / host.name / sha256[:2] / sha256
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
