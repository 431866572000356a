import os
import subprocess
import sys
import time

import pytest

from components.core.job.failures import read_failures
from components.core.stores.open import open_store

HEAD = "from components.core.steps import step\nfrom components.core.errors import InputError\nimport logging, time\n"


def run(body: str) -> subprocess.CompletedProcess:
    code = HEAD + body
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def test_a_users_mistake_ends_in_one_line():
    done = run("with step('ingest'):\n    raise InputError('data_url=x:\\n no such file')")
    assert done.returncode == 1
    assert done.stdout == "ingest error: data_url=x: no such file\n"
    assert done.stderr == ""


def test_a_fault_of_ours_keeps_its_traceback():
    done = run("with step('ingest'):\n    {}['gone']")
    assert done.returncode == 1
    assert "ingest error: KeyError: 'gone'" in done.stdout
    assert "Traceback" in done.stderr


def test_a_full_disk_is_the_users_to_empty():
    done = run("with step('train'):\n    raise OSError(28, 'No space left on device', '/data/best.pt')")
    assert done.returncode == 1
    assert done.stdout == (
        "train error: /data/best.pt: no space left (No space left on device): free some space, or use another disk\n"
    )
    assert done.stderr == ""


def test_what_a_step_logs_bears_its_name():
    done = run("with step('train'):\n    logging.info('epoch %d', 3)")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "train | epoch 3"
    assert lines[1].startswith("train | done in ")


@pytest.mark.parametrize(
    ("raised", "noted"),
    [
        ("InputError('no such\\nclass')", "no such class"),
        ("MemoryError", "out of memory: give the step more memory, or a smaller batch or image_size"),
        ("OSError(5, 'Input/output error', '/data')", "Input/output error: /data"),
        ("KeyError('gone')", "KeyError: 'gone'"),
        ("ConflictError('another run was first')", None),
        ("LostRaceError('another run is training the same model')", None),
        ("KeyboardInterrupt", None),
    ],
)
def test_what_fails_in_a_round_is_put_on_record(tmp_path, raised, noted):
    imported = "from components.core.errors import ConflictError, LostRaceError\n"
    done = run(f"{imported}with step('train', {str(tmp_path)!r}, 4.0):\n    raise {raised}")
    assert done.returncode
    found = read_failures(open_store(str(tmp_path)))
    assert (found and (found.round, found.step, found.error)) == (noted and (4, "train", noted))


def test_outside_of_a_round_nothing_is_put_on_record(tmp_path):
    assert run(f"with step('train', {str(tmp_path)!r}, None):\n    raise InputError('no')").returncode
    assert not list(tmp_path.iterdir())


def tried(monkeypatch, number):
    """Be the given try of a step on a cluster, from 0 on."""
    monkeypatch.setenv("EDGE_RUN", "7d1e")
    monkeypatch.setenv("EDGE_POD", f"helmet-x7k2p.root.ingest.executor({number})")


def test_a_sure_failure_ends_the_next_tries_at_once(tmp_path, monkeypatch):
    body = f"with step('ingest', {str(tmp_path)!r}):\n    print('at work')\n    raise InputError('no such class')"
    said = []
    for number in (0, 1, 2):
        tried(monkeypatch, number)
        said.append(run(body).stdout)
    assert said == ["at work\ningest error: no such class\n", *["ingest error: no such class\n"] * 2]
    tried(monkeypatch, 0)  # somebody pressed Retry
    assert run(body).stdout.startswith("at work")
    tried(monkeypatch, 1)
    monkeypatch.setenv("EDGE_RUN", "another")
    assert run(body).stdout.startswith("at work")
    tried(monkeypatch, 1)
    assert run(body.replace("'ingest'", "'prepare'")).stdout.startswith("at work")


@pytest.mark.parametrize(
    "raised",
    [
        "OutOfReachError('s3://jobs: the store is out of reach')",
        "InputError('another trains') from LostRaceError('lost')",
        "KeyError('gone')",
    ],
)
def test_what_may_pass_is_tried_again(tmp_path, monkeypatch, raised):
    imported = "from components.core.errors import LostRaceError, OutOfReachError\n"
    body = f"{imported}with step('ingest', {str(tmp_path)!r}):\n    print('at work')\n    raise {raised}"
    for number in (0, 1):
        tried(monkeypatch, number)
        assert run(body).stdout.startswith("at work")


@pytest.mark.parametrize("attached", [True, False])
def test_a_step_ends_with_whoever_reads_it(attached):
    code = HEAD + "with step('train'):\n    print('ready', flush=True)\n    time.sleep(60)"
    step = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert step.stdout.readline() == "ready\n"
        if not attached:
            step.stdout.close()
        deadline = time.monotonic() + (5 if attached else 20)
        while step.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        assert (step.poll() is None) == attached
    finally:
        if step.poll() is None:
            os.kill(step.pid, 9)
        step.wait()


def test_nothing_that_a_step_prints_or_puts_on_record_holds_a_credential(tmp_path):
    body = (
        "import os\nos.environ['AWS_SESSION_TOKEN'] = 'a-session-token\\n'\n"
        f"with step('train', {str(tmp_path)!r}, 4.0):\n"
        "    logging.info('from http://joe:hunter2@host/x.zip?sig=f00')\n"
        "    print('with', os.environ['AWS_SESSION_TOKEN'])\n"
        "    raise ValueError('Invalid header value ' + repr(os.environ['AWS_SESSION_TOKEN'].encode()))"
    )
    done = run(body)
    noted = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    for secret in ("a-session-token", "hunter2", "f00"):
        assert secret not in done.stdout + done.stderr + noted
    assert "train | from http://***@host/x.zip?..." in done.stdout
    assert "train error: ValueError: Invalid header value b'***\\n'" in done.stdout
    assert "ValueError: Invalid header value b'***\\n'" in done.stderr
    assert "Invalid header value" in noted
