"""What all tests share: signals as they were, and an S3 server for those that need one."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from minio import Minio

from components.core.processors import share_processors

# What nohup started ignores SIGHUP, and what a shell started with & SIGINT; so would the programs that tests end.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)

# Before anything loads torch.
share_processors(among=int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))

ACCESS_KEY = "AKIATESTTESTTESTTEST"
SECRET_KEY = "a-secret-that-no-message-may-show"
BUCKET = "edge-tests"


@pytest.fixture(autouse=True)
def signals_as_before():
    """A handler that a test leaves behind would end the test process at a signal of a later test."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    """The address of a running S3 server with one bucket; each test process starts its own."""
    program = shutil.which("ministack", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        pytest.skip("the S3 server for tests is not installed: pip install ministack")
    folder = tmp_path_factory.mktemp("s3")
    port = _free_port()
    environment = os.environ | {
        "AUTH": "true",
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "S3_PERSIST": "1",
        "S3_DATA_DIR": str(folder / "data"),
    }
    with (folder / "log").open("wb") as output:
        process = subprocess.Popen([program], env=environment, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait_for(port, process, folder / "log")
        endpoint = f"http://127.0.0.1:{port}"
        Minio(urlsplit(endpoint).netloc, ACCESS_KEY, SECRET_KEY, secure=False).make_bucket(BUCKET)
        yield endpoint
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture
def s3(s3_server, monkeypatch):
    """The address of an empty prefix in a bucket, with the environment that S3 stores take what they need from."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture
def one_thread():
    """Of so small a network, threads only wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for(port, process, log):
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail(f"the S3 server did not start:\n{log.read_text(errors='replace')[-2000:]}")
