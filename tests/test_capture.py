"""What a run prints and logs is kept, bounded, and shown as before."""

from __future__ import annotations

import asyncio
import logging
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from mesh import Agent, Context, Secret
from mesh.capture import KEPT_BYTES_MAX, LINE_CHARS_MAX, LINE_COST_BYTES, PARTIAL_CHARS_MAX, RunLog, capturing, current, show
from mesh.core.inputs import HandlerEnded, HandlerSaid
from mesh.sync import Context as BlockingContext

LOGGER = logging.getLogger("users.own")


def speaker(log: RunLog) -> Any:
    return SimpleNamespace(log=log)


def texts(log: RunLog, *, end: bool = True) -> list[tuple[str, str]]:
    lines, _ = log.take(str, end=end)
    return [(stream, text) for _, stream, text in lines]


@pytest.fixture
def log() -> RunLog:
    return RunLog(lambda: 7, lambda _: None)


def test_lines_are_whole_and_a_stream_waits_for_its_own_end(log: RunLog) -> None:
    for stream, text in (("stdout", "a"), ("stderr", "x\ny"), ("stdout", "b\n\nc")):
        log.write(stream, text)
    assert log.take(str) == ([(7, "stderr", "x"), (7, "stdout", "ab"), (7, "stdout", "")], 0)
    assert texts(log, end=False) == []
    assert texts(log) == [("stdout", "c"), ("stderr", "y")]


def test_the_newest_lines_stay_and_the_rest_is_counted(log: RunLog) -> None:
    fits = KEPT_BYTES_MAX // (1000 + LINE_COST_BYTES)
    for i in range(fits + 5):
        log.line("log", f"{i:1000}")
    lines, dropped = log.take(str)
    assert dropped == 5 and len(lines) == fits and int(lines[0][2]) == 5 and int(lines[-1][2]) == fits + 4
    assert log.take(str) == ([], 0)


def test_a_line_without_end_is_cut_after_secrets_were_taken_out(log: RunLog) -> None:
    log.write("stdout", "x" * (LINE_CHARS_MAX - 2) + "secret" + "y" * PARTIAL_CHARS_MAX)
    lines, _ = log.take(lambda text: text.replace("secret", "[gone]"))
    assert "".join(text for _, _, text in lines) == "x" * (LINE_CHARS_MAX - 2) + "[gone]" + "y" * PARTIAL_CHARS_MAX
    assert max(len(text) for _, _, text in lines) == LINE_CHARS_MAX


def test_it_says_once_that_there_is_something() -> None:
    said: list[int] = []
    log = RunLog(lambda: 0, said.append, 1)
    log.write("stdout", "no end")
    assert said == []
    log.line("log", "a")
    log.line("log", "b")
    assert said == [1]
    log.take(str)
    log.line("log", "c")
    assert said == [1, 1]


def test_only_what_a_run_says_is_kept_and_all_is_shown(log: RunLog, capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr, list(logging.getLogger().handlers)
    with capturing(), capturing():
        print("nobody's")
        token = current.set(speaker(log))
        print("its own")
        show("shown only")
        sys.stderr.writelines(["warned\n"])
        LOGGER.warning("logged %d", 1)
        LOGGER.info("below the level")
        current.reset(token)
    assert (sys.stdout, sys.stderr, list(logging.getLogger().handlers)) == before
    assert texts(log) == [("stdout", "its own"), ("stderr", "warned"), ("log", "WARNING users.own: logged 1")]
    printed = capsys.readouterr()
    assert printed.out == "nobody's\nits own\n" and printed.err.startswith("shown only\nwarned\n")


def test_a_record_that_the_users_handler_prints_is_not_kept_twice(log: RunLog, capsys: pytest.CaptureFixture[str]) -> None:
    with capturing():
        token, handler = current.set(speaker(log)), logging.StreamHandler()
        handler.setFormatter(logging.Formatter("mine: %(message)s"))
        LOGGER.addHandler(handler)
        LOGGER.error("once")
        LOGGER.removeHandler(handler)
        current.reset(token)
    assert texts(log) == [("stderr", "mine: once")]
    assert capsys.readouterr().err.count("once") == 1


def test_the_lines_of_two_runs_at_once_are_told_apart(with_toy: Any) -> None:
    agent = Agent("noisy")

    @agent.capability
    async def coroutine(ctx: Context, name: str, password: Secret) -> None:
        for i in range(3):
            print(name, i)
            await asyncio.sleep(0)
        await asyncio.to_thread(print, name, "elsewhere")
        ctx.log(f"{name}: {password.reveal()}")

    @agent.capability
    def thread(ctx: BlockingContext, name: str) -> None:
        print(name)
        LOGGER.warning("from %s", name)
        ctx.log("a\nb")
        sys.stderr.write("no end")

    async def story(toy: Any) -> None:
        toy.keep("db", "c4nary-of-a-secret")
        async with toy.serving(agent), toy.client() as client:
            await asyncio.gather(
                client.call("coroutine", name="one", password="secret://db"),
                client.call("coroutine", name="two", password="secret://db"),
                client.call("thread", name="three"),
            )
        said: dict[str, list[tuple[str, str]]] = {}
        ended: list[str] = []
        for body in toy.seen:
            if isinstance(body, HandlerSaid):
                assert body.attempt == 1 and body.fence == 1 and body.task not in ended, "before its end"
                said.setdefault(body.task, []).extend((stream, text) for _, stream, text in body.lines)
            elif isinstance(body, HandlerEnded):
                ended.append(body.task)
        for task, name in (("toy.1.1", "one"), ("toy.1.2", "two")):
            printed = [("stdout", f"{name} {i}") for i in (*range(3), "elsewhere")]
            assert said[task] == [*printed, ("log", f"{name}: [secret db]")]
        expected = [("stdout", "three"), ("log", "WARNING users.own: from three"), ("log", "a"), ("log", "b"), ("stderr", "no end")]
        assert said["toy.1.3"] == expected

    with_toy(story)
