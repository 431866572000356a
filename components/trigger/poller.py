"""The poller: one pod that looks at a feed every minute, and starts a round on Kubeflow Pipelines when there is work.

    python -m components.trigger.poller /etc/edge-learning/poller

A recurring run starts four pods for every look. This is one pod that stays; each look is a process of its own, the same
step as in the pipeline. ``python -m pipelines schedule ... --poller FILE`` writes its Kubernetes manifest. The folder
holds ``poller.json``, see :class:`Order`, and ``trigger.py``, the step as compiled.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from urllib3.exceptions import HTTPError

from components.core.errors import InputError, one_line
from components.core.processes import ended_by_signals
from components.core.redaction import redacted, redacted_output
from components.core.stores.connections import open_pool, reason_of

TOKEN_VARIABLE = "KF_PIPELINES_SA_TOKEN_PATH"
LOOK_SECONDS = 2 * 3600.0  # of one look at the feed, at most; as for the step in a pipeline
_FINISHED = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED")
_PAGE = 200  # runs, the most that a server lists at once
_MOST_PAGES = 100
_TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
_SAID = re.compile(r"trigger (\||error:) ")

log = logging.getLogger(__name__)


class Order(BaseModel):
    """What the poller does.

    Attributes:
        api: address of Kubeflow Pipelines as pods reach it.
        every_seconds: from one look to the next.
        name: of the poller, and the beginning of its runs' names.
        inputs: of the trigger step: ``feed_url``, ``job_root`` and ``settings``.
        run: the body of the request that starts a round, without its name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    api: str
    every_seconds: Annotated[float, Field(gt=0)]
    name: Annotated[str, Field(min_length=1)]
    inputs: dict[str, Any]
    run: dict[str, Any]


class Poller:
    """Looks, and starts a round when none of its own is in progress.

    Args:
        folder: with ``poller.json`` and ``trigger.py``.

    Raises:
        InputError: the order cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "poller.json"
        try:
            self.order = Order.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise InputError(f"{path} is not the order of a poller: {one_line(error)}") from error
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        self._own = re.compile(rf"{re.escape(self.order.name)} {_TIME}")  # not those of a poller "gate 2" beside "gate"
        self._step = folder / "trigger.py"
        self._runs = f"{self.order.api.rstrip('/')}/apis/v2beta1/runs"
        self._pool = open_pool(self.order.api)
        self._look: subprocess.Popen[str] | None = None

    def run(self, stop: threading.Event) -> None:
        """Go on until told to stop; what goes wrong is a line in the log, and tried again at the next look."""
        while not stop.is_set():
            began = time.monotonic()
            try:
                self.poll(stop)
            except (InputError, HTTPError, OSError) as error:
                log.error("poller error: %s", redacted(str(error)))
            stop.wait(max(0.0, self.order.every_seconds - (time.monotonic() - began)))

    def poll(self, stop: threading.Event) -> str:
        """Look once.

        Returns:
            The id of the run that was started; empty where there was no need, or one is in progress.

        Raises:
            InputError: the server refuses, or what it says cannot be understood.
            HTTPError: it is out of reach.
        """
        if busy := self.in_progress():
            log.info("run %s is in progress", busy)
            return ""
        if self.look() != "RUN" or stop.is_set():
            return ""
        name = f"{self.order.name} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
        started = str(self._ask("POST", self._runs, {**self.order.run, "display_name": name}).get("run_id", ""))
        log.info("started run %s", started)
        return started

    def in_progress(self) -> str:
        """The id of a run of this poller that has not finished; empty if there is none."""
        query = {
            "experiment_id": self.order.run["experiment_id"], "page_size": _PAGE, "sort_by": "created_at desc",
            # The server leaves out what has finished, which is all but one or two of the runs of a year.
            "filter": json.dumps(
                {
                    "predicates": [
                        {"operation": "NOT_EQUALS", "key": "state", "stringValue": state} for state in _FINISHED
                    ]
                }
            ),
        }  # fmt: skip
        for _ in range(_MOST_PAGES):
            listed = self._ask("GET", f"{self._runs}?{urlencode(query)}")
            for one in listed.get("runs", []):
                if self._own.fullmatch(one.get("display_name", "")) and one.get("state", "") not in _FINISHED:
                    return str(one["run_id"])
            if not (token := listed.get("next_page_token")):
                return ""
            query["page_token"] = token
        raise InputError(f"{self.order.api}: more than {_MOST_PAGES * _PAGE} runs are in progress: end those that hang")

    def look(self) -> str:
        """Run the trigger step as its pod would.

        Returns:
            ``RUN`` or ``WAIT``; empty where the step failed, which its lines in the log say.
        """
        with tempfile.TemporaryDirectory(prefix="edge-look-") as scratch:
            words = [sys.executable, "-m", "kfp.dsl.executor_main", "--component_module_path", str(self._step)]
            words += ["--function_to_execute", "trigger", "--executor_input", _executor_input(self.order, scratch)]
            environment = os.environ | {"_KFP_RUNTIME": "true"}
            with subprocess.Popen(
                words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                encoding="utf-8", errors="replace",  # names of files may be anything
            ) as self._look:  # fmt: skip
                timer = threading.Timer(LOOK_SECONDS, self._look.kill)
                timer.start()
                last = ""
                for line in self._look.stdout or ():
                    last = line.strip() or last
                    if _SAID.match(line):
                        log.info("%s", redacted(line.rstrip()))
                timer.cancel()
            if self._look.returncode:
                log.error("the look ended with exit code %d: %s", self._look.returncode, redacted(last[-500:]))
                return ""
            found = json.loads(Path(scratch, "outputs.json").read_text(encoding="utf-8"))
            return str(found["parameterValues"]["Output"])

    def end(self) -> None:
        """End a look that is in progress; nothing is lost by that."""
        if self._look:
            self._look.terminate()

    def _ask(self, method: str, url: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", **_authorization()}
        data = None if body is None else json.dumps(body).encode()
        # One that starts a run is not tried again: the server may have heard it.
        send = self._pool.urlopen if method == "GET" else self._pool.once
        try:
            answer = send(method, url, body=data, headers=headers)
        except HTTPError as error:
            raise InputError(f"{self.order.api}: {reason_of(error)}") from error
        try:
            said = json.loads(answer.data)
        except ValueError:
            said = None
        if answer.status != 200 or not isinstance(said, dict):
            words = str(said.get("message", ""))[:300] if isinstance(said, dict) else "not an answer of this API"
            raise InputError(f"{self.order.api} refused the request ({answer.status}): {words}")
        return said


def _executor_input(order: Order, folder: str) -> str:
    page = {"name": "report", "type": {"schemaTitle": "system.HTML"}, "uri": f"{folder}/report", "metadata": {}}
    outputs = {
        "artifacts": {"report": {"artifacts": [page]}},
        "parameters": {"Output": {"outputFile": f"{folder}/output"}},
        "outputFile": f"{folder}/outputs.json",
    }
    return json.dumps({"inputs": {"parameterValues": order.inputs}, "outputs": outputs})


def _authorization() -> dict[str, str]:
    """The token that Kubernetes renews in a file, where there is one."""
    path = Path(os.environ.get(TOKEN_VARIABLE, ""))
    if not path.is_file():
        return {}
    return {"Authorization": f"Bearer {path.read_text(encoding='utf-8').strip()}"}


def main() -> None:
    """Run until a signal ends it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    stop = threading.Event()
    try:
        if len(sys.argv) != 2:
            raise InputError("give the folder with poller.json and trigger.py")
        poller = Poller(Path(sys.argv[1]))
    except InputError as error:
        sys.exit(f"error: {redacted(str(error))}")

    def ended(_: int) -> None:
        stop.set()
        poller.end()

    with ended_by_signals(ended), redacted_output():
        log.info("polling every %g s: %s", poller.order.every_seconds, poller.order.name)
        poller.run(stop)


if __name__ == "__main__":
    main()
