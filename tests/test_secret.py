"""Secret: a value without a text that anything prints, and the redactor that takes texts out of what a task says."""

from __future__ import annotations

import asyncio
import base64
import copy
import dataclasses
import json
import pickle
import re
from typing import Any
from urllib.parse import quote

import pytest
from pydantic import BaseModel

import mesh
from mesh import Agent, Bid, Context, Secret
from mesh.core.inputs import Call, HandlerEnded, HandlerProgress
from mesh.errors import DeclarationError, InvalidArgument, MeshError, Refused, TaskFailed, UsageError
from mesh.secret import Redactor
from mesh.sync import Context as BlockingContext
from mesh.testing import LocalMesh
from mesh.values import dump

TEXT = "p4ss/wörd+&="


def test_nothing_that_prints_it_shows_the_text() -> None:
    secret = Secret("db", TEXT)
    assert secret.reveal() == TEXT and secret.reference == "secret://db" and mesh.Secret is Secret
    shown = [repr(secret), str(secret), f"{secret}", f"{secret!r:>20}", "%s" % secret, repr([secret]), repr({"a": secret})]  # noqa: UP031
    assert not any(TEXT in text or "wörd" in text for text in shown)
    assert copy.deepcopy(secret) is copy.copy(secret) is secret and not hasattr(secret, "__dict__")
    for refuse in (lambda: json.dumps(secret), lambda: pickle.dumps(secret)):
        with pytest.raises(TypeError) as caught:
            refuse()
        assert TEXT not in str(caught.value)


def test_an_unresolved_one_says_how_to_get_it() -> None:
    with pytest.raises(UsageError, match="not resolved") as caught:
        Secret("db").reveal()
    assert "secret://db" in caught.value.fix
    for name in ("", "a/b", "x" * 65, None):
        with pytest.raises(UsageError):
            Secret(name)  # type: ignore[arg-type]


@dataclasses.dataclass
class Login:
    user: str
    password: Secret


class Model(BaseModel):
    key: Secret


@pytest.mark.parametrize(
    "value", [Secret("db", TEXT), [Secret("db", TEXT)], Login("me", Secret("db", TEXT)), {"a": {"b": Secret("db", TEXT)}}]
)
def test_it_cannot_be_passed_on(value: Any) -> None:
    with pytest.raises(InvalidArgument, match="pass its reference on") as caught:
        dump({"x": value})
    assert "'x'" in caught.value.message and TEXT not in caught.value.message


def test_a_model_with_one_cannot_be_passed_on_either() -> None:
    with pytest.raises(InvalidArgument, match="stays where it was resolved"):
        dump({"x": Model(key=Secret("db", TEXT))})


def test_the_schema_says_what_to_write() -> None:
    agent = Agent("a")

    @agent.capability
    async def use(password: Secret, more: list[Secret], login: Login) -> None: ...

    schema = json.loads(agent.capabilities["use"].shape.input_schema)
    assert schema["properties"]["password"] == {"type": "string", "pattern": "^secret://"}
    assert schema["properties"]["more"]["items"] == {"type": "string", "pattern": "^secret://"}
    shape, found = agent.capabilities["use"].shape, list[Secret]()
    shape.arguments(b'{"password":"secret://a","more":["secret://b"],"login":{"user":"u","password":"secret://c"}}', None, found)
    assert [secret.name for secret in found] == ["a", "b", "c"]
    for wrong in ("plain", "secret://", "secret://a b", "secret://../x", 7, None):
        with pytest.raises(InvalidArgument, match="password"):
            shape.arguments(json.dumps({"password": wrong, "more": [], "login": {"user": "", "password": "secret://c"}}).encode(), None)


@pytest.mark.parametrize("hint", [Secret, list[Secret], Login, Secret | None])
def test_a_return_hint_with_one_is_refused_at_the_declaration(hint: Any) -> None:
    async def give() -> None: ...

    give.__annotations__["return"] = hint
    with pytest.raises(DeclarationError, match="returns a Secret"):
        Agent("a").capability(give)


# ---- redaction


def test_texts_and_their_usual_encodings_are_taken_out() -> None:
    redactor = Redactor()
    redactor.add("db", TEXT)
    redactor.add("pem", "-----BEGIN-----\nMIIabcdef\n-----END-----\n")
    data = TEXT.encode()
    forms = [TEXT, repr(TEXT), json.dumps(TEXT), quote(TEXT), quote(TEXT, safe=""), data.hex(), "a line with MIIabcdef in it"]
    for form in forms:
        shown = redactor.text(f"before {form} after")
        assert "[secret " in shown and shown.startswith("before ") and shown.endswith(" after"), form
        assert form not in shown and "wörd" not in shown
    for prefix in (b"", b"u", b"us", b"user:"):
        encoded = base64.b64encode(prefix + data + b"@host").decode()
        middle = base64.b64encode(data).decode()
        shown = redactor.text(encoded)
        assert "[secret db]" in shown and middle[4:-4] not in shown
        # Of the characters that the text shares with its neighbours at most one at each end is left.
        assert len(re.sub(r"\[secret db\]", "", shown)) <= len(base64.b64encode(prefix + b"@host")) + 8
    assert redactor.text("nothing here") == "nothing here"


def test_short_texts_are_left_alone_and_the_longer_one_wins() -> None:
    redactor = Redactor()
    redactor.add("pin", "12")
    assert redactor.text("12 of 12") == "12 of 12"
    redactor.add("one", "abcdef")
    redactor.add("two", "abcdefgh")
    assert redactor.text("x abcdefgh abcdef") == "x [secret two] [secret one]"
    assert redactor.error({"message": "abcdef", "retryable": True}) == {"message": "[secret one]", "retryable": True}


def test_data_that_leaves_with_a_text_in_it_is_an_error() -> None:
    redactor = Redactor()
    redactor.check("the result of x", b'"anything"')
    redactor.add("db", TEXT)
    redactor.check("the result of x", b'"anything"')
    for data in (json.dumps(TEXT), json.dumps(TEXT, ensure_ascii=False), json.dumps({"a": [f"<{TEXT}>"]})):
        with pytest.raises(MeshError, match="holds the text of the secret 'db'") as caught:
            redactor.check("the result of x", data.encode())
        assert caught.value.code == "secret_leaves" and TEXT not in caught.value.message


# ---- in a worker, from its node


def vaulted() -> Agent:
    agent = Agent("vaulted")

    @agent.capability(name="use.secret")
    async def use(password: Secret) -> int:
        return len(password.reveal())

    @agent.capability(name="use.nested")
    def nested(login: Login, more: list[Secret]) -> list[int]:
        return [len(login.password.reveal()), *(len(each.reveal()) for each in more)]

    @agent.capability(name="use.context")
    async def by_context(ctx: Context, name: str) -> int:
        first, again = await ctx.secret(name), await ctx.secret(name)
        assert first.reveal() == again.reveal()
        return len(first.reveal())

    @agent.capability(name="use.blocking")
    def blocking(ctx: BlockingContext, name: str) -> int:
        return len(ctx.secret(name).reveal())

    @agent.capability(name="leak.error")
    async def leak_error(ctx: Context, password: Secret) -> None:
        ctx.progress(0.5, f"logging in with {password.reveal()}")
        try:
            raise KeyError(password.reveal())
        except KeyError as error:
            raise ValueError(f"cannot log in as {base64.b64encode(password.reveal().encode()).decode()}") from error

    @agent.capability(name="leak.result")
    async def leak_result(password: Secret) -> dict[str, str]:
        return {"url": f"postgres://me:{password.reveal()}@host"}

    @agent.capability(name="leak.step")
    async def leak_step(ctx: Context, password: Secret, how: str) -> Any:
        if how == "value":
            return await ctx.call("use.secret", password=password)
        if how == "text":
            return await ctx.step("s", "echo", text=password.reveal())
        if how == "name":
            return await ctx.step(password.reveal(), "echo", text="x")
        return await ctx.call("use.secret", password=password.reference)

    @agent.capability
    async def echo(text: str) -> str:
        return text

    @agent.capability
    async def sneaky(password: Secret) -> Any:
        return {"it": password}

    return agent


def test_references_become_texts_only_in_the_worker(with_toy: Any) -> None:
    async def story(toy: Any) -> None:
        toy.keep("db", TEXT, "use.*")
        async with toy.serving(vaulted()), toy.client() as client:
            assert await client.call("use.secret", password="secret://db") == len(TEXT)
            nested = {"login": {"user": "me", "password": "secret://db"}, "more": ["secret://db"]}
            assert await client.call("use.nested", **nested) == [len(TEXT)] * 2
            assert await client.call("use.context", name="db") == len(TEXT)
            assert await client.call("use.blocking", name="db") == len(TEXT)
            capabilities = ["use.secret", "use.nested", "use.context", "use.blocking"]
            assert toy.audited == [("secret_read", "db", f"toy.1.{i}", name) for i, name in enumerate(capabilities, 1)], "once per task"
            assert TEXT not in repr(toy.seen), "nothing that the node was told holds it"
            assert "secret://db" in repr([body for body in toy.seen if isinstance(body, Call)]), "the reference is what travelled"

    with_toy(story)


def test_what_is_not_to_be_had_is_a_clear_refusal_and_counted(with_toy: Any) -> None:
    async def story(toy: Any) -> None:
        toy.keep("db", TEXT, "other")
        async with toy.serving(vaulted()), toy.client() as client:
            for name, says in (("db", "is not for use.context: its scope is other"), ("nothing", "no secret 'nothing'")):
                with pytest.raises(TaskFailed, match=says):
                    await client.call("use.context", name=name)
                with pytest.raises(TaskFailed, match=says.replace("use.context", "use.secret")):
                    await client.call("use.secret", password=f"secret://{name}")
            with pytest.raises(TaskFailed, match="cannot name a secret"):
                await client.call("use.context", name="../../etc/passwd")
            with pytest.raises(InvalidArgument, match="password"):
                await client.call("use.secret", password=TEXT)
            assert not toy.audited
            refusals = toy.server.statistics().refusals
            assert (refusals["secret_out_of_scope"], refusals["no_such_secret"]) == (2, 2)

    with_toy(story)


def test_who_is_no_worker_or_does_not_hold_the_task_is_told_nothing(with_toy: Any) -> None:
    async def story(toy: Any) -> None:
        toy.keep("db", TEXT)
        async with toy.serving(vaulted()) as (worker,), toy.client() as client:
            with pytest.raises(Refused) as caught:
                await client._connection.ask("secret", {"name": "db", "task": "toy.1.1", "fence": 1})
            assert caught.value.code == "secret_not_held"
            await client.call("use.secret", password="secret://db")
            for task, fence in (("toy.1.1", 1), ("toy.1.1", 2), ("", 0)):
                with pytest.raises(Refused) as caught:
                    await worker._ask("secret", {"name": "db", "task": task, "fence": fence})
                assert caught.value.code == "secret_not_held", "that task is over"
            assert toy.server.statistics().refusals["secret_not_held"] == 4 and len(toy.audited) == 1

    with_toy(story)


def test_a_text_is_taken_out_of_errors_tracebacks_and_notes(with_toy: Any) -> None:
    async def story(toy: Any) -> None:
        toy.keep("db", TEXT)
        async with toy.serving(vaulted()), toy.client() as client:
            with pytest.raises(TaskFailed, match=r"cannot log in as \[secret db\]") as caught:
                await client.call("leak.error", password="secret://db")
            assert "KeyError: '[secret db]'" in caught.value.details
            assert (await toy.until(HandlerProgress)).note == "logging in with [secret db]"
            for form in (TEXT, base64.b64encode(TEXT.encode()).decode()):
                assert form not in repr(toy.seen)

    with_toy(story)


def test_a_text_does_not_leave_as_data(with_toy: Any) -> None:
    async def story(toy: Any) -> None:
        toy.keep("db", TEXT)
        async with toy.serving(vaulted()), toy.client() as client:
            with pytest.raises(TaskFailed, match=r"the result of leak\.result holds the text of the secret 'db'"):
                await client.call("leak.result", password="secret://db")
            with pytest.raises(InvalidArgument, match="cannot travel: a Secret stays where it was resolved"):
                await client.call("leak.step", password="secret://db", how="value")
            for how in ("text", "name"):
                with pytest.raises(TaskFailed, match="what is passed to echo holds the text of the secret 'db'"):
                    await client.call("leak.step", password="secret://db", how=how)
            with pytest.raises(TaskFailed, match="a Secret stays where it was resolved"):
                await client.call("sneaky", password="secret://db")
            assert await client.call("leak.step", password="secret://db", how="reference") == len(TEXT)
            ended = [body for body in toy.seen if isinstance(body, HandlerEnded) and body.outcome == "error"]
            assert len(ended) == 5 and not any(body.error["retryable"] for body in ended)
            assert TEXT not in repr(toy.seen)

    with_toy(story)


def test_while_work_is_priced_a_secret_is_only_a_name(with_toy: Any) -> None:
    agent = vaulted()
    seen: list[Any] = []

    @agent.bid("use.secret")
    def price(password: Secret) -> Bid:
        seen.append(password)
        return Bid(cost=1.0)

    async def story(toy: Any) -> None:
        from mesh.core.inputs import Priced

        toy.keep("db", TEXT)
        async with toy.serving(agent):
            toy.price("use.secret", b'{"password":"secret://db"}')
            assert (await toy.until(Priced)).cost == 1.0
            assert seen[0].name == "db"
            with pytest.raises(UsageError, match="not resolved"):
                seen[0].reveal()

    with_toy(story)


def test_in_a_local_mesh_the_test_says_what_the_secrets_are() -> None:
    async def story() -> None:
        async with LocalMesh(agents=[vaulted()], secrets={"db": TEXT}) as local:
            assert await local.call("use.secret", password="secret://db") == len(TEXT)
            with pytest.raises(TaskFailed, match="no secret 'other'"):
                await local.call("use.context", name="other")

    asyncio.run(story())
