"""Payout: money leaves only for evidence that two others than whoever asked have looked at, once, with everything on record.

    evidence -> check -> gate (two nodes, not the owner's) -> evidence again -> pay, once -> report

Invariant: what is paid is what was approved. After the gate the papers are read again; if they say something else by now, the approval is
void, since a gate holds for its exact inputs only, and the gate is asked anew. The bank knows keys: the same key twice is one transfer.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from mesh import Agent, Context

agent = Agent("payout", tags=["flow"])

LOOKS_MAX = 5
"""Papers that change more often than that are not paid."""


@dataclass
class Paid:
    """`state`: paid, denied, refused by the check, or unsettled (its papers never held still). `voided`: approvals that papers outran."""

    state: str
    report: str
    by: list[dict[str, str]]
    voided: list[dict[str, str]]
    transfer: dict[str, Any] | None


def transfer(ledger: str, key: str, cents: int, pay_to: str) -> dict[str, Any]:
    """The bank: a transfer per key, in an SQLite file. What it did under this key already it does not do again."""
    with closing(sqlite3.connect(ledger, timeout=10)) as db, db:
        db.execute("CREATE TABLE IF NOT EXISTS transfers(number INTEGER PRIMARY KEY, key TEXT UNIQUE, cents INTEGER, pay_to TEXT)")
        db.execute("INSERT OR IGNORE INTO transfers(key, cents, pay_to) VALUES (?, ?, ?)", (key, cents, pay_to))
        number, cents, pay_to = db.execute("SELECT number, cents, pay_to FROM transfers WHERE key = ?", (key,)).fetchone()
    return {"number": number, "key": key, "cents": cents, "pay_to": pay_to}


@agent.capability(name="payout.run", idempotent=True)
async def run(ctx: Context, case: str, ledger: str) -> Paid:
    """Pay the invoice of a case (a folder of papers), if it is in order and two other nodes approve it. `ledger`: the bank's file."""
    state = "unsettled"
    by: list[dict[str, str]] = []
    voided: list[dict[str, str]] = []
    receipt: dict[str, Any] | None = None
    approved: dict[str, Any] | None = None
    for look in range(1, LOOKS_MAX + 1):
        seen: dict[str, Any] = await ctx.step(f"evidence {look}", "payout.evidence", case=case)
        checked: dict[str, Any] = await ctx.step(f"check {look}", "payout.check", papers=seen["papers"])
        if checked["problems"]:
            state = "refused"
            break
        if seen == approved:
            key = f"{ctx.task.key}/pay"
            receipt = await ctx.effect("pay", lambda: transfer(ledger, key, checked["cents"], checked["pay_to"]))  # noqa: B023
            state = "paid"
            break
        voided += by
        subject = {"pay": checked["cents"], "to": checked["pay_to"], "papers": seen["sha256"]}
        decision = await ctx.approval(f"pay invoice {checked['invoice']}?", name="release", subject=subject, quorum=2, separate=True)
        approved, by = seen, list(decision.by)
        if not decision or decision.edited:  # who would pay something else has not approved this
            state = "denied"
            break
    page: str = await ctx.step("report", "payout.report", state=state, checked=checked, sha256=seen["sha256"], by=by, transfer=receipt)
    return Paid(state, page, by, voided, receipt)


if __name__ == "__main__":
    agent.run()
