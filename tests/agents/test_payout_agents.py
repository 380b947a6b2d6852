"""The payout: the check as a plain function, the flow in a mesh of its own."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mesh_agents import auditor, payout
from mesh_agents.auditor import check, evidence
from mesh_agents.payout import transfer

from mesh.errors import MeshError
from mesh.testing import LocalMesh

ORDER = {"supplier": "W", "item": "sensor", "quantity": 10, "cents_each": 5}
RECEIPT = {"item": "sensor", "quantity": 10}
INVOICE = {"number": "I-1", "supplier": "W", "item": "sensor", "quantity": 10, "cents": 50, "pay_to": "A"}


def case(folder: Path, **invoice: Any) -> str:
    for name, paper in (("order", ORDER), ("receipt", RECEIPT), ("invoice", INVOICE | invoice)):
        (folder / f"{name}.json").write_text(json.dumps(paper))
    return str(folder)


@pytest.mark.parametrize(
    ("invoice", "said"),
    [
        ({}, ""),
        ({"quantity": 5, "cents": 25}, ""),
        ({"supplier": "X"}, "ordered from W, invoiced by X"),
        ({"item": "cable"}, "not about the same thing"),
        ({"quantity": 11, "cents": 55}, "10 ordered, 10 came, 11 invoiced"),
        ({"quantity": 0, "cents": 0}, "0 invoiced"),
        ({"cents": 51}, "are not 51 cents"),
        ({"cents": 50.0}, "are not 50.0 cents"),
    ],
)
def test_the_three_papers_have_to_match(invoice: dict[str, Any], said: str, tmp_path: Path) -> None:
    found = check(evidence(case(tmp_path, **invoice)).papers)
    assert len(found.problems) == bool(said) and said in "".join(found.problems)


def test_evidence_is_bound_to_the_bytes_and_says_what_is_missing(tmp_path: Path) -> None:
    first = evidence(case(tmp_path))
    assert evidence(case(tmp_path)) == first != evidence(case(tmp_path, pay_to="B"))
    (tmp_path / "order.json").write_text('{"supplier": "W"}')
    with pytest.raises(ValueError, match=r"order.json does not say: item, quantity, cents_each"):
        evidence(str(tmp_path))
    (tmp_path / "order.json").write_text("[]")
    with pytest.raises(ValueError, match="does not say"):
        evidence(str(tmp_path))


def test_the_bank_makes_one_transfer_per_key(tmp_path: Path) -> None:
    ledger = str(tmp_path / "bank")
    first = transfer(ledger, "k", 50, "A")
    assert transfer(ledger, "k", 50, "A") == first and transfer(ledger, "other", 50, "A")["number"] == 2


def test_money_leaves_once_for_what_two_others_have_seen(tmp_path: Path) -> None:
    ledger = tmp_path / "bank"

    async def story() -> None:
        async with LocalMesh(nodes={"n1": [auditor.agent], "n2": [payout.agent], "n3": [payout.agent], "n4": []}) as m:

            async def gate(task: Any, other_than: str = "") -> str:
                while not (found := [one["task"] for one in (await m.at("n1").approvals(task.id))["gates"] if one["task"] != other_than]):
                    await m.sleep(0.25)
                return str(found[0])

            async def submit() -> Any:
                return await m.submit("payout.run", case=str(tmp_path), ledger=str(ledger))

            case(tmp_path)
            task = await submit()
            first = await gate(task)
            with pytest.raises(MeshError) as refused:
                await m.at("n1").approve(first)
            assert refused.value.code == "own_work"
            await m.at("n4").approve(first)
            case(tmp_path, pay_to="B")
            await m.at("n3").approve(first)
            second = await gate(task, first)
            m.kill("n4")
            await m.at("n2").approve(second)
            await m.at("n3").approve(second, note="seen")
            result = await task.result()
            assert (result["state"], result["transfer"]["pay_to"]) == ("paid", "B")
            assert sorted(one["node"] for one in result["voided"]) == ["n3", "n4"] and "n3: seen" in result["report"]

            task = await submit()
            await m.at("n2").deny(await gate(task))
            assert ((await task.result())["state"], (await task.result())["transfer"]) == ("denied", None)
            task = await submit()
            await m.at("n2").approve(waits := await gate(task), output={"pay": 1})
            await m.at("n3").approve(waits)
            assert (await task.result())["state"] == "denied"
            case(tmp_path, cents=51)
            assert (await (await submit()).result())["state"] == "refused"

    asyncio.run(asyncio.wait_for(story(), 30))
    with closing(sqlite3.connect(ledger)) as bank:
        assert bank.execute("SELECT cents, pay_to FROM transfers").fetchall() == [(50, "B")]
