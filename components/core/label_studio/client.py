"""Label Studio's HTTP API, as far as the hand-off needs it (https://api.labelstud.io, written for 1.23).

The token comes from the environment variable ``LABEL_STUDIO_API_KEY``: a personal access token, with which short-lived
access tokens are fetched, or a legacy token. It is never in a parameter, an artifact or a message.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode, urlsplit

from urllib3 import BaseHTTPResponse, Timeout
from urllib3.exceptions import HTTPError

from components.core.errors import InputError, NotFoundError, OutOfReachError
from components.core.stores.connections import BusyError, open_pool, reason_of, tls_trouble
from components.core.stores.settings import setting

TOKEN_VARIABLE = "LABEL_STUDIO_API_KEY"
MAX_ANSWER_BYTES = 256 << 20
PAGE = 500  # tasks in one answer: with all their boxes some megabytes, which take the server seconds
PAGE_OF_MASKS = 25  # a mask may have some hundred kilobytes
_SECONDS = Timeout(connect=10.0, read=60.0)
_TRIES = 2
_LONGEST_PAUSE_SECONDS = 30.0  # that a server may ask for before the second try

log = logging.getLogger(__name__)


class LabelStudio:
    """One server, and who asks it.

    Args:
        url: its address, such as ``http://label-studio:8080``, perhaps with a path before ``/api``.
        token: a personal access token or a legacy token.

    Raises:
        InputError: not such an address, or no token.
    """

    def __init__(self, url: str, token: str) -> None:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise InputError(f"label_studio_url={url!r} must be an address such as http://label-studio:8080")
        if not token:
            raise InputError(
                f"label_studio_url is given, but {TOKEN_VARIABLE} is not set: create a token on Label Studio's page "
                "'Account & Settings' and put it into the environment (on a cluster, into the secret store_secret)"
            )
        self.url = url.rstrip("/")
        self._token, self._access = token, ""
        self._pool = open_pool(url)

    @classmethod
    def from_environment(cls, url: str) -> LabelStudio:
        """A server, with the token of the environment."""
        return cls(url, setting(TOKEN_VARIABLE))

    def get(self, path: str, **query: object) -> Any:
        """Read one thing; tried again where the server does not answer.

        Args:
            path: such as ``/api/projects``.
            query: parameters; mappings are written as JSON.

        Raises:
            NotFoundError: it is not there.
            OutOfReachError: the server does not answer, or cannot now.
            InputError: the server refuses it, or is not Label Studio.
        """
        words = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in query.items()}
        return self._ask("GET", f"{path}?{urlencode(words)}" if words else path, None, _TRIES)

    def send(self, method: str, path: str, body: object) -> Any:
        """Change one thing, once: whether a request without an answer had an effect is not known. One that the server
        refused because there were too many (429) had none, and is tried again.

        Args:
            method: ``POST`` or ``PATCH``.
            path: such as ``/api/projects``.
            body: sent as JSON.

        Raises:
            InputError: as for ``get``.
        """
        return self._ask(method, path, json.dumps(body).encode(), 1)

    def delete(self, path: str) -> None:
        """Remove one thing; one that is not there is fine.

        Raises:
            InputError: as for ``get``.
        """
        try:
            self._ask("DELETE", path, None, _TRIES)
        except NotFoundError:
            log.debug("%s%s: was not there", self.url, path)

    def has(self, path: str) -> bool:
        """Whether the server gives something under a path, whatever it is.

        Raises:
            OutOfReachError: it does not answer.
            InputError: the token is refused.
        """
        return 200 <= self._answer("GET", path, None, _TRIES).status < 300

    def tasks(
        self, project: int, filters: Mapping[str, Any] | None = None, *, page_size: int = PAGE, **query: object
    ) -> Iterator[Any]:
        """The tasks of a project by their numbers, page by page.

        Args:
            project: its number.
            filters: of Label Studio's data manager; None: all tasks.
            page_size: how many to ask for at a time.
            query: further parameters, such as ``fields="all"``.

        Raises:
            InputError: as for ``get``.
        """
        view = {"ordering": ["tasks:id"], **({"filters": filters} if filters else {})}
        page = 1
        while True:
            try:
                found = self.get("/api/tasks", project=project, query=view, page=page, page_size=page_size, **query)
            except NotFoundError:
                if page == 1:
                    raise
                return  # the last page was full
            tasks = found.get("tasks")
            if not isinstance(tasks, list):
                raise self._no_api("the list of tasks is missing")
            yield from tasks
            if len(tasks) < page_size:
                return
            page += 1

    def _ask(self, method: str, path: str, body: bytes | None, tries: int) -> Any:
        return self._content(self._answer(method, path, body, tries), path)

    def _answer(self, method: str, path: str, body: bytes | None, tries: int) -> BaseHTTPResponse:
        answer = self._request(method, path, body, tries)
        if answer.status == 401 and self._is_personal:
            self._access = ""  # it has expired
            answer = self._request(method, path, body, tries)
        return answer

    @property
    def _is_personal(self) -> bool:
        """Whether the token is a personal access token, which is a JWT of three parts."""
        return self._token.count(".") == 2

    def _request(self, method: str, path: str, body: bytes | None, tries: int) -> BaseHTTPResponse:
        headers = {"Authorization": self._authorization(), "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        return self._once(method, path, body, headers, tries)

    def _authorization(self) -> str:
        if not self._is_personal:
            return f"Token {self._token}"
        if not self._access:
            body = json.dumps({"refresh": self._token}).encode()
            headers = {"Content-Type": "application/json"}
            found = self._content(self._once("POST", "/api/token/refresh", body, headers, _TRIES), "/api/token/refresh")
            self._access = str(found.get("access", ""))
        return f"Bearer {self._access}"

    def _once(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], tries: int
    ) -> BaseHTTPResponse:
        for left in reversed(range(_TRIES)):
            try:
                return self._pool.once(
                    method, f"{self.url}{path}", body=body, headers=dict(headers), redirect=False, timeout=_SECONDS
                )
            except HTTPError as error:
                if trouble := tls_trouble(error, "SSL_CERT_FILE"):
                    raise InputError(f"{self.url}: {trouble}") from error
                busy = error if isinstance(error, BusyError) else None
                is_limited = busy is not None and busy.status == HTTPStatus.TOO_MANY_REQUESTS  # nothing was done
                if left and (tries > 1 or is_limited):
                    time.sleep(min(busy.retry_after_s, _LONGEST_PAUSE_SECONDS) if busy else 0.0)
                    continue
                if is_limited:
                    advice = "it, or a proxy before it, limits requests"
                else:
                    advice = "see its log: its disk may be full" if busy else "check that it runs and the address"
                what = str(error) if busy else reason_of(error)
                raise OutOfReachError(f"{self.url}: Label Studio does not answer ({what}): {advice}") from error
        raise AssertionError("at least one try is made")

    def _content(self, answer: BaseHTTPResponse, path: str) -> Any:
        """What an answer says.

        Raises:
            InputError: it is a refusal, or not of Label Studio's API.
        """
        if len(answer.data) > MAX_ANSWER_BYTES:
            raise InputError(f"{self.url}{path}: the answer has more than {MAX_ANSWER_BYTES >> 20} MiB")
        if answer.status == 204:
            return None
        try:
            said = json.loads(answer.data)
        except (ValueError, RecursionError):
            raise self._no_api(f"{path} answers HTTP {answer.status} and no JSON") from None
        if 200 <= answer.status < 300:
            return said
        reason = _reason(said)
        if answer.status == 401:
            raise InputError(
                f"{self.url}: the token in {TOKEN_VARIABLE} is refused ({reason}): create a new one on Label Studio's "
                "page 'Account & Settings'"
            )
        if answer.status == 403:
            raise InputError(f"{self.url}: the user of {TOKEN_VARIABLE} may not do this ({reason})")
        if answer.status == 404:
            raise NotFoundError(f"{self.url}{path.partition('?')[0]}: {reason}")
        raise InputError(f"{self.url}{path.partition('?')[0]}: refused with HTTP {answer.status}: {reason}")

    def _no_api(self, why: str) -> InputError:
        return InputError(
            f"{self.url} is not the address of Label Studio's API ({why}): give the address of the server itself, such "
            "as http://label-studio:8080; a login page of a proxy may be in between"
        )


def _reason(said: Any) -> str:
    """Why the server refuses something, in one short line."""
    if not isinstance(said, dict):
        return "no reason given"
    problems = said.get("validation_errors")
    detail = json.dumps(problems, ensure_ascii=False) if problems else str(said.get("detail", "no reason given"))
    return " ".join(detail.split())[:500]
