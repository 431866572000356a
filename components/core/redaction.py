"""Keeps credentials out of everything that this process prints.

What counts as one: the values of environment variables whose names say so (``AWS_SECRET_ACCESS_KEY``,
``KF_PIPELINES_TOKEN``, ...), passwords in the addresses of proxies, user and password and query of any address
(presigned ones have a signature there), and what headers, tokens and keys look like, wherever they stand.
"""

from __future__ import annotations

import base64
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import TracebackType
from typing import Any, TextIO, cast
from urllib.parse import quote, quote_plus, unquote, urlsplit

HIDDEN = "***"

_SHORTEST = 6  # characters of a value that is looked for; shorter ones stand in ordinary words
_SECRET_NAMES = re.compile(r"(SECRET|TOKEN|PASSWORD|PASSWD|COOKIE|CREDENTIAL|ACCESS_KEY|API_?KEY|AUTHORIZATION)", re.I)
_PLACES = re.compile(r"(_FILE|_PATH|_DIR|_URI|_URL|_ENDPOINT|_NAME)$", re.I)  # which say where a secret is

# Bounds on lengths keep the time that a long line takes in proportion to its length.
_SCHEME = r"(?<![a-z0-9+.-])([a-z][a-z0-9+.-]{0,30}://)"

_PATTERNS = tuple(
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), replacement)
    for pattern, replacement in (
        (r"-----BEGIN ([A-Z ]*)PRIVATE KEY-----.*?(-----END \1PRIVATE KEY-----|$)", HIDDEN),
        # user, user:password and token before the @ of an address; a password may hold a slash or another @
        (
            rf"{_SCHEME}(?<!\bs3://)(?<!\bfile://)"
            r"([^\s'\"<>@/?#]{1,2000}|[^\s'\"<>@/:]{0,200}:[^\s'\"<>]{0,2000})@",
            rf"\1{HIDDEN}@",
        ),
        (r"\b((?:s3|file)://)[^\s'\"<>@/]{1,2000}@", rf"\1{HIDDEN}@"),
        (rf"({_SCHEME}[^\s'\"<>?]{{0,2000}}\?)[^\s'\"<>=]{{0,2000}}=[^\s'\"<>]*", r"\1..."),
        (
            r"\b((?:proxy-)?authorization|(?:set-)?cookie|x-amz-security-token|x-auth-token|x-api-key)"
            r"(['\"]?\s*[:=]\s*(?:b(?=['\"]))?['\"]?)[^'\"\r\n]+",
            rf"\1\2{HIDDEN}",
        ),
        (
            r"\b(x-amz-(?:signature|credential|security-token)|signature|credential|awsaccesskeyid|(?:access_|id_)?token"
            r"|webidentitytoken|sig)(=)[^\s&'\"<>;,]+",
            rf"\1\2{HIDDEN}",
        ),
        (r"\b(password|passwd|user-pw|proxy-pw|api_?key)(['\"]?\s*[:=]\s*['\"]?)[^\s&'\"<>;,]+", rf"\1\2{HIDDEN}"),
        (
            r"\b(?-i:([A-Z0-9_]*(?:SECRET|TOKEN|PASSWORD|ACCESS_KEY)(?:_ID|_KEY)?)(=|['\"]\s*[:=,]\s*['\"]))[^\s&'\"<>;,]+",
            rf"\1\2{HIDDEN}",
        ),
        (r"\b(bearer\s+)[a-z0-9._~+/=-]{16,}", rf"\1{HIDDEN}"),
        (r"\beyJ[\w-]{8,5000}\.[\w-]{8,5000}(\.[\w-]*)?", HIDDEN),
    )
)


def redacted(text: str) -> str:
    """A text without the credentials that are in it; what UTF-8 has no bytes for, as in odd file names, is escaped."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    secrets = _secrets_of(tuple(sorted(_secret_values())))
    text = secrets.sub(HIDDEN, text) if secrets else text
    if not any(mark in text for mark in ("://", "=", ":", "eyJ", "earer", "PRIVATE KEY")):
        return text
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


@contextmanager
def redacted_output() -> Iterator[None]:
    """Send what is printed through :func:`redacted`, and also tracebacks that end the process later."""
    sys.excepthook = _print_redacted
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, _Redacting(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class _Redacting:
    """A stream that passes on what is written, without credentials; what it cannot encode is escaped."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._stream.write(redacted(text).encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _print_redacted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stderr.write(redacted("".join(traceback.format_exception(kind, error, trace))))
    sys.stderr.flush()


def _secret_values() -> Iterator[str]:
    for name, value in os.environ.items():
        if _SECRET_NAMES.search(name) and not _PLACES.search(name):
            yield value.strip()
        elif name.lower().endswith("_proxy") and "@" in value:
            yield urlsplit(value).netloc.rpartition("@")[0].partition(":")[2]


@lru_cache(maxsize=8)
def _secrets_of(values: tuple[str, ...]) -> re.Pattern[str] | None:
    """Finds the values in every form in which a message may hold them."""
    forms = {
        form
        for value in values
        for plain in (value, unquote(value))
        if len(plain) >= _SHORTEST
        for form in (
            plain,
            repr(plain)[1:-1],
            quote(plain, safe=""),
            quote_plus(plain),
            base64.b64encode(plain.encode()).decode().rstrip("="),
        )
    }
    return re.compile("|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))) if forms else None
