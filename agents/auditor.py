"""Auditor: the evidence for a payout, whether it holds together, and the page that says how it went.

A case is a folder with three JSON files, each written by somebody else: `order.json` (what we ordered), `receipt.json` (what came) and
`invoice.json` (what the supplier wants, and where to). The check is the three-way match of bookkeeping.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh import Agent

agent = Agent("auditor", tags=["money"])

PAPERS = ("order", "receipt", "invoice")
PAPER_BYTES_MAX = 100_000
FIELDS: dict[str, tuple[str, ...]] = {
    "order": ("supplier", "item", "quantity", "cents_each"),
    "receipt": ("item", "quantity"),
    "invoice": ("number", "supplier", "item", "quantity", "cents", "pay_to"),
}


@dataclass
class Evidence:
    """What the papers say, and the sha256 of each: other papers are other evidence."""

    papers: dict[str, dict[str, Any]]
    sha256: dict[str, str]


@dataclass
class Checked:
    """`problems` is empty if it may be paid. `cents` and `pay_to` as the invoice has them."""

    problems: list[str]
    cents: int
    pay_to: str
    invoice: str


@agent.capability(name="payout.evidence", idempotent=True, timeout_s=30)
def evidence(case: str) -> Evidence:
    """Read the papers of a case, a folder that this machine has."""
    papers, hashes = {}, {}
    for name in PAPERS:
        path = Path(case) / f"{name}.json"
        if path.stat().st_size > PAPER_BYTES_MAX:
            raise ValueError(f"{path.name} is bigger than {PAPER_BYTES_MAX} bytes: that is no {name}")
        data = path.read_bytes()
        paper = json.loads(data)
        missing = [field for field in FIELDS[name] if field not in paper] if isinstance(paper, dict) else list(FIELDS[name])
        if missing:
            raise ValueError(f"{path.name} does not say: {', '.join(missing)}")
        papers[name], hashes[name] = paper, hashlib.sha256(data).hexdigest()
    return Evidence(papers, hashes)


@agent.capability(name="payout.check", idempotent=True, timeout_s=30)
def check(papers: dict[str, dict[str, Any]]) -> Checked:
    """Compare what was ordered, what came, and what is to be paid."""
    order, receipt, invoice = (papers[name] for name in PAPERS)
    problems = []
    if invoice["supplier"] != order["supplier"]:
        problems.append(f"ordered from {order['supplier']}, invoiced by {invoice['supplier']}")
    if not order["item"] == receipt["item"] == invoice["item"]:
        problems.append("order, receipt and invoice are not about the same thing")
    if not 0 < invoice["quantity"] <= receipt["quantity"] <= order["quantity"]:
        problems.append(f"{order['quantity']} ordered, {receipt['quantity']} came, {invoice['quantity']} invoiced")
    if type(invoice["cents"]) is not int or invoice["cents"] != invoice["quantity"] * order["cents_each"]:
        problems.append(f"{invoice['quantity']} at {order['cents_each']} cents are not {invoice['cents']} cents")
    return Checked(problems, int(invoice["cents"]), str(invoice["pay_to"]), str(invoice["number"]))


@agent.capability(name="payout.report", idempotent=True, timeout_s=30)
def report(state: str, checked: dict[str, Any], sha256: dict[str, str], by: list[dict[str, str]], transfer: dict[str, Any] | None) -> str:
    """One page, Markdown: what was decided, by whom, on which papers, and what was paid."""
    lines = [f"# Invoice {checked['invoice']}: {state}", "", f"{checked['cents'] / 100:.2f} to {checked['pay_to']}", ""]
    lines += [f"- problem: {problem}" for problem in checked["problems"]]
    lines += [f"- {one['person']} at {one['node']}: {one['note'] or 'no note'}" for one in by]
    lines += [f"- {name}.json, sha256 {digest}" for name, digest in sha256.items()]
    lines += [f"- transfer {transfer['number']}, key {transfer['key']}"] if transfer else ["- nothing was paid"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    agent.run()
