"""Why a task went where it went: every bid, refusal and the rule that chose, and the choice recomputed from the record alone.

The recomputation shares no code with the manager: it reads the score from the rule as it is documented (docs/protocol.md).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from mesh.ids import FIRST_TERM, ON, award_number, short, term_of
from mesh.inspector.effects import award_words, effects_of, show_effects
from mesh.inspector.outlived import standing
from mesh.inspector.render import clean, seconds, table
from mesh.inspector.spends import show_spent, spent_of
from mesh.versions import split

CANCELLED, FAILED = "cancelled", "failed"
WAIT = "mesh.wait"
STATE = "mesh.state"


def score_ms(candidate: dict[str, Any]) -> int:
    expected_ms = int(candidate["start_ms"]) + int(candidate["service_ms"])
    expected_ms = expected_ms * int(candidate.get("calibration_pct", 100)) // 100
    return expected_ms + int(candidate.get("transfer_ms", 0)) + round(1000 * float(candidate["cost"]))


def recompute(decision: dict[str, Any]) -> str:
    """The node that the rule chooses among the recorded candidates."""

    def order(candidate: dict[str, Any]) -> tuple[int, str]:
        tie = f"{decision['task']}|{decision['fence']}|{candidate['node']}"
        return score_ms(candidate), hashlib.sha256(tie.encode()).hexdigest()

    return min(decision["candidates"], key=order)["node"] if decision["candidates"] else ""


def explain(task: str, entries: list[dict[str, Any]], names: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    """The ``why`` document: one item per decision, in order, each with what became of it. `names`: what nodes are called here, by id."""
    own = [entry for entry in entries if entry.get("task") == task]
    told = standing(own)
    decisions = [_decision(entry, told, names) for entry in told if entry["kind"] == "Decided"]
    events = [_event(entry, names) for entry in told if entry["kind"] in ("Submitted", "Parked", "CancelAsked", "Answered", "Finished")]
    return {
        "schema": "mesh.why/1",
        "task": task,
        "capability": next((entry["capability"] for entry in own if entry["kind"] == "Submitted"), ""),
        "rules": next((list(entry.get("rules") or []) for entry in own if entry["kind"] == "Submitted"), []),
        "pins": next((list(entry.get("pins") or []) for entry in own if entry["kind"] == "Submitted"), []),
        "decisions": decisions,
        "events": events,
        "effects": effects_of(task, entries),
        "spent": spent_of(task, entries),
        "agrees": all(decision["agrees"] for decision in decisions),
        "verified": bool(own) and all(entry["verified"] for entry in own),
    }


def _decision(entry: dict[str, Any], own: list[dict[str, Any]], known: Mapping[str, str]) -> dict[str, Any]:
    chosen = recompute(entry)
    candidates = sorted(entry["candidates"], key=score_ms)
    names = {candidate["node"]: candidate["name"] for candidate in candidates}
    return {
        "fence": entry["fence"],
        "award": award_number(entry["fence"]),
        "term": term_of(entry["fence"]),
        "recorded_by": known.get(entry["author"], entry["author"]),
        "way": entry["way"],
        "rule": entry["rule"],
        "winner": names.get(entry["winner"], entry["winner"]),
        "winner_id": entry["winner"],
        "recomputed_id": chosen,
        "agrees": chosen == entry["winner"],
        "candidates": [{**candidate, "score_ms": score_ms(candidate)} for candidate in candidates],
        "refusals": [_refusal(refusal) for refusal in entry["refusals"]],
        "outcome": _outcome(entry["fence"], own),
        "wall_ms": entry["wall_ms"],
        "verified": entry["verified"],
    }


def _refusal(refusal: Any) -> dict[str, str]:
    node, name, reason = refusal
    return {"node": node, "name": name, "reason": reason}


def _outcome(fence: int, own: list[dict[str, Any]]) -> str:
    for entry in reversed(own):
        if entry.get("fence") == fence and entry["kind"] == "Lost":
            return f"lost: {entry['reason']}"
        if entry.get("fence") == fence and entry["kind"] == "Finished":
            return str(entry["state"])
    return "bound" if any(entry.get("fence") == fence and entry["kind"] == "Bound" for entry in own) else "offered"


def _event(entry: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    keys = (
        "kind",
        "wall_ms",
        "reason",
        "by",
        "state",
        "agent",
        "version",
        "step",
        "parent",
        "error",
        "node",
        "person",
        "note",
        "event",
        "word",
    )
    said = {"approve": entry["approve"], "node": names.get(entry["node"], entry["node"])} if entry["kind"] == "Answered" else {}
    return {key: entry[key] for key in keys if entry.get(key)} | said


def _pinned(pin: str) -> str:
    """``+new-model``, ``report.render@2.0|1``: in words."""
    name, wanted = split(pin)
    if wanted:
        return f"{name} as version {wanted}".replace("|", ", else ")
    return f"flag {pin[1:]} {'on' if pin[:1] == ON else 'off'}"


def show(document: dict[str, Any]) -> str:
    """The document for people."""
    lines = [f"{clean(short(document['task']))}  {clean(document['capability'])}"]
    if rules := document.get("rules"):
        lines.append(f"by the policy, version {clean(rules[0])}: {', '.join(map(clean, rules[1:]))}")
    if pins := document.get("pins"):
        lines.append(f"decided when its work began: {', '.join(map(clean, map(_pinned, pins)))}")
    for decision in document["decisions"]:
        asked = len(decision["candidates"]) + len(decision["refusals"])
        lines.append("")
        lines.append(
            f"{_award(decision)} by {clean(decision['way'])} to {clean(decision['winner'])}: {clean(decision['outcome'])}"
            f"   ({asked} asked, {len(decision['candidates'])} offered, {len(decision['refusals'])} refused)"
        )
        rows = [
            (
                c["name"],
                c.get("agent", "") + (f" {c['version']}" if c.get("version") else ""),
                c["score_ms"],
                seconds(c["start_ms"]),
                seconds(c["service_ms"]),
                f"{c['cost']:g}",
                _note(c, decision),
            )
            for c in decision["candidates"]
        ]
        rows += [(r["name"], "", "-", "-", "-", "-", f"refused: {r['reason']}") for r in decision["refusals"]]
        lines.append(table(("NODE", "AGENT", "SCORE", "START", "SERVICE", "COST", "NOTE"), rows, empty="nobody was asked"))
        lines.append(f"rule: {clean(decision['rule'])}")
        lines.append("recomputed from the record: " + ("agrees" if decision["agrees"] else "DISAGREES"))
    if document["capability"] == WAIT:
        lines += _waited(document["events"])
    elif document["capability"] == STATE:
        lines.append("nobody runs it: shared state, which mesh state list shows")
    elif not document["decisions"]:
        reasons = [event["reason"] for event in document["events"] if event["kind"] == "Parked"]
        over = any(event["kind"] == "Finished" for event in document["events"])
        lines.append(("never awarded" if over else "not awarded yet") + (f": {clean(reasons[-1])}" if reasons else ""))
    lines += _end(document["events"])
    if document.get("effects"):
        lines += ["", show_effects(document["effects"])]
    if document.get("spent"):
        lines += ["", show_spent(document["spent"])]
    lines.append("")
    lines.append("record: " + ("every entry's signature and inclusion proof verified" if document["verified"] else "NOT VERIFIED"))
    return "\n".join(lines)


def _waited(events: list[dict[str, Any]]) -> Iterator[str]:
    """What a wait was told, by whom."""
    step = next((event.get("step", "") for event in events if event["kind"] == "Submitted"), "")
    yield f"nobody runs it: a wait, {clean(step)}"
    for event in events:
        if event["kind"] == "Answered":
            what = "signal" if event.get("event") else "approved" if event["approve"] else "denied"
            note = f": {clean(event['note'])}" if event.get("note") else ""
            yield f"{what} by {clean(event.get('person', ''))} at {clean(short(event.get('node', '')))}{note}"
    if not any(event["kind"] in ("Answered", "Finished") for event in events):
        yield "nobody has answered yet"


def _end(events: list[dict[str, Any]]) -> Iterator[str]:
    """How it ended, if not with a result; or that its end was asked for."""
    asked: dict[str, Any] = next((event for event in reversed(events) if event["kind"] == "CancelAsked"), {})
    words = f"by {clean(short(asked.get('by', '')))}: {clean(asked.get('reason', ''))}" if asked else ""
    finished = next((event for event in events if event["kind"] == "Finished"), None)
    if finished is not None and finished.get("version"):
        yield f"ran last as version {clean(finished['version'])}"
    if finished is None and asked:
        yield f"to be cancelled {words}"
    elif finished is None:
        return
    elif finished["state"] == CANCELLED:
        yield f"cancelled {words}".strip()
    elif finished["state"] == FAILED:
        error = json.loads(finished.get("error") or "{}")
        yield f"failed: {clean(error.get('message') or error.get('code', ''))}"


def _award(decision: dict[str, Any]) -> str:
    """Which one it was; and after a take-over in whose journal it stands: his who took over then, or who took over from him."""
    words = award_words(decision["award"], decision["term"])
    return f"{words} (after a take-over, recorded by {clean(short(decision['recorded_by']))})" if decision["term"] > FIRST_TERM else words


def _note(candidate: dict[str, Any], decision: dict[str, Any]) -> str:
    pct = int(candidate.get("calibration_pct", 100))
    way_ms = int(candidate.get("transfer_ms", 0))
    if candidate["node"] != decision["winner_id"]:
        notes = [f"its times count {pct} %: that is what they took lately"] if pct != 100 else []
        notes += [f"{seconds(way_ms)} for files to get there, or for where it likes to be"] if way_ms else []
        return "; ".join(notes)
    tied = sum(other["score_ms"] == candidate["score_ms"] for other in decision["candidates"]) > 1
    return "won: least score" + (", then least hash" if tied else "") if len(decision["candidates"]) > 1 else "won: the only offer"
