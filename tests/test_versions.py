"""Versions of a capability: the language of ranges, and in a mesh: several beside each other, and one replaced by another live."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh import Agent, Context
from mesh.errors import DeclarationError, NoSuchLabel, UsageError
from mesh.options import versioned
from mesh.schedules import plan_of
from mesh.testing import LocalMesh
from mesh.versions import bounds, chosen, is_range, is_version, matches, order, parsed


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 20))


# ---- the language


def test_versions_are_numbers_and_a_release_comes_after_its_pre_releases() -> None:
    texts = ["0.9", "1.0-alpha", "1.0-alpha.2", "1.0-alpha.11", "1.0-rc", "1", "1.0.1", "1.2", "1.10", "2", "10"]
    assert sorted(texts, key=order) == texts
    assert parsed("2") == parsed("2.0") == parsed("2.0.0.0")
    for wrong in ("", "v2", "2.", "1.2.3.4.5", "two", "1.2-", "1 2", "-1", "2.1\n", "9" * 10, "1-" + "a" * 40):
        assert not is_version(wrong), wrong


@pytest.mark.parametrize(
    ("wanted", "fit", "unfit"),
    [
        ("2.1", "2.1 2.1.0", "2 2.1.1 2.1-rc"),
        ("^2", "2 2.1 2.99.9", "1.9 3 3.0-rc 2.0-rc"),
        ("^2.1", "2.1 2.9", "2 2.0.9 3"),
        ("^0.3", "0.3 0.3.9", "0.4 0.2 1"),
        ("^0", "0 0.9", "1"),
        ("~2.1", "2.1 2.1.9", "2.2 2 3"),
        ("~2", "2 2.9", "3 1.9"),
        ("~2.1.3", "2.1.3 2.1.9", "2.1.2 2.2"),
        (">=2,<3", "2 2.9", "3 1.9 2.5-rc"),
        (" >= 2 , < 3 ", "2 2.9", "3 1.9"),
        (">2", "2.0.1 3", "2 1"),
        ("<=2", "2 1", "2.0.1"),
        ("==2", "2.0", "2.1"),
        ("2.1-rc.1", "2.1-rc.1", "2.1 2.1-rc.2"),
        (">=2.0-beta,<3", "2.0-beta 2.0-rc 2 2.9", "2.0-alpha 3"),
        ("2|1", "2 1", "1.5 3"),
        ("^3|^1", "3.4 1.2", "2"),
    ],
)
def test_ranges(wanted: str, fit: str, unfit: str) -> None:
    assert [one for one in fit.split() if not matches(one, wanted)] == []
    assert [one for one in unfit.split() if matches(one, wanted)] == []


@settings(max_examples=60)
@given(st.text("0123456789.-^~<>=,|ar @", max_size=24), st.text(max_size=12))
def test_whatever_the_text_it_is_a_range_or_it_is_not(wanted: str, version: str) -> None:
    assert is_range(wanted) == (bounds(wanted) is not None)
    assert matches(version, wanted) in (True, False)
    if not is_version(version):
        assert matches(version, wanted) == (version == wanted)


def test_a_bad_range_is_said_so_before_anything_is_sent() -> None:
    assert versioned("report.render@ ^2", {}) == ("report.render", {"placement": {"where": ["@^2"]}})
    assert versioned("x@2", {"placement": {"where": ["gpu"], "near": "k"}}) == ("x", {"placement": {"where": ["@2", "gpu"], "near": "k"}})
    for wrong in ("x@", "x@two", "x@^", "@2", "x@2@3", "x@>=2;<3"):
        with pytest.raises(UsageError, match="no range of versions"):
            versioned(wrong, {})
        with pytest.raises(UsageError, match="no range of versions"):
            plan_of("nightly", wrong, "1d")
    with pytest.raises(DeclarationError, match="version is 'newest'; write a version such as"):
        renderer("newest")


def cap(**versions: dict[str, Any]) -> dict[str, Any]:
    rows = [
        {"version": name[1:].replace("_", "."), "input_schema": schema, "output_schema": {}, "offered_by": [name], "nodes": [name]}
        for name, schema in versions.items()
    ]
    return {"x": {"capability": "x", **rows[0], "versions": rows}}


def test_no_version_is_judged_by_the_schema_of_another() -> None:
    one, two = {"required": ["a"]}, {"required": ["a", "b"]}
    caps = cap(v2_1=two, v2=two, v1=one)
    assert chosen(caps, "x@1")["input_schema"] == one  # type: ignore[index]
    assert chosen(caps, "x@^2")["input_schema"] == two  # type: ignore[index]
    assert chosen(caps, "x@^2")["nodes"] == ["v2_1", "v2"]  # type: ignore[index]
    assert chosen(caps, "x")["input_schema"] == {}  # type: ignore[index]
    assert chosen(caps, "x@3") is None and chosen(caps, "y") is None


# ---- in a mesh


def renderer(version: str, **options: Any) -> Agent:
    agent = Agent(f"render{version.replace('.', '-')}", **options)

    @agent.capability(name="report.render", version=version, idempotent=True)
    async def render(ctx: Context) -> str:
        await ctx.sleep(0.05)
        return version

    return agent


def driver() -> Agent:
    agent = Agent("driver")

    @agent.capability
    async def drive(ctx: Context) -> list[str]:
        steps = [ctx.step(name, f"report.render@{name}") for name in ("^1", "^2", "~2.1")]
        return [*await asyncio.gather(*steps), await ctx.call("report.render@1")]

    return agent


def test_versions_live_beside_each_other_and_each_gets_the_work_that_wants_it() -> None:
    """Also in two workers of one node; the record says which was chosen, which ran, and why others were not asked."""

    async def story() -> None:
        nodes = {"n1": [renderer("1"), renderer("2.0"), driver()], "n2": [renderer("2.1.4")], "n3": [renderer("1.5")]}
        async with LocalMesh(nodes=nodes) as m:
            assert set(await asyncio.gather(*(m.call("report.render@1") for _ in range(6)))) == {"1"}
            assert set(await asyncio.gather(*(m.call("report.render@2.0") for _ in range(6)))) == {"2.0"}
            assert set(await asyncio.gather(*(m.at("n3").call("report.render@~2.1") for _ in range(6)))) == {"2.1.4"}
            assert set(await asyncio.gather(*(m.call("report.render@^2") for _ in range(12)))) <= {"2.0", "2.1.4"}
            assert len(set(await asyncio.gather(*(m.call("report.render") for _ in range(40))))) > 2
            one, two, three, four = await m.call("drive")
            assert one in ("1", "1.5") and two in ("2.0", "2.1.4") and (three, four) == ("2.1.4", "1")
            task = await m.submit("report.render@2.1.4")
            assert await task.result() == "2.1.4" and (await task.status())["version"] == "2.1.4"
            decided = next(entry for entry in await task.why() if entry["kind"] == "Decided")
            assert [candidate["version"] for candidate in decided["candidates"]] == ["2.1.4"]
            assert {reason for _, _, reason in decided["refusals"]} == {"lacks version 2.1.4"}
            assert next(entry for entry in await task.why() if entry["kind"] == "Finished")["version"] == "2.1.4"
            with pytest.raises(NoSuchLabel, match=r"nobody has version \^3; nearest: version 2\.1\.4, version 2\.0, version 1\.5"):
                await m.call("report.render@^3")

    run(story())


def test_one_version_is_replaced_by_another_while_work_waits_for_it() -> None:
    async def story() -> None:
        old, new = renderer("1"), renderer("2.0")
        async with LocalMesh(nodes={"n1": [driver()], "n2": [old], "n3": []}) as m:
            waiting = [await m.submit("report.render@^2") for _ in range(3)]
            anyway = [await m.submit("report.render") for _ in range(20)]
            await m.sleep(0.2)
            assert {(await task.status())["state"] for task in waiting} == {"parked"}
            assert "no_label: nobody has version ^2; nearest: version 1" in (await waiting[0].status())["reason"]
            m.detach("n2", old)
            await m.attach("n2", new)
            assert {await task.result() for task in waiting} == {"2.0"}
            assert {await task.result() for task in anyway} <= {"1", "2.0"}
            with pytest.raises(UsageError, match="n2 does not serve render1"):
                m.detach("n2", old)

    run(story())


def test_either_of_two_versions_is_the_first_as_long_as_anybody_offers_it() -> None:
    async def story() -> None:
        new = renderer("2.0")
        async with LocalMesh(nodes={"n1": [renderer("1")], "n2": [new, renderer("1")]}) as m:
            assert set(await asyncio.gather(*(m.call("report.render@2.0|1") for _ in range(30)))) == {"2.0"}
            m.detach("n2", new)
            await m.sleep(0.5)
            assert await m.call("report.render@2.0|1") == "1"

    run(story())


def test_a_limit_over_the_mesh_holds_whichever_version_or_rule_says_so() -> None:
    runs: list[int] = []

    def limited(version: str, **more: Any) -> Agent:
        agent = Agent(f"only{version}")

        @agent.capability(name="only", version=version, **more)
        async def only(ctx: Context) -> int:
            runs.append(1)
            most = len(runs)
            await ctx.sleep(0.5)
            runs.pop()
            return most

        return agent

    async def story() -> None:
        async with LocalMesh(nodes={"n1": [limited("1"), limited("2", limit=1)], "n2": [limited("2")]}) as m:
            await m.sleep(1)
            assert set(await asyncio.gather(*(m.call(f"only@{version}") for version in "11"))) == {1}
        async with LocalMesh(nodes={"n1": [limited("1")], "n2": [limited("2")]}) as m:
            await m.set_policy({"policy": "p", "rule": [{"id": "one", "match": {"capability": "only"}, "limit": 1}]})
            await m.sleep(3)
            assert set(await asyncio.gather(*(m.call("only") for _ in range(6)))) == {1}

    run(story())
