"""A model registry in small: it keeps what its API requires, and refuses what it would refuse."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import jsonschema

API = "/api/model_registry/v1alpha3"
TEXT = {"type": "string"}
ID = {"type": "string", "pattern": "^[1-9][0-9]{0,8}$"}
VALUE = {
    "oneOf": [
        {
            "type": "object",
            "required": ["metadataType", name],
            "additionalProperties": False,
            "properties": {"metadataType": {"const": kind}, name: {"type": of}},
        }
        for kind, name, of in (
            ("MetadataDoubleValue", "double_value", "number"), ("MetadataStringValue", "string_value", "string"),
        )
    ]
}  # fmt: skip
COMMON = {
    "name": {**TEXT, "minLength": 1}, "description": TEXT, "externalId": TEXT,
    "customProperties": {"type": "object", "additionalProperties": VALUE},
}  # fmt: skip


def body(required, **more):
    return {"type": "object", "required": required, "additionalProperties": False, "properties": COMMON | more}


# The bodies of version v1alpha3 of the API, as far as this project sends them.
BODIES = {
    "registered_models": body(["name"], owner=TEXT, state=TEXT),
    "model_versions": body(["name", "registeredModelId"], registeredModelId=ID, author=TEXT, state=TEXT),
    "artifacts": body(
        ["artifactType"], artifactType={"const": "model-artifact"}, uri=TEXT, state=TEXT,
        **dict.fromkeys(
            ("modelFormatName", "modelFormatVersion", "modelSourceKind", "modelSourceClass", "modelSourceId"), TEXT
        ),
    ),
}  # fmt: skip


class FakeRegistry:
    """What was registered, by kind; ``status`` is answered to everything if it is set."""

    def __init__(self, token=""):
        self.kept = {"registered_models": [], "model_versions": [], "artifacts": []}
        self.token, self.status, self.requests, self.meanwhile = token, 0, [], None

    def answer(self, method, target, headers, data):
        path, query = urlsplit(target).path.removeprefix(API), dict(parse_qsl(urlsplit(target).query))
        self.requests.append(f"{method} {path}")
        if self.token and headers.get("Authorization") != f"Bearer {self.token}":
            return 401, {"code": "401", "message": "unauthorized"}
        if self.status:
            return self.status, {"code": str(self.status), "message": "as it was told"}
        parts = path.strip("/").split("/")
        kind = parts[-1]
        parent = parts[1] if kind == "artifacts" else query.get("parentResourceId", "")
        if method == "GET":
            plural = kind if kind == "artifacts" else f"{kind}s"
            found = [one for one in self.kept[plural] if self._is(one, query["name"], parent)]
            if kind == "artifacts":
                return 200, {"items": found, "size": len(found), "pageSize": 0, "nextPageToken": ""}
            return (200, found[0]) if found else (404, {"code": "404", "message": "not found"})
        made = json.loads(data)
        jsonschema.validate(made, BODIES[kind])
        if self.meanwhile:  # another run is quicker
            taken, self.meanwhile = self.meanwhile, None
            taken()
        parent = parent or made.get("registeredModelId", "")
        if any(self._is(one, made["name"], parent) for one in self.kept[kind]):
            return 409, {"code": "409", "message": "already exists"}
        self.kept[kind].append(made | {"id": str(len(self.kept[kind]) + 1), "parent": parent})
        return 201, self.kept[kind][-1]

    @staticmethod
    def _is(one, name, parent):
        return one["name"] == name and one["parent"] == parent


@contextmanager
def serving(registry):
    """The address of a server that answers for a registry."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self):
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, said = registry.answer(self.command, self.path, self.headers, data)
            text = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = _answer  # noqa: N815

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
