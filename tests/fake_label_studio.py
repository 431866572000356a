"""A server that answers as Label Studio 1.23.2 did to the same requests, as far as the hand-off asks it.

It checks what that one checks, and no more: it takes predictions whose labels and controls its project does not have.
"""

import json
import re
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

LEGACY = "0123456789abcdef0123456789abcdef01234567"
PERSONAL = "eyJhbGciOiJIUzI1NiJ9.cmVmcmVzaA.c2lnbmF0dXJl"
PAGE = "<!doctype html><html><body>Log in</body></html>"


class RefusedError(Exception):
    def __init__(self, status, detail="Validation error", **errors):
        super().__init__(detail)
        self.status, self.detail, self.errors = status, detail, errors


class FakeLabelStudio:
    """What the server has, for tests to look at and to change as a person would.

    Attributes:
        address: of the server.
        document_root: the folder below which it serves local files; None: it does not.
        path: below which a proxy has it; the proxy takes it from what is asked for.
        requests: method and path of each.
        drops: how many imports are done without an answer.
        trouble: HTTP status and detail with which it refuses everything.
        limits: how many requests it refuses as too many, and asks to wait 7 seconds.
        down: whether it answers 503 to everything.
        wall: whether a proxy with a login page stands before it.
    """

    def __init__(self):
        self.address, self.document_root, self.path = "", None, ""
        self.requests, self.projects, self.stored, self.storages = [], {}, {}, []
        self.trouble = None
        self.limits, self.drops, self.down, self.wall, self.legacy_disabled = 0, 0, False, False, False
        self.access = ""
        self._ticks = datetime(2026, 11, 28, tzinfo=UTC)
        self._numbers = 0
        self.guard = threading.RLock()

    # --- what a person does ---

    def tasks(self):
        return sorted(self.stored.values(), key=lambda task: task["id"])

    def task(self, sample):
        return next(task for task in self.tasks() if task["data"].get("sample") == sample)

    def annotate(self, sample, result, **more):
        """Submit an annotation of an image; None: as predicted."""
        task = self.task(sample)
        if result is None:
            result = [one for prediction in task["predictions"] for one in prediction["result"]]
        made = {"id": self.number(), "completed_by": 1, "result": result, "was_cancelled": False,
                "ground_truth": False, "updated_at": self.now()} | more  # fmt: skip
        task["annotations"].append(made)
        task["updated_at"] = self.now()
        return made

    def skip(self, sample):
        return self.annotate(sample, [], was_cancelled=True)

    def edit(self, sample, result):
        task = self.task(sample)
        task["annotations"][-1] |= {"result": result, "updated_at": self.now()}
        task["updated_at"] = self.now()

    def delete_annotations(self, sample):
        task = self.task(sample)
        task["annotations"].clear()
        task["updated_at"] = self.now()

    # --- what the server does ---

    def number(self):
        self._numbers += 1
        return self._numbers

    def now(self):
        self._ticks += timedelta(milliseconds=700)
        return self._ticks.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def check_token(self, given):
        if given == f"Token {LEGACY}":
            if self.legacy_disabled:
                raise RefusedError(401, "Authentication token no longer valid: legacy token authentication has been "
                                   "disabled for this organization")  # fmt: skip
        elif given.startswith("Token "):
            raise RefusedError(401, "Invalid token.")
        elif not self.access or given != f"Bearer {self.access}":
            raise RefusedError(401, "Authentication credentials were not provided.")

    def answer(self, method, path, query, body):
        """Status and content of the answer to a request whose token is right."""
        routes = [
            ("GET", r"/api/projects", self._list_projects),
            ("POST", r"/api/projects", self._make_project),
            ("GET", r"/api/projects/(\d+)", lambda query, body, project: (200, self._project(project))),
            ("PATCH", r"/api/projects/(\d+)", self._change_project),
            ("POST", r"/api/projects/(\d+)/import", self._import),
            ("GET", r"/api/tasks", self._list_tasks),
            ("PATCH", r"/api/tasks/(\d+)/", self._change_task),
            ("DELETE", r"/api/tasks/(\d+)/", self._delete_task),
            ("POST", r"/api/tasks/(\d+)/annotations", self._annotate),
            ("GET", r"/api/storages/localfiles", lambda query, body: (200, self.storages)),
            ("POST", r"/api/storages/localfiles", self._make_storage),
            ("GET", r"/data/local-files/", self._local_file),
        ]
        for verb, pattern, act in routes:
            found = re.fullmatch(pattern, path)
            if verb == method and found:
                return act(query, body, *map(int, found.groups()))
        return 404, PAGE

    def _list_projects(self, query, body):
        title = query.get("title", "").lower()
        found = [self._project(number) for number, one in self.projects.items() if title in one["title"].lower()]
        return 200, {"count": len(found), "next": None, "previous": None, "results": found}

    def _make_project(self, query, body):
        for wrong, words in ((len(body["title"]) < 3, "at least 3"), (len(body["title"]) > 50, "no more than 50")):
            if wrong:
                raise RefusedError(400, title=[f"Ensure this field has {words} characters."])
        self._parsed(body["label_config"])
        number = self.number()
        self.projects[number] = {"id": number, "title": body["title"], "label_config": body["label_config"],
                                 "description": body.get("description", "")}  # fmt: skip
        return 201, self._project(number)

    def _change_project(self, query, body, project):
        self._parsed(body["label_config"])
        self._project(project)
        self.projects[project] |= body
        return 200, self._project(project)

    def _project(self, number):
        if number not in self.projects:
            raise RefusedError(404, "No Project matches the given query.")
        one = self.projects[number]
        count = sum(task["project"] == number for task in self.stored.values())
        return one | {"parsed_label_config": self._parsed(one["label_config"]), "task_number": count}

    @staticmethod
    def _parsed(label_config):
        view = ElementTree.fromstring(label_config)
        named = {one.get("name"): one for one in view.iter() if one.get("name")}
        found = {}
        for control in view.iter():
            if control.get("toName") is None:
                continue
            if control.get("toName") not in named:
                raise RefusedError(
                    400, label_config=[f'toName="{control.get("toName")}" not found in names: {[*named]}']
                )
            source = named[control.get("toName")]
            inputs = [{"type": source.tag, "valueType": None, "value": source.get("value").lstrip("$")}]
            labels = [label.get("value") for label in control.iter("Label")]
            found[control.get("name")] = {"type": control.tag, "to_name": [source.get("name")], "inputs": inputs,
                                          "labels": labels}  # fmt: skip
        return found

    def _import(self, query, body, project):
        if project not in self.projects:
            return 404, PAGE
        if not body:
            raise RefusedError(400, non_field_errors=["load_tasks: No tasks added"])
        keys = re.findall(r'value="\$([^"]+)"', self.projects[project]["label_config"])
        for place, one in enumerate(body):
            for key in keys:
                if key not in one["data"]:
                    raise RefusedError(
                        400, non_field_errors=[f'Error at item {place}: "{key}" key is expected in task data']
                    )
        numbers = []
        for one in body:
            numbers.append(self.number())
            self.stored[numbers[-1]] = {
                "id": numbers[-1], "project": project, "data": one["data"], "meta": one.get("meta", {}),
                "predictions": one.get("predictions", []), "annotations": [], "drafts": [], "updated_at": self.now(),
            }  # fmt: skip
        if self.drops:
            self.drops -= 1
            raise ConnectionAbortedError
        return 201, {"task_count": len(numbers), "annotation_count": 0, "task_ids": numbers}

    def _list_tasks(self, query, body):
        project = int(query["project"])
        self._project(project)
        found = [task for task in self.tasks() if task["project"] == project]
        for item in json.loads(query.get("query", "{}")).get("filters", {}).get("items", []):
            assert (item["filter"], item["operator"]) == ("filter:tasks:updated_at", "greater_or_equal")
            found = [task for task in found if task["updated_at"] >= item["value"]]
        size, page = int(query.get("page_size", 30)), int(query.get("page", 1))
        part = found[size * (page - 1) : size * page]
        if page > 1 and not part:
            raise RefusedError(404, "Invalid page.")
        shown = [self._shown(task, query.get("include"), query.get("fields")) for task in part]
        return 200, {"total": len(found), "total_annotations": 0, "total_predictions": 0, "tasks": shown}

    @staticmethod
    def _shown(task, include, fields):
        given = task["annotations"]
        counts = {
            "total_annotations": sum(not one["was_cancelled"] for one in given),
            "cancelled_annotations": sum(one["was_cancelled"] for one in given),
        }
        everything = task | counts
        if include:
            return {name: everything[name] for name in include.split(",")}
        return everything if fields == "all" else {k: v for k, v in everything.items() if k != "annotations"}

    def _change_task(self, query, body, number):
        if number not in self.stored:
            raise RefusedError(404, "No Task matches the given query.")
        self.stored[number] |= body | {"updated_at": self.now()}
        return 200, self.stored[number]

    def _delete_task(self, query, body, number):
        if self.stored.pop(number, None) is None:
            raise RefusedError(404, "No Task matches the given query.")
        return 204, None

    def _annotate(self, query, body, number):
        made = {"id": self.number(), "completed_by": 1, "was_cancelled": False, "ground_truth": False,
                "updated_at": self.now()} | body  # fmt: skip
        self.stored[number]["annotations"].append(made)
        self.stored[number]["updated_at"] = self.now()
        return 201, made

    def _local_file(self, query, body):
        return (200 if Path(self.document_root, query["d"]).is_file() else 404), PAGE

    def _make_storage(self, query, body):
        root, path = self.document_root, body["path"]
        said = f'Absolute local path "{path}"'
        if root is None or not path.startswith(f"{root}/"):
            raise RefusedError(
                400, non_field_errors=[f'{said} must be a subdirectory of LOCAL_FILES_DOCUMENT_ROOT="{root}"']
            )
        self.storages.append(body | {"id": self.number()})
        return 201, self.storages[-1]


@contextmanager
def fake_label_studio():
    """A running server."""
    studio = FakeLabelStudio()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self):
            parts = urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            with studio.guard:
                studio.requests.append((self.command, parts.path))
                try:
                    if not parts.path.startswith(f"{studio.path}/"):
                        raise RefusedError(404, "Not found.")
                    status, content = self._answer(parts.path.removeprefix(studio.path), query, body)
                except RefusedError as refusal:
                    status = refusal.status
                    content = {"id": "0", "status_code": status, "version": "1.23.2", "detail": refusal.detail,
                               "exc_info": None}  # fmt: skip
                    content |= {"validation_errors": refusal.errors} if refusal.errors else {}
                except ConnectionAbortedError:
                    self.close_connection = True
                    return
            is_page = isinstance(content, str)
            data = b"" if content is None else content.encode() if is_page else json.dumps(content).encode()
            self.send_response(status)
            if status == 429:
                self.send_header("Retry-After", "7")
            if status == 302:
                self.send_header("Location", "/user/login/?next=/api/")
            self.send_header("Content-Type", "text/html" if is_page else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _answer(self, path, query, body):
            if studio.down:
                return 503, PAGE
            if studio.limits:
                studio.limits -= 1
                return 429, PAGE
            if studio.wall:
                return 302, ""
            if path == "/api/token/refresh":
                if body["refresh"] != PERSONAL:
                    raise RefusedError(401, "Token is invalid")
                studio.access = f"access.{studio.number()}.token"
                return 200, {"access": studio.access}
            if studio.trouble:
                raise RefusedError(*studio.trouble)
            studio.check_token(self.headers.get("Authorization", ""))
            return studio.answer(self.command, path, query, body)

        do_GET = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815 - the names that http.server looks for

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    studio.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield studio
    finally:
        server.shutdown()
        server.server_close()
