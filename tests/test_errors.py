"""The tree of errors and its one JSON form."""

from __future__ import annotations

import pytest

from mesh import errors
from mesh.errors import MeshError, error_document, from_body, task_error

CLASSES = [
    each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, MeshError) and each is not errors.DeclarationError
]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_has_a_code_a_fix_an_exit_code_and_comes_back_the_same(kind: type[MeshError]) -> None:
    error = kind("what happened", fix="do this")
    document = error_document(error)
    assert document["schema"] == "mesh.error/1" and document["message"] == "what happened" and document["fix"] == "do this"
    assert document["code"].replace("_", "").isalpha() and document["code"].islower()
    assert error.exit_code in range(1, 7) and kind.fix
    if kind is not MeshError:
        again = from_body(document)
        assert type(again) is kind and (again.message, again.fix, again.code) == (error.message, "do this", error.code)


def test_exit_codes_are_the_documented_ones() -> None:
    found = {each.__name__: each.exit_code for each in CLASSES}
    assert {name: found[name] for name in ("TaskFailed", "UsageError", "NoNode", "TimedOut", "Refused", "Degraded")} == {
        "TaskFailed": 1,
        "UsageError": 2,
        "NoNode": 3,
        "TimedOut": 4,
        "Refused": 5,
        "Degraded": 6,
    }


def test_an_unknown_code_is_a_refusal_that_keeps_its_code() -> None:
    error = from_body({"code": "from_the_future", "message": "no"})
    assert type(error) is errors.Refused and error.code == "from_the_future" and error.fix == "mesh status"


def test_failed_tasks_keep_the_classes_a_caller_tells_apart() -> None:
    assert type(task_error({"kind": "invalid_argument", "message": "m", "argument": "n"}, "t", "failed")) is errors.InvalidArgument
    assert type(task_error({"code": "timeout", "message": "m"}, "t", "failed")) is errors.TimedOut
    assert type(task_error({"code": "no_such_capability", "message": "m"}, "", "failed")) is errors.NoSuchCapability
    assert type(task_error({}, "t", "cancelled")) is errors.TaskCancelled
    failed = task_error({"kind": "worker_lost", "message": "m", "details": "d"}, "a.1.2", "failed")
    assert isinstance(failed, errors.TaskFailed) and (failed.kind, failed.details, failed.fix) == ("worker_lost", "d", "mesh why a.1.2")
