"""``ctx.effect``, ``ctx.task.key`` and ``ctx.task.fence``: over kills and re-awards in a mesh, and the small print on a bench."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from mesh import Agent, Context, File
from mesh.errors import LeaseLost, MeshError, OutcomeUnknown, TaskFailed, from_body
from mesh.reaching import LEASE_OVER
from mesh.runner import Runner
from mesh.sync import Context as BlockingContext
from mesh.testing import LocalMesh
from mesh.threads import HandlerStopped


def over_a_kill(agent: Agent, capability: str, *, seed: int = 7) -> tuple[Any, dict[str, Any], list[dict[str, Any]]]:
    """Submit, kill the node that runs it after a second, and wait: ``(result or error, status, story)``."""

    async def story() -> tuple[Any, dict[str, Any], list[dict[str, Any]]]:
        async with LocalMesh(nodes={"n1": [], "n2": [agent], "n3": [agent]}, seed=seed) as m:
            task = await m.submit(capability)
            await m.sleep(1.0)
            m.kill((await task.status())["owner"])
            try:
                result = await task.result()
            except MeshError as error:
                result = error
            return result, await task.status(), await task.why()

    return asyncio.run(asyncio.wait_for(story(), 20))


def test_the_key_stays_and_the_fence_grows_over_a_re_award() -> None:
    agent, seen = Agent("worker"), list[Any]()

    @agent.capability(idempotent=True)
    async def work(ctx: Context) -> None:
        seen.append((ctx.task.key, ctx.task.fence, ctx.task.attempt))
        await ctx.sleep(20)

    _, status, _ = over_a_kill(agent, "work")
    (first, second) = seen
    assert first[0] == second[0] == status["task"]
    assert (first[1], first[2]) == (1 << 32 | 1, 1) and (second[1], second[2]) == (1 << 32 | 2, 2) and second[1] == status["fence"]


@pytest.mark.parametrize("blocking", [False, True], ids=["on the loop", "in a thread"])
def test_a_second_attempt_gets_the_stored_outcome_and_runs_nothing(blocking: bool) -> None:
    agent, ran = Agent("worker"), list[Any]()

    def mail(attempt: int) -> dict[str, int]:
        ran.append(attempt)
        return {"sent": attempt}

    async def letter(attempt: int) -> tuple[int, ...]:
        ran.append(-attempt)
        return (attempt,)

    if blocking:

        @agent.capability(name="work", idempotent=True)
        def work(ctx: BlockingContext) -> list[Any]:
            made = [ctx.effect("mail", lambda: mail(ctx.task.attempt)), ctx.effect("letter", lambda: letter(ctx.task.attempt))]
            ctx.sleep(20)
            return [ctx.task.attempt, *made]
    else:

        @agent.capability(name="work", idempotent=True)
        async def later(ctx: Context) -> list[Any]:
            made = [await ctx.effect("mail", lambda: mail(ctx.task.attempt)), await ctx.effect("letter", lambda: letter(ctx.task.attempt))]
            await ctx.sleep(20)
            return [ctx.task.attempt, *made]

    result, status, story = over_a_kill(agent, "work")
    assert result == [2, {"sent": 1}, [1]], "what the first attempt made, as JSON gives it back"
    assert ran == [1, -1]
    assert [(row["key"], row["outcome"], row["award"]) for row in status["effects"]] == [("mail", "known", 1), ("letter", "known", 1)]
    assert [entry["key"] for entry in story if entry["kind"] == "Effected"] == ["mail", "letter"]


def test_what_was_begun_and_has_no_outcome_is_begun_again_under_the_same_key() -> None:
    agent, ran = Agent("worker"), list[Any]()

    @agent.capability(idempotent=True)
    async def work(ctx: Context) -> Any:
        async def slow() -> int:
            ran.append(f"{ctx.task.key}/mail")
            await ctx.sleep(20)
            return ctx.task.attempt

        return await ctx.effect("mail", slow)

    result, status, story = over_a_kill(agent, "work")
    assert result == 2 and len(ran) == 2 and ran[0] == ran[1]
    assert [entry["fence"] & 0xFFFF for entry in story if entry["kind"] == "Intended"] == [1, 2]
    assert [row["outcome"] for row in status["effects"]] == ["known"]


@pytest.mark.parametrize("catches", [False, True])
def test_at_most_once_is_never_begun_again_and_says_so_in_words(catches: bool) -> None:
    agent, ran = Agent("worker"), list[int]()

    @agent.capability(idempotent=True, retries=3)
    async def work(ctx: Context) -> str:
        async def slow() -> None:
            ran.append(ctx.task.attempt)
            await ctx.sleep(20)

        try:
            await ctx.effect("pay", slow, at_most_once=True)
        except OutcomeUnknown as error:
            if catches:
                return error.message
            raise
        return "paid"

    result, status, _ = over_a_kill(agent, "work")
    assert ran == [1]
    if catches:
        assert "the effect 'pay' was begun by award 1 on n" in result and "nobody knows whether it happened" in result
    else:
        assert isinstance(result, TaskFailed) and result.kind == "outcome_unknown" and "nobody knows" in result.message
        assert status["state"] == "failed" and status["attempts"] == 2, "final: its retries are not used"
    assert [(row["outcome"], row["at_most_once"]) for row in status["effects"]] == [("unknown", True)]


@pytest.mark.parametrize(("on_lost", "runs"), [("fail", [1]), ("retry", [1, 2])])
def test_what_must_not_repeat_ends_with_its_node_and_all_else_is_awarded_again(on_lost: str, runs: list[int]) -> None:
    agent, ran = Agent("worker"), list[int]()

    @agent.capability(on_lost=on_lost)
    async def work(ctx: Context) -> None:
        ran.append(ctx.task.attempt)
        await ctx.sleep(20)

    result, status, _ = over_a_kill(agent, "work")
    assert ran == runs
    assert (getattr(result, "kind", None), status["state"]) == (("node_lost", "failed") if on_lost == "fail" else (None, "done"))


def test_a_function_that_raises_is_called_again_by_the_next_attempt() -> None:
    agent, ran = Agent("worker"), list[int]()

    @agent.capability(retries=2)
    async def work(ctx: Context) -> int:
        def post() -> int:
            ran.append(ctx.task.attempt)
            if ctx.task.attempt == 1:
                raise ConnectionError("cut")
            return ctx.task.attempt

        return await ctx.effect("post", post)

    async def story() -> None:
        async with LocalMesh(agents=[agent]) as m:
            task = await m.submit("work")
            assert await task.result() == 2 and ran == [1, 2]
            errors = [entry["error"] for entry in await task.why() if entry["kind"] == "Effected"]
            assert errors == ["ConnectionError: cut", ""]

    asyncio.run(asyncio.wait_for(story(), 20))


def test_a_suspended_contractor_begins_no_effect() -> None:
    """Cut off from its manager for longer than its lease, it computes on; when it reaches for the world it waits, and is replaced."""
    agent, ran = Agent("worker"), list[int]()

    @agent.capability
    async def work(ctx: Context) -> int:
        for _ in range(8):
            await ctx.sleep(1)  # too short to be skipped: leases go by the same time
        await ctx.effect("mail", lambda: ran.append(ctx.task.attempt))
        return ctx.task.attempt

    async def story() -> None:
        async with LocalMesh(nodes={"n1": [], "n2": [agent]}, seed=3) as m:
            task = await m.submit("work")
            await m.sleep(2)
            m.partition(["n1"], ["n2"])
            await m.sleep(12)
            assert ran == []
            m.heal()
            assert await task.result() == 2 and ran == [2]

    asyncio.run(asyncio.wait_for(story(), 20))


# ---- on a bench: one runner, and a node that says what the test wants


class Clock:
    def __init__(self) -> None:
        self.ms = 1000

    def now_ms(self) -> int:
        return self.ms

    def call_later(self, seconds: float, call: Callable[[], None]) -> Any:
        return asyncio.get_running_loop().call_later(1000, call)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


class Bench:
    """`answers` are given in turn to ``effect``; then it is go."""

    def __init__(self, agent: Agent) -> None:
        self.ended: asyncio.Future[tuple[str, Any]] = asyncio.get_running_loop().create_future()
        self.asked: list[tuple[str, Any, Any]] = []
        self.answers: list[Any] = []
        self.clock = Clock()
        self.runner = Runner(agent, out=self.out, ask=self.ask, clock=self.clock, body_bytes_max=1000)

    def out(self, verb: str, item: list[Any]) -> None:
        if verb == "ended":
            self.ended.set_result((item[2], item[3].decode() or item[5]))

    async def ask(self, verb: str, params: dict[str, Any]) -> dict[str, Any]:
        if verb == "secret":
            return {"text": "hunter2-hunter2"}
        self.asked.append((verb, params["key"], params["error"] or params["output"] if verb == "effected" else params["call"]))
        answer = self.answers.pop(0) if verb == "effect" and self.answers else {"state": "go", "output": b""}
        if isinstance(answer, MeshError):
            raise answer
        return answer

    async def run(self, lease_end_ms: int = 1 << 60) -> None:
        self.runner.execute(["t.1.1", 1, "work", b"{}", lease_end_ms, 0, "", 1, b"", False, 0, [0, ""], False])


def bench(agent: Agent, story: Callable[[Bench], Awaitable[None]]) -> None:
    async def main() -> None:
        it = Bench(agent)
        await asyncio.wait_for(story(it), 20)
        it.runner.stop_all()
        await it.runner.drained()
        it.runner.close()

    asyncio.run(main())


def one(effect: Callable[[Context], Awaitable[Any]]) -> Agent:
    agent = Agent("a")

    @agent.capability
    async def work(ctx: Context) -> Any:
        return await effect(ctx)

    return agent


def test_the_node_says_not_now_and_it_waits_for_the_renewal() -> None:
    agent = one(lambda ctx: ctx.effect("mail", lambda: "sent"))

    async def story(it: Bench) -> None:
        it.answers = [from_body({"code": LEASE_OVER, "message": "m", "fix": "f"})]
        await it.run(lease_end_ms=1500)
        for _ in range(10):
            await asyncio.sleep(0)
        assert it.asked == [("effect", "mail", 1)] and not it.ended.done(), "whatever its own clock says"
        it.runner.extend(["t.1.1", 1, 2000])
        assert await it.ended == ("ok", '"sent"')
        assert it.asked[1:] == [("effect", "mail", 1), ("effected", "mail", b'"sent"')], "the same call, asked again"

    bench(agent, story)


def test_the_lease_ends_while_the_manager_answers_and_the_function_waits() -> None:
    agent, ran = Agent("a"), list[int]()

    @agent.capability
    async def work(ctx: Context) -> None:
        await ctx.effect("mail", lambda: ran.append(it_is.clock.ms))

    async def story(it: Bench) -> None:
        nonlocal it_is
        it_is, before = it, it.ask

        async def slow(verb: str, params: dict[str, Any]) -> dict[str, Any]:
            answer = await before(verb, params)
            if verb == "effect":
                it.clock.ms = 1600
            return answer

        it.runner._ask = slow
        await it.run(lease_end_ms=1500)
        for _ in range(20):
            await asyncio.sleep(0)
        assert it.asked == [("effect", "mail", 1)] and ran == []
        it.runner.extend(["t.1.1", 1, 9000])
        assert (await it.ended)[0] == "ok" and ran == [1600]

    it_is: Any = None
    bench(agent, story)


def test_a_stale_attempt_hears_so() -> None:
    async def work(ctx: Context) -> str:
        try:
            await ctx.effect("mail", lambda: ran.append(1))
        except LeaseLost as error:
            return error.code
        return "went on"

    ran: list[int] = []

    async def story(it: Bench) -> None:
        it.answers = [from_body({"code": "stale_fence", "message": "m", "fix": "f"})]
        await it.run()
        assert await it.ended == ("ok", '"stale_fence"') and ran == []

    bench(one(work), story)


@pytest.mark.parametrize(
    ("outcome", "kind", "says"),
    [
        (lambda: "x" * 2000, "too_big", "the outcome of the effect 'mail' is 2002 bytes"),
        (lambda: object(), "invalid_argument", "cannot travel"),
        (lambda: File.of(__file__), "invalid_argument", "holds a File"),
    ],
    ids=["too big", "no JSON", "a file"],
)
def test_an_outcome_that_cannot_be_kept_is_said_so_and_put_on_record(outcome: Any, kind: str, says: str) -> None:
    async def story(it: Bench) -> None:
        await it.run()
        how, error = await it.ended
        assert how == "error" and error["kind"] == kind and says in error["message"] and not error["retryable"]
        assert it.asked[1][0] == "effected" and says in it.asked[1][2]

    bench(one(lambda ctx: ctx.effect("mail", outcome)), story)


@pytest.mark.parametrize("key", ["", "k" * 201, 7])
def test_bad_keys(key: Any) -> None:
    async def story(it: Bench) -> None:
        await it.run()
        how, error = await it.ended
        assert how == "error" and "cannot be the key of an effect" in error["message"] and it.asked == []

    bench(one(lambda ctx: ctx.effect(key, lambda: 1)), story)


def test_two_of_one_key_at_once_are_a_mistake_and_one_after_the_other_are_not() -> None:
    async def work(ctx: Context) -> list[str]:
        results = await asyncio.gather(*(ctx.effect("mail", lambda: 1) for _ in range(2)), return_exceptions=True)
        again = await ctx.effect("mail", lambda: 2)
        return [str(each) for each in (*results, again)]

    async def story(it: Bench) -> None:
        await it.run()
        assert (await it.ended)[1] == '["1","the effect \'mail\' is under way in this very handler","2"]'
        assert [call for verb, _, call in it.asked if verb == "effect"] == [1, 2]

    bench(one(work), story)


def test_stopping_a_handler_interrupts_its_effect_and_waits_until_it_has_let_go() -> None:
    seen: list[str] = []
    began = threading.Event()

    def block() -> None:
        try:
            seen.append("began")
            began.set()
            while True:
                time.sleep(0.001)
        except HandlerStopped:
            time.sleep(0.02)
            seen.append("let go")
            raise

    async def story(it: Bench) -> None:
        await it.run()
        await asyncio.to_thread(began.wait)
        it.runner.stop("t.1.1", 1)
        it.runner.stop("t.1.1", 1)
        assert (await it.ended)[0] == "cancelled" and seen == ["began", "let go"]
        assert [verb for verb, *_ in it.asked] == ["effect"], "nobody knows whether it happened"

    bench(one(lambda ctx: ctx.effect("mail", block)), story)


def test_secrets_leave_in_no_key_and_no_outcome_and_are_taken_out_of_errors() -> None:
    async def work(ctx: Context) -> list[str]:
        text = (await ctx.secret("db")).reveal()

        def fails() -> None:
            raise ValueError(f"not {text}")

        tries = [ctx.effect(text, lambda: 1), ctx.effect("mail", lambda: text), ctx.effect("post", fails)]
        return [type(each).__name__ for each in await asyncio.gather(*tries, return_exceptions=True)]

    async def story(it: Bench) -> None:
        await it.run()
        assert (await it.ended)[0] == "ok"
        assert "hunter2" not in str(it.asked)
        assert [key for verb, key, _ in it.asked if verb == "effect"] == ["mail", "post"], "a key is looked at before anybody hears it"
        assert ["secret" in said for verb, key, said in it.asked if verb == "effected" and key == "mail"] == [True]
        assert [said for verb, key, said in it.asked if verb == "effected" and key == "post"] == ["ValueError: not [secret db]"]

    bench(one(work), story)
