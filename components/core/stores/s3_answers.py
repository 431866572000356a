"""What a server answers that is asked as S3: whether it is S3 at all, and what a refusal means."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self
from xml.etree import ElementTree

import urllib3

from components.core.errors import InputError, OutOfReachError
from components.core.redaction import redacted
from components.core.stores.addresses import shown
from components.core.stores.base import not_found
from components.core.stores.connections import BusyError
from components.core.stores.settings import setting

ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")

_PAGES = {"text/html", "application/xhtml+xml"}
_ROOTS = re.compile(
    rb"^\s*(<\?xml[^>]*\?>)?\s*<(\w+:)?"
    rb"(List\w*Result|LocationConstraint|(Initiate|Complete)MultipartUploadResult|Copy\w+Result|Error)\b"
)
_LATE = re.compile(rb"^\s*(?:<\?xml[^>]*\?>)?\s*<Error[\s>].*?<Code>(\w+)</Code>", re.DOTALL)
_OF_ANOTHER_REGION = {
    "AuthorizationHeaderMalformed",
    "AuthorizationQueryParametersError",
    "IllegalLocationConstraintException",
    "PermanentRedirect",
}
_LONGEST_MESSAGE = 200
_FULL = re.compile(r"Quota|StorageFull|InsufficientStorage|NoSpace")
STORAGE_FULL = 507
MAKE_ROOM = "free space, or raise its quota"


class NotS3Error(Exception):
    """What answers is not S3; the message says so, and what it is as far as that can be seen."""

    def __init__(self, answer: urllib3.BaseHTTPResponse | None, details: str = "", text: bytes = b"") -> None:
        if answer is not None:
            kind = answer.headers.get("Content-Type", "").partition(";")[0].strip()
            said = redacted(" ".join(text[:300].decode(errors="replace").split())) if kind == "text/plain" else ""
            details = ", ".join(part for part in (f"HTTP {answer.status}", kind, server_of(answer), said) if part)
        if answer is not None and answer.status == 413:
            super().__init__(f"a proxy in front of the store rejects bodies of this size ({details}): raise its limit")
        else:
            super().__init__(
                f"the server at AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL is not S3 ({shown_endpoint()}: {details}): "
                "correct the address, or log in to the network if this is its login page"
            )


def check_is_s3(method: str, answer: urllib3.BaseHTTPResponse, is_read: bool) -> None:
    """See that an answer is one of S3, and not the login page of a network or another server's page.

    Args:
        method: of the request.
        answer: to it.
        is_read: whether its body has been read; one that is still to come is not looked at.

    Raises:
        NotS3Error: it is not.
        BusyError: it is an error of S3 under the status of a success, which S3 gives where one comes up late.
    """
    if is_read and answer.status == 200 and "ETag" not in answer.headers and (late := _LATE.search(answer.data[:2000])):
        raise BusyError(answer, late[1].decode())
    if any(name.lower().startswith(("x-amz-", "x-goog-")) for name in answer.headers):
        return
    if not _has_the_form(method, answer, is_read):
        raise NotS3Error(answer, text=answer.data if is_read else b"")


def shown_endpoint() -> str:
    """The address of the S3 server, for messages."""
    return shown(setting(*ENDPOINT_VARIABLES) or "https://s3.amazonaws.com")


def server_of(answer: urllib3.BaseHTTPResponse) -> str:
    """What the server says it is, such as ``SeaweedFS 4.18``."""
    return " ".join(answer.headers.get("Server", "").split())[:60]


@dataclass(frozen=True)
class Refusal:
    """Why a request was refused.

    Attributes:
        status: of HTTP.
        code: S3's word for it.
        message: the server's own sentence; empty if it has none.
        region: where the bucket is, if the server says so.
    """

    status: int
    code: str
    message: str = ""
    region: str = ""

    @classmethod
    def of(cls, answer: urllib3.BaseHTTPResponse, code: str = "") -> Self:
        """What an answer says; ``code`` is what is known where it has no body, as that to a HEAD.

        Raises:
            NotS3Error: it is no answer of S3.
        """
        said: dict[str, str] = {}
        if answer.data:
            try:
                said = {
                    part.tag.rpartition("}")[2]: part.text or "" for part in ElementTree.fromstring(answer.data).iter()
                }
            except ElementTree.ParseError:
                raise NotS3Error(answer) from None
        message = redacted(" ".join(said.get("Message", "").split()))[:_LONGEST_MESSAGE]
        expected = re.search(r"expecting '([\w-]+)'", message)
        region = (
            answer.headers.get("x-amz-bucket-region") or said.get("Region") or (expected.group(1) if expected else "")
        )
        return cls(answer.status, said.get("Code") or code or answer.reason or "", message, region)

    @property
    def says_nothing(self) -> bool:
        """Whether another request for the same, with a body in its answer, would say more."""
        return not self.message and self.status in (301, 307, 400, 401, 403)

    def error(self, uri: str, needs: str) -> InputError:
        """The error to raise.

        Args:
            uri: what was asked for.
            needs: the permissions that the request takes.
        """
        said = f"; the server says: {self.message}" if self.message else ""
        if self.status == 404:
            no_bucket = InputError(f"{uri}: no such bucket: create it, or correct the name")
            return no_bucket if self.code == "NoSuchBucket" else not_found(uri)
        if self.code == "RequestTimeTooSkewed":
            return InputError(
                f"{uri}: access denied, because this machine's clock differs from the server's: set the clock"
            )
        ours = setting("AWS_REGION", "AWS_DEFAULT_REGION")
        if self.code in _OF_ANOTHER_REGION or (self.region and self.region != ours and self.status in (301, 307, 400)):
            advice = f"set AWS_REGION={self.region}" if self.region else "correct it, or AWS_ENDPOINT_URL"
            return InputError(
                f"{uri}: AWS_REGION is {ours or 'not set'}, but the bucket is in another region "
                f"({self.code}): {advice}{said}"
            )
        if _FULL.search(self.code):
            return OutOfReachError(f"{uri}: the store is full ({self.code}): {MAKE_ROOM}{said}")
        if self.status in (401, 403) or "Token" in self.code:
            return InputError(
                f"{uri}: access denied ({self.code}): check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and "
                f"AWS_SESSION_TOKEN, and that they allow {needs}{said}"
            )
        kind = OutOfReachError if self.status == 429 or self.status >= 500 else InputError
        return kind(f"{uri}: the S3 server refused the request (HTTP {self.status}, {self.code}){said}")


def _has_the_form(method: str, answer: urllib3.BaseHTTPResponse, is_read: bool) -> bool:
    kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    is_good = answer.status in (200, 206)
    if answer.status == 204:
        return method == "DELETE"
    if is_good and "ETag" in answer.headers:
        return kind not in _PAGES
    if kind not in ("", "application/xml", "text/xml"):
        return False
    if method == "HEAD":
        return True
    return _ROOTS.match(answer.data[:1000]) is not None if is_read else not is_good
