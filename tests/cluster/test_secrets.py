"""What real processes leave behind: of 200 canaries not one is found on disk or in a log, in any of five encodings."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from mesh.errors import MeshError
from mesh.runtime.disk.secrets import Secrets
from mesh.runtime.disk.vault import open_vault
from mesh.runtime.home import Home

HERE = Path(__file__).parent
CANARIES = 200


def encodings(text: str) -> list[bytes]:
    data = text.encode()
    return [data, data.hex().encode(), base64.b64encode(data)[:-4], base64.b85encode(data)[:-5], base64.b32encode(data)[:-8]]


def test_no_canary_is_found_anywhere(cluster: Any) -> None:
    texts = [f"canary-{os.urandom(8).hex()}-{number}" for number in range(CANARIES)]
    home = Home(cluster.home)
    cluster.node("otter", "heron")
    cluster.worker("heron", agent=HERE / "vaulted_agent.py")
    cluster.gather()
    client = cluster.client("otter")
    secrets = Secrets(home, lambda: open_vault(home))
    answers: list[str] = []
    for number, text in enumerate(texts):
        secrets.set("db", text, ("report.*",))
        secrets.set(f"db-{number}", text)
        if number % 4 == 0:
            task = client.submit("report.login", password="secret://db")
            answers += [repr(task.result(60)), repr(task.why()), repr(client.story(task.id))]
            assert answers[-3] == str(len(text))
        elif number % 4 == 1:
            answers.append(failure(client.submit("report.crash"), "[secret db]"))
        elif number % 4 == 2:
            answers.append(failure(client.submit("mail.send"), "is not for mail.send: its scope is report.*"))
        else:
            assert client.call("report.login", password=f"secret://db-{number}") == len(text)
    status = client.status()
    assert cluster.client("heron").status()["refusals"]["secret_out_of_scope"] == CANARIES // 4
    listed = cluster.run("secret", "list", "--home", str(cluster.home), "--json")
    answers += [repr(status), repr(listed.stdout), repr(client.tasks())]

    reads = json.loads(cluster.run("audit", "--home", str(cluster.home), "--node", "heron", "--json").stdout)["entries"]
    reads = [entry for entry in reads if entry["what"] == "secret_read"]
    assert sum(entry["about"] == "db" for entry in reads) == CANARIES // 2 and any("report.login" in entry["note"] for entry in reads)
    places = {str(path): path.read_bytes() for path in cluster.folder.rglob("*") if path.is_file()}
    assert any(path.endswith("journal.sqlite-wal") for path in places) and any(path.endswith("worker.log") for path in places)
    places["answers"] = "\n".join(answers).encode()
    places["processes"] = subprocess.run(["ps", "axeww"], capture_output=True, check=True).stdout
    for text in texts:
        for form in encodings(text):
            for place, data in places.items():
                assert form not in data, f"{form!r} is in {place}"


def test_what_work_was_about_is_nowhere_on_disk_in_clear(cluster: Any) -> None:
    """Arguments, results and errors of durable work, in the journals and logs of both nodes. Files are not sealed."""
    cluster.node("otter", "heron")
    cluster.worker("heron", agent=HERE / "vaulted_agent.py")
    cluster.gather()
    client = cluster.client("otter")
    texts = [f"canary-{os.urandom(8).hex()}-{number}" for number in range(CANARIES)]
    for number, text in enumerate(texts):
        task = client.submit("report.echo", text=text, fails=number % 2 == 1)
        if number % 2:
            assert text in failure(task, f"cannot echo {text}"), "the caller is told"
        else:
            assert task.result(60) == text[::-1]
    cluster.kill(*cluster.nodes.values())
    kept = [path for path in cluster.folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in kept if path.name.startswith("journal.sqlite")) > 100_000
    data = {path: path.read_bytes() for path in kept}
    for text in texts:
        for form in [*encodings(text), *encodings(text[::-1])]:
            for path, found in data.items():
                assert form not in found, f"{form!r} is in {path}"


def failure(task: Any, says: str) -> str:
    try:
        task.result(60)
    except MeshError as error:
        assert says in error.message, error.message
        return repr(error.body())
    raise AssertionError("it must fail")
