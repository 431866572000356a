"""The cloud server's HTTP: predictions by KServe's protocol v1 and for Sedna's clients, health by v2, metrics.

========================================== ==========================================================================
request                                    answer
========================================== ==========================================================================
``POST /v1/models/NAME:predict``           boxes, see :mod:`components.core.wire`; the body is a JPEG or PNG
``POST /JOB/predict``                      the same for a client of KubeEdge Sedna, which sends pixels as JSON; this may
                                           be compressed, ``Content-Encoding: gzip``
``GET /v1/models``, ``/v1/models/NAME``    the models; whether one is ready, with its version and digest
``GET /v2/health/live``, ``/ready``        200 or 503; also as ``/healthz``, ``/readyz``, ``/v2/models/NAME/ready``
``GET /metrics``                           for Prometheus
========================================== ==========================================================================

Errors are ``{"error": "..."}``, as in KServe: 400 for a body that is no image, 401 without the token, 404 for another
model, 413 beyond a limit, 415 for another type, 500 where the model fails, 503 with ``Retry-After`` where there is no
room, and 504 after the deadline. Health and metrics need no token, since probes and scrapers have none.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import wraps

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from components.core.errors import InputError
from components.core.runtimes.letterbox import ImageArray
from components.core.wire import (
    JPEG,
    JSON,
    PNG,
    TIMEOUT_HEADER,
    Answer,
    Limits,
    TooLargeError,
    decode_image,
    read_sedna,
    unzipped,
)
from components.serving.cloud_metrics import CloudMetrics
from components.serving.cloud_model import BusyError, CloudModel, FailedInferenceError

GZIP = "gzip"
JSON_FACTOR = 4  # a pixel takes up to 12 bytes in a client of Sedna's JSON, and far less in any image file
_DISCONNECTED = 499  # as nginx counts clients that went away

log = logging.getLogger(__name__)

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Rules:
    """What requests have to keep to.

    Attributes:
        name: of the model in paths.
        token: that a request brings as ``Authorization: Bearer``; empty: none is asked for.
        limits: of a body that is an image.
        deadline_s: seconds that a request may take at most; a client may ask for less.
    """

    name: str
    token: str
    limits: Limits
    deadline_s: float


def make_app(model: CloudModel, metrics: CloudMetrics, rules: Rules) -> Starlette:
    """The server's routes.

    Args:
        model: answers.
        metrics: counts.
        rules: for requests.
    """
    routes = _Routes(model, metrics, rules)
    guard = routes.guarded
    return Starlette(
        routes=[
            Route("/healthz", routes.live),
            Route("/v2/health/live", routes.live),
            Route("/readyz", routes.ready),
            Route("/v2/health/ready", routes.ready),
            Route("/v2/models/{name}/ready", routes.model_ready),
            Route("/metrics", routes.show_metrics),
            Route("/v1/models", guard(routes.models)),
            Route("/v1/models/{name}:predict", guard(routes.predict), methods=["POST"]),
            Route("/v1/models/{name}", guard(routes.describe)),
            Route("/{job}/predict", guard(routes.predict_for_sedna), methods=["POST"]),
        ],
        exception_handlers={HTTPException: _refuse},
    )


class _Routes:
    def __init__(self, model: CloudModel, metrics: CloudMetrics, rules: Rules) -> None:
        self._model, self._metrics, self._rules = model, metrics, rules

    def guarded(self, endpoint: Endpoint) -> Endpoint:
        """An endpoint that answers those who bring the token."""

        @wraps(endpoint)
        async def check(request: Request) -> Response:
            kind, _, given = request.headers.get("authorization", "").partition(" ")
            token = self._rules.token
            if token and not (kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())):
                message = (
                    "the token is wrong" if given else "token required: send the header Authorization: Bearer TOKEN"
                )
                raise HTTPException(401, message, {"WWW-Authenticate": "Bearer"})
            return await endpoint(request)

        return check

    async def live(self, _: Request) -> Response:
        stuck = self._model.stuck
        return JSONResponse({"live": not stuck}, 503 if stuck else 200)

    async def ready(self, _: Request) -> Response:
        ready = self._model.model is not None
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def model_ready(self, request: Request) -> Response:
        self._check_name(request)
        return await self.ready(request)

    async def show_metrics(self, _: Request) -> Response:
        return Response(generate_latest(self._metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def models(self, _: Request) -> Response:
        return JSONResponse({"models": [self._rules.name]})

    async def describe(self, request: Request) -> Response:
        self._check_name(request)
        model = self._model.model
        if model is None:
            return JSONResponse({"name": self._rules.name, "ready": False}, 503)
        return JSONResponse(
            {"name": self._rules.name, "ready": True, "version": model.version, "digest": model.cached.digest,
             "classes": list(model.detector.bundle.classes)}
        )  # fmt: skip

    async def predict(self, request: Request) -> Response:
        self._check_name(request)
        answer = await self._counted(request, (JPEG, PNG), self._rules.limits, decode_image)
        return Response(answer.encode(), media_type=JSON)

    async def predict_for_sedna(self, request: Request) -> Response:
        limits = Limits(JSON_FACTOR * self._rules.limits.max_bytes, self._rules.limits.max_pixels)
        read = _read_zipped if request.headers.get("content-encoding", "").strip().lower() == GZIP else read_sedna
        answer = await self._counted(request, (JSON,), limits, read)
        return Response(answer.for_sedna(), media_type=JSON)

    def _check_name(self, request: Request) -> None:
        name = request.path_params["name"]
        if name != self._rules.name:
            raise HTTPException(404, f"unknown model {name!r}: this server has {self._rules.name!r}")

    async def _counted(
        self, request: Request, types: tuple[str, ...], limits: Limits, read: Callable[[bytes, Limits], ImageArray]
    ) -> Answer:
        """An answer, with every request in the metrics, whatever comes of it."""
        started, body = time.monotonic(), bytearray()
        code = 500
        try:
            answer = await self._answer(request, types, limits, read, body)
            code = 200
            return answer
        except HTTPException as error:
            code = error.status_code
            raise
        except ClientDisconnect:
            code = _DISCONNECTED
            raise HTTPException(_DISCONNECTED, "the client disconnected") from None
        finally:
            self._metrics.count_request(code, len(body))
            self._metrics.answered.observe(time.monotonic() - started)

    async def _answer(
        self, request: Request, types: tuple[str, ...], limits: Limits, read: Callable[[bytes, Limits], ImageArray],
        body: bytearray,
    ) -> Answer:  # fmt: skip
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in types:
            raise HTTPException(415, f"Content-Type {kind!r}: send {' or '.join(types)}")
        encoding = request.headers.get("content-encoding")
        if encoding is not None and read is not _read_zipped:
            allowed = f"{GZIP} or nothing" if JSON in types else "nothing, since images are compressed already"
            raise HTTPException(415, f"Content-Encoding {encoding!r}: send {allowed}")
        deadline_s = self._deadline(request)
        try:
            with self._model.place():
                async with asyncio.timeout(deadline_s):
                    await _receive(request, body, limits.max_bytes)
                    return await self._model.answer(lambda: read(bytes(body), limits))
        except TooLargeError as error:
            raise HTTPException(413, str(error)) from None
        except InputError as error:
            raise HTTPException(400, str(error)) from None
        except BusyError as error:
            raise HTTPException(503, str(error), {"Retry-After": str(error.retry_after_s)}) from None
        except TimeoutError:
            raise HTTPException(504, f"no result within {deadline_s:g} s") from None
        except FailedInferenceError as error:
            log.warning("%s", error)
            raise HTTPException(500, str(error)) from None

    def _deadline(self, request: Request) -> float:
        """Seconds that a request may take."""
        asked = request.headers.get(TIMEOUT_HEADER)
        if asked is None:
            return self._rules.deadline_s
        if not asked.isdecimal() or not 0 < int(asked) <= 3_600_000:
            raise HTTPException(400, f"{TIMEOUT_HEADER} {asked!r}: send milliseconds, 1 to 3600000")
        return min(int(asked) / 1000, self._rules.deadline_s)


def _read_zipped(body: bytes, limits: Limits) -> ImageArray:
    return read_sedna(unzipped(body, limits), limits)


async def _receive(request: Request, body: bytearray, max_bytes: int) -> None:
    """Read a body, as far as it may go."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise TooLargeError(
            f"the body has {announced} bytes, but at most {max_bytes} are allowed: send a smaller image"
        )
    async for chunk in request.stream():
        if len(body) + len(chunk) > max_bytes:
            raise TooLargeError(f"the body exceeds the limit of {max_bytes} bytes: send a smaller image")
        body += chunk


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)
