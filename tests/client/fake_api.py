"""A Kubeflow Pipelines server for tests: its v2beta1 API over HTTP, and the controller that starts scheduled runs.

It keeps state, refuses what the real one refuses (backend/src/apiserver/server) and starts runs by the real one's rules
(backend/src/crd/controller/scheduledworkflow), on a clock that only ``advance`` moves.
"""

import base64
import email
import itertools
import json
import re
import socket
import threading
import uuid
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import yaml

from pipelines.cron import parse_cron

FINISHED = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED")
NEVER = datetime.max.replace(tzinfo=UTC)
FIELDS = {
    "experiments": {"display_name", "description", "namespace"},
    "pipelines": {"display_name", "description", "namespace", "tags"},
    "runs": {
        "display_name",
        "description",
        "experiment_id",
        "pipeline_spec",
        "pipeline_version_reference",
        "runtime_config",
        "service_account",
    },
    "recurringruns": {
        "display_name",
        "description",
        "experiment_id",
        "pipeline_spec",
        "pipeline_version_reference",
        "runtime_config",
        "service_account",
        "max_concurrency",
        "trigger",
        "mode",
        "no_catchup",
        "namespace",
    },
}
IDS = {
    "experiments": "experiment_id",
    "pipelines": "pipeline_id",
    "runs": "run_id",
    "recurringruns": "recurring_run_id",
}
LISTS = {"experiments": "experiments", "pipelines": "pipelines", "runs": "runs", "recurringruns": "recurringRuns"}
FILTERABLE = {"name", "display_name", "created_at", "description", "recurring_run_id", "experiment_id", "state"}
TYPES = {
    "NUMBER_INTEGER": (int, float),
    "NUMBER_DOUBLE": (int, float),
    "STRING": str,
    "BOOLEAN": bool,
    "LIST": list,
    "STRUCT": dict,
}


class RefusalError(Exception):
    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


class FakeApi:
    """The server. Use it as a context; ``url`` is its address.

    Attributes:
        now: the time, which only ``advance`` moves.
        run_seconds: how long runs take.
        reporting_seconds: how long a run that the controller started stays unknown to the API.
        knows_orphans: whether deleting can spare runs in progress (from version 2.16 on).
        requests: method and path of every request so far.
        killed: ids of runs that died because their recurring run was deleted.
        most_enabled: the most recurring runs of one name that were ever enabled at the same time.
        most_running: the most runs of one schedule's name that were ever in progress at the same time.
    """

    def __init__(self, token="", cookie="", namespaces=(), login_page=False):
        self.token, self.cookie, self.namespaces, self.login_page = token, cookie, namespaces, login_page
        self.now = datetime.now(UTC).replace(microsecond=0)
        self.run_seconds = 100
        self.reporting_seconds = 0
        self.knows_orphans = False
        self.experiments, self.runs, self.recurringruns = {}, {}, {}
        self.pipelines, self.versions = {}, {}
        self.requests, self.bodies, self.killed = [], [], set()
        self.most_enabled = self.most_running = 0
        self.refuse = None  # (method, pattern of the path, status, message)
        self.silent = None  # (method, pattern of the path) of what gets no answer
        self.ended = threading.Event()
        self._fail_at, self._fail_after, self._changes, self._dead = None, False, 0, False
        self._lock = threading.RLock()

    def __enter__(self):
        handler = type("Handler", (_Handler,), {"api": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *_):
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()

    # What tests do to it.

    def die_at(self, change, after):
        """Break the connection at the n-th changing request, before or after doing it, and at all later requests."""
        self._fail_at, self._fail_after, self._changes, self._dead = change, after, 0, False

    def heal(self):
        """Serve again; returns whether it had died."""
        died, self._fail_at, self._dead = self._dead, None, False
        return died

    def advance(self, seconds, step=10):
        """Let time pass; the controller looks every ``step`` seconds."""
        with self._lock:
            end = self.now + timedelta(seconds=seconds)
            while self.now < end:
                self.now = min(self.now + timedelta(seconds=step), end)
                self.tick()

    def tick(self):
        """What the controller does when it looks: finish what has run its time, start what is due."""
        for run in self.runs.values():
            age = (self.now - run["_created"]).total_seconds()
            if run["state"] in ("PENDING", "RUNNING"):
                run["state"] = "SUCCEEDED" if age >= self.run_seconds else "RUNNING"
        for schedule in list(self.recurringruns.values()):
            self._start_if_due(schedule)
        for name in {schedule["display_name"] for schedule in self.recurringruns.values()}:
            owners = {s["recurring_run_id"] for s in self.recurringruns.values() if s["display_name"] == name}
            self.most_running = max(self.most_running, sum(self._active(owner) for owner in owners))

    def named(self, name):
        """The recurring runs of a name."""
        return [schedule for schedule in self.recurringruns.values() if schedule["display_name"] == name]

    def enabled(self, name):
        """Those of them that are enabled."""
        return [schedule for schedule in self.named(name) if schedule["status"] == "ENABLED"]

    def runs_of(self, schedule):
        """The runs that a recurring run started."""
        return [run for run in self.runs.values() if run.get("recurring_run_id") == schedule["recurring_run_id"]]

    # The controller.

    def _active(self, recurring_run_id):
        return sum(
            run.get("recurring_run_id") == recurring_run_id and run["state"] not in FINISHED
            for run in self.runs.values()
        )

    def _start_if_due(self, schedule):
        due = self._next(schedule)
        busy = self._active(schedule["recurring_run_id"]) >= int(schedule["max_concurrency"])
        if schedule["status"] != "ENABLED" or busy or due > self.now:
            return
        schedule["_last"] = due
        schedule["_index"] += 1
        self._add_run(
            display_name=f"{schedule['display_name']}-{schedule['_index']}",
            experiment_id=schedule["experiment_id"],
            recurring_run_id=schedule["recurring_run_id"],
            runtime_config=schedule["runtime_config"],
            _listed=self.now + timedelta(seconds=self.reporting_seconds),
        )

    def _next(self, schedule):
        """When it is due, as ``getNextScheduledEpoch`` works it out."""
        trigger = schedule["trigger"]
        when = trigger.get("cron_schedule") or trigger["periodic_schedule"]
        start, end = (_time(when[key]) if when.get(key) else None for key in ("start_time", "end_time"))
        last = schedule["_last"] or start or schedule["_created"]
        if "cron" in when:
            return self._next_cron(parse_cron(when["cron"]), max(last, start or last), end or NEVER, schedule)
        return self._next_periodic(int(when["interval_second"]), last, start, end or NEVER, schedule)

    def _next_cron(self, cron, last, end, schedule):
        fires = cron.after(last)
        due = next(fires)
        if due > end:
            return NEVER
        if schedule.get("no_catchup"):
            due = max(itertools.takewhile(lambda fire: fire <= min(self.now, end), fires), default=due)
        return due

    def _next_periodic(self, interval, last, start, end, schedule):
        due = start if start and start > last else last + timedelta(seconds=interval)
        if due > end:
            return NEVER
        if schedule.get("no_catchup") and self.now >= due + timedelta(seconds=interval):
            due = min(self.now, end)
        return due

    def _add_run(self, _listed=None, **fields):
        run_id = str(uuid.uuid4())
        self.runs[run_id] = {
            "run_id": run_id,
            "state": "PENDING",
            "created_at": _text(self.now),
            "_created": self.now,
            "_listed": _listed or self.now,
            **fields,
        }
        return self.runs[run_id]

    # The API.

    def answer(self, method, path, query, headers, body):
        with self._lock:
            self.requests.append(f"{method} {path}")
            self.bodies.append(body)
            self._authenticate(headers)
            if self.refuse and method == self.refuse[0] and re.search(self.refuse[1], path):
                raise RefusalError(*self.refuse[2:])
            if path == "/apis/v2beta1/healthz":
                return {"multi_user": True} if self.namespaces else {}
            if path == "/apis/v2beta1/pipelines/upload_version":
                return self._upload_version(query, body)
            if found := re.fullmatch(r"/apis/v2beta1/pipelines/([^/]+)/versions", path):
                return self._versions_of(found[1], query)
            found = re.fullmatch(
                r"/apis/v2beta1/(experiments|pipelines|runs|recurringruns)(?:/([^/:]+))?(?::(\w+))?", path
            )
            if not found:
                raise RefusalError(404, "")
            return self._answer(method, *found.groups(), query, body)

    def changing(self, method):
        """Count a changing request; returns whether to break the connection before, or after it."""
        with self._lock:
            if self._dead:
                return True, False
            if method != "GET" and self._fail_at is not None:
                self._changes += 1
                self._dead = self._changes >= self._fail_at
            return self._dead and not self._fail_after, self._dead and self._fail_after

    def _authenticate(self, headers):
        wanted = f"Bearer {self.token}"
        by_cookie = self.cookie and headers.get("Cookie") == self.cookie
        if (self.token or self.cookie) and not by_cookie and (not self.token or headers.get("Authorization") != wanted):
            raise RefusalError(401, "Request header error: there is no user identity header")

    def _answer(self, method, kind, key, verb, query, body):
        if method == "POST" and not key:
            return self._create(kind, body)
        if method == "GET" and not key:
            return self._list(kind, query)
        items = getattr(self, kind)
        if key not in items:
            raise RefusalError(404, f"{IDS[kind]} {key} not found")
        self._allow(items[key].get("namespace"))
        if method == "GET":
            return _shown(items[key])
        if method == "POST" and kind == "recurringruns" and verb in ("enable", "disable"):
            items[key] |= {"status": f"{verb.upper()}D", "mode": verb.upper()}
            return self._seen_enabled({})
        if method == "DELETE" and kind == "recurringruns":
            return self._delete(key, query)
        raise RefusalError(501, "Method Not Allowed")

    def _allow(self, namespace):
        if self.namespaces and not namespace:
            raise RefusalError(
                400, "Invalid input error: a recurring run cannot have an empty namespace in multi-user mode"
            )
        if self.namespaces and namespace not in self.namespaces:
            raise RefusalError(403, f"User 'ann' is not authorized with reason: in namespace {namespace}")

    def _seen_enabled(self, result):
        for schedule in self.recurringruns.values():
            self.most_enabled = max(self.most_enabled, len(self.enabled(schedule["display_name"])))
        return result

    def _delete(self, key, query):
        spared = self.knows_orphans and query.get("propagation_policy") == "ORPHAN"
        for run in self.runs_of(self.recurringruns.pop(key)):
            if run["state"] not in FINISHED and not spared:
                run["state"] = "FAILED"
                self.killed.add(run["run_id"])
        return {}

    def _create(self, kind, body):
        unknown = body.keys() - FIELDS[kind]
        if unknown:
            raise RefusalError(400, f"unknown field {sorted(unknown)[0]!r}")
        if not body.get("display_name"):
            raise RefusalError(500, "Failed to convert: Invalid input error: name cannot be empty")
        return {
            "experiments": self._create_experiment,
            "pipelines": self._create_pipeline,
            "runs": self._create_run,
            "recurringruns": self._create_schedule,
        }[kind](body)

    def _create_experiment(self, body):
        self._allow(body.get("namespace"))
        same = [one for one in self.experiments.values() if one["display_name"] == body["display_name"]]
        if [one for one in same if (one.get("namespace") or "") == (body.get("namespace") or "")]:
            raise RefusalError(409, f"Already exist error: The name {body['display_name']} already exists")
        if len(body["display_name"]) > 128:
            raise RefusalError(400, "Experiment.Name length cannot exceed 128")
        made = {"experiment_id": str(uuid.uuid4()), "storage_state": "AVAILABLE", **body}
        self.experiments[made["experiment_id"]] = made
        return _shown(made)

    def _create_pipeline(self, body):
        self._allow(body.get("namespace"))
        home = (body["display_name"], body.get("namespace"))
        if home in {(one["display_name"], one.get("namespace")) for one in self.pipelines.values()}:
            raise RefusalError(409, f"Already exist error: The name {body['display_name']} already exists")
        made = {"pipeline_id": str(uuid.uuid4()), **body}
        self.pipelines[made["pipeline_id"]] = made
        return _shown(made)

    def _upload_version(self, query, package):
        if query.get("pipelineid") not in self.pipelines:
            raise RefusalError(404, f"Pipeline {query.get('pipelineid')} not found")
        same = [one for one in self.versions.values() if one["pipeline_id"] == query["pipelineid"]]
        if query["name"] in {one["display_name"] for one in same}:
            raise RefusalError(409, f"Already exist error: The name {query['name']} already exists")
        made = {
            "pipeline_version_id": str(uuid.uuid4()),
            "pipeline_id": query["pipelineid"],
            "display_name": query["name"],
            "description": query.get("description"),
            "_package": package,
        }
        self.versions[made["pipeline_version_id"]] = made
        return _shown(made)

    def _versions_of(self, pipeline, query):
        found = [one for one in self.versions.values() if one["pipeline_id"] == pipeline]
        begin = _begin(query)
        end = begin + int(query.get("page_size") or 20)
        answer = {"pipeline_versions": [_shown(one) for one in found[begin:end]], "total_size": len(found)}
        if end < len(found):
            token = {"begin": end, "filter": None, "sort_by": None}
            answer["next_page_token"] = base64.b64encode(json.dumps(token).encode()).decode()
        return answer

    def _create_run(self, body):
        self._check_pipeline(body)
        return _shown(self._add_run(**body))

    def _create_schedule(self, body):
        self._check_pipeline(body)
        if not 1 <= int(body.get("max_concurrency") or 0) <= 10:
            raise RefusalError(400, "Max concurrency of a recurring run must be at least 1 and at most 10")
        self._check_trigger(body.get("trigger") or {})
        made = {
            "recurring_run_id": str(uuid.uuid4()),
            "created_at": _text(self.now),
            "updated_at": _text(self.now),
            "status": "ENABLED" if body.get("mode") == "ENABLE" else "DISABLED",
            "namespace": self.experiments[body["experiment_id"]].get("namespace"),
            "_created": self.now,
            "_last": None,
            "_index": 0,
            **body,
            "max_concurrency": str(body["max_concurrency"]),
        }
        for when in made["trigger"].values():
            when.update(
                {key: str(value) for key, value in when.items() if key == "interval_second"}
            )  # an int64 in JSON
        self.recurringruns[made["recurring_run_id"]] = made
        return self._seen_enabled(_shown(made))

    def _check_trigger(self, trigger):
        if len(trigger) != 1:
            raise RefusalError(400, "trigger takes exactly one of cron_schedule and periodic_schedule")
        for key in ("start_time", "end_time"):
            for when in trigger.values():
                if when.get(key) and not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", when[key]):
                    raise RefusalError(400, f"invalid google.protobuf.Timestamp value {when[key]!r}")
        if "cron_schedule" in trigger and len(trigger["cron_schedule"]["cron"].split()) not in (5, 6):
            raise RefusalError(400, "Schedule cron is not a supported format")
        if "periodic_schedule" in trigger and int(trigger["periodic_schedule"]["interval_second"]) < 1:
            raise RefusalError(400, "Found invalid period schedule interval")

    def _check_pipeline(self, body):
        if body.get("experiment_id") not in self.experiments:
            raise RefusalError(404, f"Experiment {body.get('experiment_id')} not found")
        self._allow(self.experiments[body["experiment_id"]].get("namespace"))
        spec = self.spec_of(body)
        if spec.get("schemaVersion") != "2.1.0":
            raise RefusalError(400, "unsupported schema version")
        inputs = spec["root"].get("inputDefinitions", {}).get("parameters", {})
        given = (body.get("runtime_config") or {}).get("parameters") or {}
        for name, kind in inputs.items():
            if name not in given and not kind.get("isOptional") and "defaultValue" not in kind:
                raise RefusalError(400, f"parameter {name} is not optional, yet has neither default value nor value")
            if name in given and not isinstance(given[name], TYPES[kind["parameterType"]]):
                raise RefusalError(400, f"input parameter {name} requires type {kind['parameterType']}")
        if given.keys() - inputs.keys():
            raise RefusalError(
                400, f"parameter(s) provided are not required by pipeline: {given.keys() - inputs.keys()}"
            )

    def spec_of(self, body):
        """The compiled pipeline of a run or a recurring run."""
        if reference := body.get("pipeline_version_reference"):
            version = self.versions.get(reference["pipeline_version_id"])
            if version is None or version["pipeline_id"] != reference["pipeline_id"]:
                raise RefusalError(404, f"PipelineVersion {reference['pipeline_version_id']} not found")
            return next(yaml.safe_load_all(version["_package"]))
        if not body.get("pipeline_spec"):
            raise RefusalError(400, "Failed to fetch a template with an empty pipeline spec manifest")
        return body["pipeline_spec"].get("pipeline_spec", body["pipeline_spec"])

    def _list(self, kind, query):
        home = self.experiments.get(query.get("experiment_id"), {}).get("namespace")
        self._allow(query.get("namespace") or home)
        found = [one for one in getattr(self, kind).values() if one.get("_listed", self.now) <= self.now]
        if query.get("experiment_id"):
            found = [one for one in found if one["experiment_id"] == query["experiment_id"]]
        if self.namespaces:
            homes = {one["experiment_id"]: one.get("namespace") for one in self.experiments.values()}
            found = [
                one for one in found if homes.get(one.get("experiment_id"), one.get("namespace")) == query["namespace"]
            ]
        found = _sorted(_filtered(found, query.get("filter")), query.get("sort_by"))
        begin = _begin(query)
        end = begin + min(int(query.get("page_size") or 20), 200)
        answer = {LISTS[kind]: [_shown(one) for one in found[begin:end]], "total_size": len(found)}
        if end < len(found):
            token = {"begin": end, "filter": query.get("filter"), "sort_by": query.get("sort_by")}
            answer["next_page_token"] = base64.b64encode(json.dumps(token).encode()).decode()
        return answer


def _begin(query):
    if not query.get("page_token"):
        return 0
    token = json.loads(base64.b64decode(query["page_token"]))
    if (token["filter"], token["sort_by"]) != (query.get("filter"), query.get("sort_by")):
        raise RefusalError(400, "page token does not match the supplied sort by and/or filtering criteria")
    return token["begin"]


def _filtered(found, text):
    if not text:
        return found
    for predicate in json.loads(text)["predicates"]:
        if predicate["key"] not in FILTERABLE or predicate["operation"] not in ("EQUALS", 1, "NOT_EQUALS", 2):
            raise RefusalError(400, f"Invalid input error: no filter {predicate}")
        key, same = (
            {"name": "display_name"}.get(predicate["key"], predicate["key"]),
            predicate["operation"] in ("EQUALS", 1),
        )
        found = [one for one in found if (one.get(key) == predicate["stringValue"]) is same]
    return found


def _sorted(found, text):
    if not text:
        return found
    key, _, order = text.partition(" ")
    if key != "created_at" or order not in ("", "asc", "desc"):
        raise RefusalError(400, f"Invalid input error: cannot sort on field {text}")
    return sorted(found, key=lambda one: one["_created"], reverse=order == "desc")


def _shown(one):
    """As the server writes it: nothing that is empty, nothing of ours."""
    return {key: value for key, value in one.items() if not key.startswith("_") and value not in (None, "", False)}


def _text(moment):
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _time(text):
    return datetime.fromisoformat(text)


class _Handler(BaseHTTPRequestHandler):
    api = None
    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # an answer in one piece
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def _serve(self):
        parts = urlsplit(self.path)
        body = self._body(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        if self.api.login_page:
            return self._redirect_to_login(parts.path)
        if self.api.silent and self.command == self.api.silent[0] and re.search(self.api.silent[1], parts.path):
            self.api.ended.wait(10)
            return self._break()
        before, after = self.api.changing(self.command)
        if before:
            return self._break()
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        try:
            status, answer = 200, self.api.answer(self.command, parts.path, query, self.headers, body)
        except RefusalError as refusal:
            status, answer = refusal.status, _error(refusal)
        return self._break() if after else self._send(status, json.dumps(answer).encode() if answer != "" else b"")

    do_GET = do_POST = do_DELETE = _serve  # noqa: N815

    def _body(self, content):
        kind = self.headers.get("Content-Type", "")
        if not kind.startswith("multipart/form-data"):
            return json.loads(content or b"{}")
        (part,) = email.message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + content).get_payload()
        return part.get_payload(decode=True).decode()

    def _send(self, status, content, kind="application/json", **headers):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Set-Cookie", "authservice_session=a-session-that-no-message-may-show")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _redirect_to_login(self, path):
        if path == "/login":
            return self._send(200, b"<html><title>state run_id experiments</title>Log in</html>", "text/html")
        return self._send(302, b"", "text/html", Location="/login")

    def _break(self):
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


def _error(refusal):
    message = str(refusal)
    if not message:
        return ""
    details = [{"@type": "type.googleapis.com/google.rpc.Status", "code": 3, "message": message}]
    return {"code": 3, "message": f"Failed to do it: {message} (wrapped)", "details": details}
