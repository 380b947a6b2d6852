"""Tasks in processes of their own: what works inside, how they end, and what a hostile one gets (nothing that it was not given)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mesh import Agent, File
from mesh.core.inputs import Call, HandlerEnded, HandlerItems, HandlerProgress, HandlerSaid, Step
from mesh.core.work.inputs import EffectEnd
from mesh.effects import Credit, Execute, Need
from mesh.errors import DeclarationError, MeshError, TaskCancelled, TaskFailed, TimedOut
from mesh.inspector.targets import load_agents
from mesh.origin import Origin, load, origin_of
from mesh.runtime.clock import now_ms
from mesh.worker import Worker, processes_of

HERE = Path(__file__).parent
TARGET = HERE / "isolated_agent.py"
TEXT = "c4nary-of-a-secret"
GIVEN = {"PATH", "TZ", "LANG", "HOME", "TMPDIR", "PYTHONPATH"}
"""What a task's process may find in its environment, beside LC_*."""


@pytest.fixture(scope="module")
def agent() -> Agent:
    [found] = load_agents([str(TARGET)])
    return found


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where tasks have their folders: empty again at the end."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert [path for path in folder.iterdir() if path.name.startswith("mesh-task-")] == []


@asynccontextmanager
async def serving(toy: Any, agent: Agent) -> AsyncIterator[tuple[Worker, Any]]:
    async with toy.serving(agent) as (worker,), toy.client() as client:
        yield worker, client


def is_gone(pid: int) -> bool:
    """Dead, reaped or not: an orphan's remains are its new parent's affair."""
    if sys.platform != "linux":
        return subprocess.run(["ps", "-p", str(pid)], capture_output=True, check=False).returncode != 0
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def open_files() -> set[str]:
    """What this process has open, where the system shows it."""
    shown = Path("/proc/self/fd")
    return {f"{each.name} {os.readlink(each)}" for each in shown.iterdir() if each.exists()} if shown.exists() else set()


# ---- what works


@pytest.mark.usefixtures("tasks")
def test_a_generators_items_come_one_by_one_at_their_readers_pace(with_toy: Any, agent: Agent) -> None:
    async def story(toy: Any) -> None:
        def do(effect: Any) -> None:
            toy.perform[type(effect)](effect)
            toy.workers.flush()

        async def stream(task: str, n: int) -> tuple[list[bytes], HandlerEnded]:
            """Read by somebody who takes 50 at a time."""
            do(Execute(1, task, 1, "numbers", b'{"n":%d}' % n, now_ms() + 60_000, stream=True, need=Need.FREE))
            items: list[bytes] = []
            ended: HandlerEnded | None = None
            while ended is None:
                seen = [body for body in toy.seen if isinstance(body, HandlerItems) and body.task == task]
                for body in seen:
                    if body.first == len(items) + 1:
                        items += body.items
                assert len(items) <= (len(items) // 50) * 50 + 64, "no more than the window ahead of its reader"
                do(Credit(1, task, 1, len(items) if len(items) == n else len(items) // 50 * 50, again=False))
                count = len(toy.seen)
                await toy.until(lambda body, count=count: len(toy.seen) > count)
                ended = next((body for body in toy.seen if isinstance(body, HandlerEnded) and body.task == task), None)
            return items, ended

        async with serving(toy, agent) as (_, client):
            assert await client.call("numbers", n=3) == [0, 1, 2]
            items, ended = await stream("toy.1.91", 100)
            assert items == [b"%d" % i for i in range(100)] and ended.outcome == "ok" and ended.output == b"100"
            items, ended = await stream("toy.1.92", 101)
            assert len(items) == 101 and ended.outcome == "error" and "too many" in ended.error["message"]

    with_toy(story)


@pytest.mark.usefixtures("tasks")
def test_each_task_has_a_process_of_its_own(with_toy: Any, agent: Agent) -> None:
    async def story(toy: Any) -> None:
        async with serving(toy, agent) as (worker, client):
            found = await asyncio.gather(*(client.call("where", name=name) for name in "ab"))
            assert {one["name"] for one in found} == {"a", "b"} and len({one["pid"] for one in found}) == 2
            for one in found:
                assert one["pid"] == one["group"] and one["ppid"] == os.getpid() and one["lifespan"] == f"m{one['pid']}"
                assert is_gone(one["pid"])
            assert worker._processes is not None and not worker._processes.running

    with_toy(story)


@pytest.mark.usefixtures("tasks")
def test_steps_calls_progress_and_files_work_inside(with_toy: Any, agent: Agent, tmp_path: Path) -> None:
    async def story(toy: Any) -> None:
        (tmp_path / "in.txt").write_text("given")
        async with serving(toy, agent) as (_, client):
            made = await client.call("plain", table=File.of(tmp_path / "in.txt"))
            assert made.path.read_text() == "given 42 in.txt"
            assert (await toy.until(HandlerProgress)).note == "half"
            [step] = [body for body in toy.seen if isinstance(body, Step)]
            assert (step.parent, step.fence, step.name, step.capability) == ("toy.1.1", 1, "one", "outside")
            assert [body.parent for body in toy.seen if isinstance(body, Call)] == ["", "toy.1.1"]
            [end] = [body for body in toy.seen if isinstance(body, EffectEnd)]
            assert (end.task, end.fence, end.key, list(toy.effects.values())) == ("toy.1.1", 1, "print", [end.output])

    with_toy(story)


@pytest.mark.usefixtures("tasks")
def test_secrets_come_by_pipe_and_are_taken_out_of_all_it_says(with_toy: Any, agent: Agent, capfd: pytest.CaptureFixture[str]) -> None:
    async def story(toy: Any) -> None:
        toy.keep("db", TEXT)
        async with serving(toy, agent) as (_, client):
            assert await client.call("told", password="secret://db") == 2 * len(TEXT)
            assert toy.audited == [("secret_read", "db", "toy.1.1", "told")]
            assert (await toy.until(HandlerProgress)).note == "[secret db]"
            with pytest.raises(TaskFailed, match=r"ValueError: not with \[secret db\]") as caught:
                await client.call("fails", password="secret://db")
            assert "isolated_agent.py" in caught.value.details.splitlines()[0] and "[secret db]" in caught.value.details
            with pytest.raises(TaskFailed, match="holds the text of the secret 'db'"):
                await client.call("gives_away", password="secret://db")
            assert TEXT not in repr(toy.seen)
            said = [(stream, text) for body in toy.seen if isinstance(body, HandlerSaid) for _, stream, text in body.lines]
            assert {("stdout", "printing [secret db] here"), ("stderr", "and [secret db] there"), ("log", "logged [secret db]")} <= set(
                said
            )
            assert [text for _, text in said].count("logged [secret db]") == 1

    with_toy(story)
    printed = capfd.readouterr()
    assert "printing [secret db] here" in printed.out and "and [secret db] there" in printed.err
    assert TEXT not in printed.out + printed.err


@pytest.mark.usefixtures("tasks")
def test_wrong_arguments_and_results_end_as_they_do_elsewhere(with_toy: Any, agent: Agent) -> None:
    async def story(toy: Any) -> None:
        async with serving(toy, agent) as (_, client):
            with pytest.raises(MeshError, match="no argument 'nme'; did you mean 'name'"):
                await client.call("where", nme="x")
            with pytest.raises(TaskFailed, match="use File") as caught:
                await client.call("fills", size=600_000)
            assert caught.value.kind == "too_big"

    with_toy(story)


# ---- how they end


@pytest.mark.usefixtures("tasks")
@pytest.mark.parametrize("how", ["cancel", "timeout", "worker"])
def test_what_is_stopped_is_killed_at_once_with_all_it_started(how: str, with_toy: Any, agent: Agent, tmp_path: Path) -> None:
    async def story(toy: Any) -> None:
        mark = tmp_path / "mark"
        toy.execute_timeout_ms = 3_600_000
        async with serving(toy, agent) as (worker, client):
            call = asyncio.ensure_future(client.call("spin", mark=str(mark)))
            await toy.until(HandlerProgress)
            pid, grandchild = map(int, mark.read_text().split())
            assert worker._processes is not None and list(worker._processes.running) == [pid] and not is_gone(grandchild)
            if how == "cancel":
                await client.cancel("toy.1.1")
                with pytest.raises(TaskCancelled):
                    await call
            elif how == "timeout":
                [run] = worker._processes.running.values()
                worker._runner._expire_run(run)  # as its timer would
                with pytest.raises(TimedOut, match="spin did not end within 3600 s"):
                    await call
            else:
                worker._runner.stop_all()  # what the end of a worker does
                assert (await toy.until(HandlerEnded)).outcome == "cancelled"
                call.cancel()
            assert is_gone(pid) and is_gone(grandchild), "when the end is told, nothing of it is left"

    with_toy(story)


@pytest.mark.usefixtures("tasks")
@pytest.mark.parametrize(
    ("how", "kind", "says", "retryable"),
    [
        ("exit", "worker_lost", r"\(pid \d+\) ended with exit code 3 before its handler did", True),
        ("segv", "worker_lost", r"was killed by SIGSEGV", True),
        ("kill", "worker_lost", r"was killed by SIGKILL \(out of memory, perhaps\)", True),
        ("cpu", "error", r"used up its 1 s of processor time \(limits: cpu_s\)", False),
        ("memory", "error", "MemoryError", True),
        ("disk", "error", "File too large", True),
        ("files", "error", "Too many open files", True),
        ("sysexit", "error", "SystemExit: 4", True),
    ],
)
def test_deaths_and_limits_say_what_happened(how: str, kind: str, says: str, retryable: bool, with_toy: Any, agent: Agent) -> None:
    async def story(toy: Any) -> None:
        async with serving(toy, agent) as (_, client):
            with pytest.raises(TaskFailed, match=says) as caught:
                await client.call("dies", how=how)
            ended = await toy.until(HandlerEnded)
            assert (caught.value.kind, ended.error["kind"], ended.error["retryable"]) == (kind, kind, retryable)
            assert ended.outcome == kind
            assert (await client.call("where"))["name"] == "x", "the worker goes on"

    with_toy(story)


def test_a_killed_worker_takes_its_tasks_along(with_toy: Any, agent: Agent, tasks: Path) -> None:
    async def story(toy: Any) -> None:
        code = "import asyncio; from pathlib import Path; from mesh.worker import serve; from mesh.inspector.targets import load_agents\n"
        code += f"asyncio.run(serve(load_agents([{str(TARGET)!r}]), Path({str(toy.path)!r})))"
        worker = start([sys.executable, "-c", code], {**os.environ, "TMPDIR": str(tasks)})
        try:
            async with toy.client() as client:
                await toy.until(lambda body: type(body).__name__ == "WorkerAttached")
                call = asyncio.ensure_future(client.call("waits"))
                pid = int((await toy.until(HandlerProgress)).note)
                assert not is_gone(pid)
                worker.send_signal(signal.SIGKILL)
                worker.wait()
                while not is_gone(pid):  # noqa: ASYNC110  a process that is no child of ours sends no event
                    await asyncio.sleep(0.01)
                call.cancel()
        finally:
            worker.kill()
            worker.wait()
        stray = tasks / "mesh-task-of-somebody"
        stray.mkdir()
        mine = tasks / f"mesh-task-{os.getpid()}-x"
        mine.mkdir()
        assert len(list(tasks.glob("mesh-task-*"))) == 3, "who was killed tidies nothing"
        async with serving(toy, agent):
            assert set(tasks.glob("mesh-task-*")) == {stray, mine}, "the next worker does"
        stray.rmdir(), mine.rmdir()

    with_toy(story)


def start(words: list[str], environ: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(words, env=environ)


# ---- hostile handlers


@pytest.mark.skipif(sys.platform != "linux", reason="looks through /proc")
def test_a_task_is_handed_nothing_but_its_line(
    with_toy: Any, agent: Agent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tasks: Path
) -> None:
    async def story(toy: Any) -> None:
        monkeypatch.setenv("API_KEY", TEXT)
        monkeypatch.setenv("MESH_PASSPHRASE_FILE", "/nowhere")
        key = os.open(tmp_path / "key", os.O_RDWR | os.O_CREAT)
        os.set_inheritable(key, True)
        try:
            async with serving(toy, agent) as (_, client):
                found = await client.call("looks")
        finally:
            ours = {os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if _is_open(int(name))}
            os.close(key)
        names = {name for name in found["environ"] if not name.startswith("LC_")}
        assert names <= GIVEN and TEXT not in repr(found)
        assert found["environ"]["HOME"].startswith(str(tasks)) and found["home"] == [], "no settings, no credentials"
        descriptors = set(found["descriptors"].values())
        assert str(tmp_path / "key") in ours
        assert not {each for each in descriptors if not each.startswith(("anon_inode:", "/dev/null"))} & ours
        assert not [each for each in descriptors if each.startswith("/") and each != "/dev/null"]
        assert found["limits"] == [0, 1024 * 2**20, 2**20]
        assert found["argv"][0].endswith("isolated.py") and len(found["argv"]) == 2, "nothing of the task is on the command line"
        assert found["dumpable"] == 0, "others of this user cannot read its memory"

    with_toy(story)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


@pytest.mark.usefixtures("tasks")
def test_a_flood_of_output_is_cut_and_counted(with_toy: Any, agent: Agent, capfd: pytest.CaptureFixture[str]) -> None:
    async def story(toy: Any) -> None:
        async with serving(toy, agent) as (_, client):
            assert await client.call("prints", count=20_000_000) == 20_000_000

    with_toy(story)
    printed = capfd.readouterr()
    assert printed.out.startswith("first\nsecond\nxxxx")
    assert len(printed.out) < 1_300_000 and "toy.1.1 printed 18" in printed.err and "bytes more than is passed on" in printed.err


@pytest.mark.usefixtures("tasks")
def test_what_outlives_it_does_not_hold_its_task_open(with_toy: Any, agent: Agent) -> None:
    async def story(toy: Any) -> None:
        async with serving(toy, agent) as (worker, client):
            await client.call("outside", n=2)
            before = open_files()
            left = await client.call("leaves_a_child")
            assert not is_gone(left), "it has left the process group: what this user may do, it may do"
            assert worker._processes is not None and not worker._processes.running
            await worker._processes.close()
            await asyncio.sleep(0)
            assert open_files() == before, "nor its pipes"
            os.kill(left, signal.SIGKILL)

    with_toy(story)


FORGERIES: list[tuple[Any, str]] = [
    ([{"raw": "00000005ffffffffff"}], "makes no sense (not_msgpack)"),
    ([{"raw": "7fffffff"}], "makes no sense (frame_too_big)"),
    ([[0, "ended", {"outcome": "worker_lost", "output": {"hex": ""}, "files": [], "error": {}}]], "makes no sense (bad_ended)"),
    ([[1, "step", {"capability": "outside", "input": "x", "files": [], "name": "s"}]], "makes no sense (bad_work)"),
    ([[1, "attach", {}]], "makes no sense (unknown_verb)"),
]


@pytest.mark.usefixtures("tasks")
def test_whatever_it_says_on_its_line_harms_only_itself(with_toy: Any, agent: Agent) -> None:
    async def story(toy: Any) -> None:
        async with serving(toy, agent) as (worker, client):
            for frames, says in FORGERIES:
                with pytest.raises(TaskFailed) as caught:
                    await client.call("forges", frames=frames)
                assert says in caught.value.message
            assert worker.statistics().attachments == 1, "the node saw nothing wrong with its worker"
            assert not [reason for reason in toy.server.statistics().refusals if reason.startswith("bad")]
            assert await client.call("outside", n=2) == 4

    with_toy(story)


@pytest.mark.usefixtures("tasks")
def test_it_speaks_for_its_own_task_only(with_toy: Any, agent: Agent) -> None:
    """Parents, fences and tasks that it claims are not even read; secrets of others, and kinds of failure that move work, are refused."""

    async def story(toy: Any) -> None:
        toy.keep("db", TEXT)
        toy.keep("theirs", "text of others", "mail.*")
        data = {"hex": b'{"n":1}'.hex()}
        claims = {"parent": "toy.1.99", "fence": 7, "task": "toy.1.99"}
        async with serving(toy, agent) as (_, client):
            waiting = asyncio.ensure_future(client.call("waits"))
            await toy.until(HandlerProgress)
            ended = [
                0,
                "ended",
                {"outcome": "error", "output": {"hex": ""}, "files": [], "error": {"kind": "worker_lost", "message": "m" * 9999}},
            ]
            frames = [
                [1, "secret", {"name": "theirs"} | claims],
                [2, "secret", {"name": "../../mesh/root.key"} | claims],
                [3, "step", {"capability": "outside", "input": data, "files": [], "name": "s"} | claims],
                [4, "call", {"capability": "outside", "input": data, "files": []} | claims],
            ]
            forging = asyncio.ensure_future(client.call("forges", frames=frames))
            step = await toy.until(Step)
            call = await toy.until(lambda body: isinstance(body, Call) and body.capability == "outside")
            assert (step.parent, step.fence, call.parent) == ("toy.1.2", 1, "toy.1.2")
            refusals = toy.server.statistics().refusals
            assert (refusals["secret_out_of_scope"], refusals["no_such_secret"], toy.audited) == (1, 1, [])
            await client.cancel("toy.1.2")
            with pytest.raises(TaskCancelled):
                await forging
            with pytest.raises(TaskFailed) as caught:
                await client.call("forges", frames=[ended])
            assert caught.value.kind == "error" and len(caught.value.message) == 2000
            with pytest.raises(TaskFailed, match="is not for reaches"):
                await client.call("reaches", name="theirs")
            assert await client.call("reaches", name="db") == len(TEXT)
            waiting.cancel()

    with_toy(story)


@pytest.mark.usefixtures("tasks")
def test_requests_that_wait_are_bounded(with_toy: Any, agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.isolation.ASKS_MAX", 2)

    async def story(toy: Any) -> None:
        work = {"capability": "waits", "input": {"hex": b"{}".hex()}, "files": []}
        async with serving(toy, agent) as (worker, client):
            call = asyncio.ensure_future(client.call("forges", frames=[[number, "call", work] for number in range(1, 10)]))
            await toy.until(lambda _: sum(isinstance(body, Call) and body.capability == "waits" for body in toy.seen) == 2)
            assert await client.call("outside", n=1) == 2, "whatever it said before has been heard by now"
            assert [body.capability for body in toy.seen if isinstance(body, Call)] == ["forges", "waits", "waits", "outside"]
            call.cancel()
            worker._runner.stop_all()

    with_toy(story)


# ---- declarations, and where an agent comes from


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"isolation": "thread"}, "isolation='process'"),
        ({"limits": {"memory_mib": 1}}, "has limits, but no process"),
        ({"isolation": "process", "limits": {"memory_mb": 1}}, "of memory_mib, cpu_s"),
        ({"isolation": "process", "limits": {"cpu_s": 0}}, "whole numbers above 0"),
        ({"isolation": "process", "limits": {"cpu_s": 1.5}}, "whole numbers above 0"),
        ({"isolation": "process", "limits": {"cpu_s": True}}, "whole numbers above 0"),
    ],
)
def test_bad_declarations(options: dict[str, Any], says: str) -> None:
    async def work() -> None: ...

    with pytest.raises(DeclarationError, match=says):
        Agent("a").capability(**options)(work)


def test_an_agent_that_nobody_else_can_load_is_refused_before_it_attaches() -> None:
    local = Agent("local")

    @local.capability(isolation="process")
    async def work() -> None: ...

    with pytest.raises(DeclarationError, match="is no global of any module") as caught:
        Worker(local, lambda: Path("nowhere"))
    assert "top level of a .py file" in caught.value.fix
    plain = Agent("plain")
    plain.capability(work)
    assert processes_of(plain) is None


CODE = """
from mesh import Agent
from mesh.errors import DeclarationError
from mesh.runtime.clock import now_ms
from mesh.origin import origin_of
agent = Agent("a")
@agent.capability(isolation="process")
async def work() -> None: ...
try:
    print(origin_of(agent))
except DeclarationError as error:
    print(error)
"""


READY = "from mesh.inspector.targets import load_agents; from mesh.origin import origin_of; "


def run(words: list[str], folder: Path, code: str = "") -> str:
    done = subprocess.run([sys.executable, *words], cwd=folder, input=code, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def test_origins_of_scripts_modules_and_sessions(tmp_path: Path, agent: Agent) -> None:
    (tmp_path / "script.py").write_text(CODE)
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text("")
    (tmp_path / "pkg" / "mod.py").write_text(CODE)
    assert run(["script.py"], tmp_path) == repr(Origin("", str(tmp_path / "script.py"), "agent"))
    assert run(["-m", "pkg.mod"], tmp_path) == repr(Origin("pkg.mod", "", "agent"))
    assert run(["-c", "import pkg.mod"], tmp_path) == repr(Origin("pkg.mod", "", "agent"))
    assert run(["-c", "import script"], tmp_path) == repr(Origin("script", "", "agent"))
    for words, code in ((["-c", CODE], ""), (["-"], CODE)):
        assert "interactive session or notebook" in run(words, tmp_path, code)
    assert origin_of(agent) == Origin("isolated_agent", "", "agent")
    assert load(Origin("", str(TARGET), "agent")).name == "isolated"
    with pytest.raises(DeclarationError, match="is not in"):
        load(Origin("json", "", "agent"))
    ready = run(["-c", f"{READY}print(origin_of(load_agents(['collector'])[0]))"], tmp_path / "pkg")
    assert ready == repr(Origin("mesh_agents.collector", "", "agent"))


BROKEN: list[tuple[str, str]] = [
    ("import os\nif os.environ.get('API_KEY') is None: raise KeyError('API_KEY')\n", "KeyError: 'API_KEY'"),
    ("import sys\nif sys.argv[0].endswith('isolated.py'): sys.exit(3)\n", "SystemExit: 3"),
    ("import sys\nif sys.argv[0].endswith('isolated.py'): agent = None\n", "is not in"),
]


@pytest.mark.usefixtures("tasks")
@pytest.mark.parametrize(("line", "says"), BROKEN)
def test_a_module_that_cannot_be_loaded_again_is_the_tasks_failure(
    line: str, says: str, with_toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY", "only here")
    path = tmp_path / f"broken_{abs(hash(line))}.py"
    first, rest = ("", line) if "agent = None" in line else (line, "")
    path.write_text(
        f"{first}from mesh import Agent\nagent = Agent('b')\n@agent.capability(isolation='process')\nasync def work() -> None: ...\n{rest}"
    )
    [agent] = load_agents([str(path)])

    async def story(toy: Any) -> None:
        async with serving(toy, agent) as (_, client):
            with pytest.raises(TaskFailed, match="could not be loaded in a process of its own") as caught:
                await client.call("work")
            assert says in caught.value.message
            assert not (await toy.until(HandlerEnded)).error["retryable"]

    with_toy(story)


def test_the_schema_is_that_of_any_other_capability(agent: Agent) -> None:
    offer = next(each for each in agent.offers() if each.capability == "where")
    assert json.loads(offer.input_schema)["properties"]["name"]["type"] == "string"
    assert agent.capabilities["dies"].limits is not None and agent.capabilities["dies"].limits.memory_mib == 1024
    assert agent.capabilities["outside"].limits is None
