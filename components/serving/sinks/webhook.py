"""Detections as JSON, posted to an address of the web."""

from __future__ import annotations

import json

import urllib3
from urllib3.exceptions import HTTPError

from components.core.errors import InputError
from components.core.stores.addresses import is_web, shown
from components.core.stores.connections import open_pool, reason_of
from components.serving.sinks.base import Result, sinks

SECONDS = 5.0  # for one answer


@sinks.register("webhook")
class Webhook:
    """One POST a frame, ``application/json``; any answer of 200 to 299 counts as taken.

    Args:
        target: an ``http://`` or ``https://`` address; user and password in it are sent as Basic authentication.

    Raises:
        InputError: an address of another kind.
    """

    needs_image, takes_masks = False, True

    def __init__(self, target: str) -> None:
        if not is_web(target):
            raise InputError(f"sink webhook:{shown(target)}: give an address, http://... or https://...")
        self._name = shown(target)
        try:
            login = urllib3.util.parse_url(target)
        except HTTPError as error:
            raise InputError(f"sink webhook:{self._name}: not a valid address") from error
        self._url = login._replace(auth=None).url
        self._headers = {"Content-Type": "application/json"}
        if login.auth:
            self._headers |= urllib3.make_headers(basic_auth=login.auth)
        self._pool = open_pool(self._url)

    def write(self, result: Result) -> None:
        """Post one result.

        Raises:
            InputError: the server cannot be reached or did not take it.
        """
        body = json.dumps(result.record()).encode()
        try:
            answer = self._pool.once("POST", self._url, body=body, headers=self._headers, timeout=SECONDS)
        except HTTPError as error:
            raise InputError(f"{self._name}: {reason_of(error)}") from error
        if not 200 <= answer.status < 300:
            raise InputError(f"{self._name}: the server answered HTTP {answer.status} {answer.reason or ''}".rstrip())

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()
