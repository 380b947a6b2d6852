"""Flow files that cannot be run: each is refused before anything is, with its line, the reason and what to write."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from mesh.errors import InvalidArgument
from mesh.flows.checks import check, checked
from mesh.flows.inputs import input_of
from mesh.flows.problems import FlowError
from mesh.flows.reading import flow_from, read_bytes, read_file, read_text
from mesh.flows.spec import document

HEAD = 'flow = "f"\ninput = { n = "integer", who = { default = "all", enum = ["all", "me"] } }\n'
A = '[[step]]\nid = "a"\nuses = "x.y"\n'
B = '[[step]]\nid = "b"\nuses = "x.y"\nneeds = ["a"]\n'


def refusal(text: str | bytes) -> FlowError:
    with pytest.raises(FlowError) as refused:
        flow, source = read_bytes(text) if isinstance(text, bytes) else read_text(text)
        checked(flow, source)
    assert refused.value.exit_code == 2 and refused.value.fix
    return refused.value


WRONG = {
    # ---- the file
    "empty": (b"", 0, "it is empty", "begin with flow"),
    "blank": (b" \n\r\n", 0, "it is empty", "begin with flow"),
    "binary": (b"\x00\x01\x02", 0, "it is binary", "name a TOML file"),
    "no UTF-8": (b'flow = "f"\n# \xff\xfa', 2, "no UTF-8", "save it as UTF-8"),
    "UTF-16": ('flow = "f"'.encode("utf-16"), 0, "UTF-16", "save it as UTF-8"),
    "too large": (b"#" * (4 * 1024 * 1024 + 1), 0, "a flow at most", "name a TOML file"),
    "no TOML": ('flow = "f"\n[[step]]\nid = a\n', 3, "it is no TOML", "correct that line"),
    "no closing quote": ('flow = "f\n', 1, "it is no TOML", "correct that line"),
    "YAML": ("flow: f\nsteps:\n  - id: no\n", 1, "it is no TOML", "flows are TOML, not YAML"),
    "YAML bomb": ("a: &a [x, x]\nb: &b [*a, *a]\nc: !!python/object/apply:os.system [id]\n", 1, "no TOML", "not YAML"),
    "no JSON": ('{"flow": "f",\n', 2, "it is no JSON", "write TOML"),
    "a key twice in JSON": ('{"flow": "f", "flow": "g"}', 0, "'flow' is there twice", "once"),
    "a key twice": ('flow = "f"\nflow = "g"\n', 2, "it is no TOML: Cannot overwrite a value", "correct"),
    "nested too deep": (HEAD + A + "with = { a = " + "[" * 40 + "]" * 40 + " }\n", 6, "nested more than 32 deep", "as input"),
    "nested beyond all": (HEAD + A + "with = { a = " + "[" * 5000 + "]" * 5000 + " }\n", 1, "nested too deep", "as input"),
    # ---- the whole
    "too much to put on record": (
        'flow = "f"\n' + "".join(f'[[step]]\nid = "s{i}"\nuses = "x"\ncompensate = "y"\n' for i in range(801)),
        2, "801 steps have", "at most 800"),
    "no name": (A, 1, "it has no name", 'begin with flow = "name"'),
    "a name with a path": ('flow = "../x"\n' + A, 1, "'../x' cannot be a name", "letters"),
    "no steps": ('flow = "f"\n', 1, "it has no steps", r"add \[\[step\]\]"),
    "steps that are none": ('flow = "f"\nstep = [1, 2]\n', 2, "not a list of tables", "double brackets"),
    "one bracket": ('flow = "f"\n[step]\nid = "a"\n', 2, "not a list of tables", "double brackets"),
    "an unknown key": ('flow = "f"\nsteps = 1\n' + A, 2, "no key 'steps'", "did you mean 'step'"),
    "100,000 steps": ('flow = "f"\n' + "[[step]]\n" * 100_000, 2, "there are 100000 steps", "use at most 10000"),
    "a huge payload": (HEAD + A + f'with = {{ a = "{"x" * 400_000}" }}\n', 1, "has 400", "as input or as a file"),
    # ---- ids and names
    "no id": ('flow = "f"\n[[step]]\nuses = "x"\n', 2, "it has no id", "add id"),
    "a path as id": (HEAD + A.replace('"a"', '"../../etc/passwd"'), 4, "cannot be an id", "ASCII letters"),
    "shell text as id": (HEAD + A.replace('"a"', '"a; rm -rf /"'), 4, "cannot be an id", "ASCII letters"),
    "a look-alike id": (HEAD + A.replace('"a"', '"\u0430"'), 4, "cannot be an id", "ASCII letters"),
    "a dashed id": (HEAD + A.replace('"a"', '"a-b"'), 4, "cannot be an id", "ASCII letters"),
    "a word of the language": (HEAD + A.replace('"a"', '"in"'), 4, "cannot be an id", "ASCII letters"),
    "a long id": (HEAD + A.replace('"a"', f'"{"a" * 65}"'), 4, "cannot be an id", "at most 64"),
    "a flow in a flow that is none": (
        HEAD + A.replace("x.y", "mesh.flow") + 'with.spec = { flow = "g", step = [{ id = "z", uses = "x", needs = ["y"] }] }\n',
        6, "there is no step 'y'", "add it"),
    "an id twice": (HEAD + A + A, 7, "'a' is the id of step 1 as well", "another id"),
    "a number as id": (HEAD + A.replace('"a"', "5"), 4, "5 is no text", 'write id = "..."'),
    "a capability of 1 MB": (HEAD + A.replace("x.y", "x" * 1_000_000), 5, "1000000 characters", "at most"),
    "a bad range of versions": (HEAD + A.replace("x.y", "x.y@^two"), 5, "is no range of versions", 'uses = "x.y@\\^2"'),
    "one of the mesh's own": (HEAD + A.replace("x.y", "mesh.wait"), 5, "the mesh's own", "use gate"),
    "a control character": (HEAD + A.replace("x.y", "x\\u001b[2J"), 5, "control character", "plain text"),
    # ---- the graph
    "a self edge": (HEAD + A + 'needs = ["a"]\n', 6, "it needs itself", "a loop"),
    "a cycle": (HEAD + A + 'needs = ["b"]\n' + B, 6, "wait for one another: .* -> .* -> ", "take '.' out of the needs"),
    "an unknown step": (HEAD + A + B.replace('["a"]', '["aa"]'), 9, "there is no step 'aa'", "did you mean 'a'"),
    "a need twice": (HEAD + A + B.replace('["a"]', '["a", "a"]'), 9, "'a' is there twice", "once"),
    "a need of 1 MB": (HEAD + A + f'needs = ["{"x" * 1_000_000}"]\n', 6, "has 1000000 characters", "at most 200"),
    "a key of 1 MB": (HEAD + A + f'{"k" * 1_000_000} = 1\n', 6, "no key 'kkk", "the keys are"),
    "a key that rings": (HEAD + A + '"a\\u001b[2Jb" = 1\n', 3, r"no key 'a\\x1b\[2Jb' here", "the keys are"),
    "needs of numbers": (HEAD + A + "needs = [1]\n", 6, "no list of texts", "write needs"),
    "a wide fan-out": (HEAD + A + f"map = [{'1,' * 10_001}]\nmax_parallel = 5\n", 6, "10001 items", "at most 10000"),
    # ---- fields
    "nothing to do": ('flow = "f"\n[[step]]\nid = "a"\n', 2, "it does nothing", "add uses"),
    "an unknown field": (HEAD + A + "retrys = 3\n", 6, "no key 'retrys'", "did you mean 'retry'"),
    "text for a number": (HEAD + A + 'retry = "5"\n', 6, "'5' is no whole number", "write retry"),
    "true for a number": (HEAD + A + "retry = true\n", 6, "True is no whole number", "write retry"),
    "a huge number": (HEAD + A + "retry = 10000000000\n", 6, "no whole number from 0 to 1000", "write retry"),
    "text for a truth": (HEAD + A + 'cache = "no"\n', 6, "neither true nor false", "write cache = true"),
    "a time without unit": (HEAD + A + "timeouts = { run = 5 }\n", 6, "5 is no time", '"30s"'),
    "no time at all": (HEAD + A + 'timeouts = { run = "0s" }\n', 6, "'0s' is no time", '"30s"'),
    "a deadline in the past": (HEAD + A + 'timeouts = { total = "-5s" }\n', 6, "'-5s' is no time", '"30s"'),
    "a date as deadline": (HEAD + A + "timeouts = { total = 1999-01-01T00:00:00Z }\n", 6, "is no time", '"30s"'),
    "a time beyond all": (HEAD + A + 'timeouts = { run = "999999999d" }\n', 6, "is no time", "365d"),
    "times that contradict": (HEAD + A + 'timeouts = { run = "9s", total = "5s" }\n', 6, "longer than the whole", "longest"),
    "more silence than time": (HEAD + A + 'timeouts = { run = "5s", heartbeat = "9s" }\n', 6, "longer than run", "shorter"),
    "a join of another kind": (HEAD + A + B + 'join = "most"\n', 10, "'most' is no join", "quorum"),
    "a quorum of none": (HEAD + A + B + 'join = "quorum(0)"\n', 10, "is no join", "quorum"),
    "a quorum beyond all": (HEAD + A + B + 'join = "quorum(2)"\n', 10, "it waits for 2 of 1", r"write quorum\(1\)"),
    "a join of nothing": (HEAD + A + 'join = "any"\n', 6, "no needs to join", "add needs"),
    "a loop without bound": (HEAD + A + 'loop = { until = "$item" }\n', 6, "an end and a bound", "max = 10"),
    "a loop for ever": (HEAD + A + 'loop = { until = "$item", max = 1001 }\n', 6, "no whole number", "max"),
    "a loop and a map": (HEAD + A + 'map = [1]\nloop = { until = "$item == 1", max = 2 }\n', 7, "it has a map as well", "mesh.flow"),
    "a bound of no map": (HEAD + A + "max_parallel = 3\n", 6, "no map", "add map"),
    "a gate that asks nothing": (HEAD + '[[step]]\nid = "a"\ngate = { quorum = 2 }\n', 5, "it asks nothing", "question"),
    "a gate that asks nothing, in short": (HEAD + '[[step]]\nid = "a"\ngate = ""\n', 5, "it asks nothing", "question"),
    "a gate for nobody": (
        HEAD + '[[step]]\nid = "a"\ngate = { question = "ok?", quorum = 3, approvers = ["ann", "bob"] }\n', 5, "quorum=3", "from 1 to 2"),
    "a gate that escalates to nobody": (
        HEAD + '[[step]]\nid = "a"\ngate = { question = "ok?", on_expire = "escalate" }\n', 5, "escalates from approvers", "escalate_to"),
    "a gate that is undone": (HEAD + '[[step]]\nid = "a"\ngate = "ok?"\ncompensate = "x.z"\n', 6, "uses nothing", "take compensate out"),
    "a gate that is retried": (HEAD + '[[step]]\nid = "a"\ngate = "ok?"\nretry = 3\n', 6, "uses nothing", "take retry out"),
    "a value that undoes": (HEAD + A + "compensate = { value = 1 }\n", 6, "a value undoes nothing", "compensate ="),
    "a fallback to nothing": (HEAD + A + "fallback = {}\n", 6, "what is done instead", "fallback ="),
    "a label that is none": (HEAD + A + 'labels = { "a b" = 1 }\n', 6, "is no label", "name=value"),
    "a priority beyond all": (HEAD + A + "priority = 10\n", 6, "no whole number from 1 to 9", "priority"),
    "a budget of less than nothing": (HEAD + A + "budget = { usd = -1 }\n", 6, "usd is -1", "a number from"),
    "a budget of words": (HEAD + A + 'budget = { usd = "5" }\n', 6, "usd is '5'", "a number from"),
    "a budget that is no number": (HEAD + A + "budget = { usd = nan }\n", 6, "no number that JSON has", "finite"),
    "a budget of parts of calls": (HEAD + A + "budget = { calls = 0.5 }\n", 6, "0.5 calls", "whole number"),
    "a budget of nothing": (HEAD + A + "budget = {}\n", 6, "no table of amounts", "budget ="),
    "a flow's budget that is none": (HEAD + "budget = 5\n" + A, 3, "5 is no table of amounts", "budget ="),
    "a budget of a gate": (HEAD + '[[step]]\nid = "a"\ngate = "ok?"\nbudget = { usd = 1 }\n', 6, "uses nothing", "take budget out"),
    "a date as argument": (HEAD + A + "with = { day = 2026-01-01 }\n", 6, "no value that travels", "as text"),
    "a number that JSON has not": (HEAD + A + "with = { x = nan }\n", 6, "no number that JSON has", "finite"),
    "arguments that are none": (HEAD + A + "with = 5\n", 6, "5 is no table", "with = {"),
    # ---- inputs
    "an input of no type": ('flow = "f"\ninput = { n = "text" }\n' + A, 2, "'text' is no type", "string"),
    "an input of no name": ('flow = "f"\n[input]\n"a b" = "string"\n' + A, 3, "name of an input", "ASCII"),
    "a default of another type": ('flow = "f"\n[input.n]\ntype = "integer"\ndefault = "x"\n' + A, 4, "none of what it may be", "integer"),
    "a choice of another type": ('flow = "f"\n[input.n]\ntype = "integer"\nenum = ["x"]\n' + A, 4, "'x' is no integer", "its type"),
    # ---- expressions
    "no expression": (HEAD + A + 'when = "input.n > 1"\n', 6, "is no expression", r"begin it with \$"),
    "an empty one": (HEAD + A + 'when = "$"\n', 6, "the expression is empty", "input.name"),
    "one that cannot be read": (HEAD + A + 'when = "$ 1 +"\n', 6, "cannot be read, at 1:4", "as in CEL"),
    "code": (HEAD + A + "when = \"$__import__('os').system('id')\"\n", 6, "no '__import__'|no function '__import__'|'system'", "there are"),
    "a template": (HEAD + A + 'when = "${{ secrets.TOKEN }}"\n', 6, "cannot be read|knows no 'secrets'", "."),
    "an unknown variable": (HEAD + A + 'when = "$inptu.n > 1"\n', 6, "knows no 'inptu'", "did you mean 'input'"),
    "an unknown function": (HEAD + A + 'when = "$siez(input.who) > 1"\n', 6, "no function 'siez'", "did you mean 'size'"),
    "an unknown input": (HEAD + A + 'with = { a = "$input.m" }\n', 6, "there is no input 'm'", "did you mean|declare it"),
    "an unknown result": (HEAD + A + B + 'with = { a = "$steps.aa" }\n', 10, "there is no step 'aa'", "did you mean 'a'"),
    "a result that is not needed": (
        HEAD + A + '[[step]]\nid = "b"\nuses = "x.y"\nwith = { z = ["$steps.a.x"] }\n', 9, "does not need 'a'", r'needs = \["a"\]'),
    "its own result": (HEAD + A + 'with = { a = "$steps.a" }\n', 6, "its own result", "compensate"),
    "all results": (HEAD + A + B + 'with = { a = "$size(steps)" }\n', 10, "steps stands alone", "steps.a"),
    "an item of no map": (HEAD + A + 'with = { a = "$item" }\n', 6, "item is nothing here", "map or loop"),
    "an unknown step in the output": (HEAD + 'output = "$steps.z"\n' + A, 3, "there is no step 'z'", "."),
    "one too long": (HEAD + A + f'when = "${"1+" * 500}1 > 0"\n', 6, "10.. characters", "at most"),
    "macros in one another": (
        HEAD + A + 'when = "$[1].map(x, [2].map(y, x)).size() > 0"\n', 6, "'map' stands inside another", "inner one"),
    "a variable that hides another": (HEAD + A + 'when = "$[1].all(input, input > 0)"\n', 6, "name of something else", "write all"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_run_is_refused_with_line_reason_and_fix(name: str) -> None:
    text, line, reason, fix = WRONG[name]
    error = refusal(text)
    first = error.problems[0]
    assert re.search(reason, first.reason), first
    assert re.search(fix, first.fix), first
    assert error.lines[0] == line, (error.lines, error.message[:200])
    assert error.message.startswith(f"flow:{line}: " if line else "flow: ") and len(error.message) < 8000
    assert all(char.isprintable() or char == "\n" for char in error.message), "a terminal sees no control characters"


def test_all_that_is_wrong_with_the_parts_is_told_at_once() -> None:
    error = refusal(HEAD + A + 'with = { a = "$input.x", b = "$steps.q" }\nmax_parallel = 2\n' + B + 'when = "$nothing"\n')
    assert error.lines == (7, 6, 6, 12)
    assert error.message.count("\n") == 3 and "step 'b', when" in error.message


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_lines_are_found_past_comments_texts_and_tables(newline: str) -> None:
    text = (
        '# [[step]]\nflow = "f"\ndoc = """\n[[step]]\nid = "no"\n"""\n' + A + "[step.with]\nx = 1\n" + B + '[step.with]\nq = "$steps.z"\n'
    )
    error = refusal(("\ufeff" + text.replace("\n", newline)).encode())
    assert error.lines == (17,) and "step 'b', with.q" in error.message


def test_what_is_no_readable_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, reason in (("none.toml", "No such file"), ("pipe", "not a regular file"), (".", "not a regular file"), ("loop", "symbolic")):
        with pytest.raises(FlowError, match=reason) as refused:
            read_file(tmp_path / name)
        assert str(tmp_path / name) in refused.value.message
    (tmp_path / "a b\nc.toml").write_text(HEAD + A)
    assert read_file(tmp_path / "a b\nc.toml")[0].name == "f"
    with pytest.raises(FlowError):
        read_file("a\0b")


@pytest.mark.parametrize("document_", [None, 5, [], "flow", {"flow": 5}, {"flow": "f", "step": {}}, {"flow": "f", "step": [[]]}])
def test_a_document_that_is_no_flow_is_refused(document_: object) -> None:
    with pytest.raises(FlowError):
        flow_from(document_)


@pytest.mark.parametrize(
    ("given", "argument"),
    [({}, "n"), ({"n": "x"}, "n"), ({"n": 1.5}, "n"), ({"n": True}, "n"), ({"n": 1, "m": 2}, "m"), ({"n": 1, "who": "you"}, "who")],
)
def test_an_input_that_does_not_fit_is_refused_by_name(given: dict[str, object], argument: str) -> None:
    flow, _ = read_text(HEAD + A)
    with pytest.raises(InvalidArgument) as refused:
        input_of(flow, given)
    assert refused.value.argument == argument and "n: integer" in refused.value.fix


def test_text_stands_for_numbers_and_truths_where_they_are_asked_for() -> None:
    flow, _ = read_text('flow = "f"\ninput = { n = "integer", x = "number", b = "boolean", s = "string" }\n' + A)
    assert input_of(flow, {"n": "3", "x": "1.5", "b": "yes", "s": "3"}) == {"n": 3, "x": 1.5, "b": True, "s": "3"}


def test_ten_thousand_steps_are_checked_in_time() -> None:
    steps = [{"id": f"s{i}", "uses": "x", "needs": [f"s{i - 1}"] if i else []} for i in range(5000)]
    flow = flow_from({"flow": "f", "step": steps})
    assert check(flow) == [] and len(document(flow)["step"]) == 5000
