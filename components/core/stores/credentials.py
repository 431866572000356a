"""Who this machine is to an S3 store: keys from the environment or a profile, or a role."""

from __future__ import annotations

import configparser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import urllib3
from minio.credentials import (
    Credentials,
    IamAwsProvider,
    Provider,
    StaticProvider,
    WebIdentityProvider,
)
from typing_extensions import override
from urllib3.exceptions import HTTPError

from components.core.errors import InputError, OutOfReachError
from components.core.stores.addresses import shown
from components.core.stores.connections import open_pool, reason_of
from components.core.stores.settings import setting

_METADATA_SECONDS = 2.0  # machines without a role get no answer
_FAULTS = (ValueError, LookupError, AttributeError, TypeError, OSError, HTTPError, ElementTree.ParseError)


def find_credentials(uri: str) -> Provider:
    """Keys for a store, renewed in time where they end.

    Looked for in this order: ``AWS_ACCESS_KEY_ID`` and ``AWS_SECRET_ACCESS_KEY``; the profile that ``AWS_PROFILE``
    names; the role of ``AWS_WEB_IDENTITY_TOKEN_FILE`` (a Kubernetes service account's) at ``AWS_ENDPOINT_URL_STS``; the
    role of a container (``AWS_CONTAINER_CREDENTIALS_FULL_URI``); the default profile of the AWS credentials file; the
    role of a machine of AWS.

    Args:
        uri: of the store, for messages.

    Raises:
        InputError: there are none, or they cannot be had; the message says what failed.
    """
    try:
        found = _found()
    except InputError as error:
        raise InputError(f"{uri}: {error}") from None
    provider = _Explained(
        found or IamAwsProvider(http_client=_Service("the machine's metadata service")), uri, bool(found)
    )
    provider.retrieve()
    return provider


def _found() -> Provider | None:
    key, secret = setting("AWS_ACCESS_KEY_ID"), setting("AWS_SECRET_ACCESS_KEY")
    if key and secret:
        return StaticProvider(key, secret, setting("AWS_SESSION_TOKEN") or None)
    if key or secret:
        missing = "AWS_SECRET_ACCESS_KEY" if key else "AWS_ACCESS_KEY_ID"
        raise InputError(
            f"no S3 credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (now {missing} is missing), or, "
            "for a role, neither"
        )
    if profile := setting("AWS_PROFILE"):
        return _profile(profile)
    if setting("AWS_WEB_IDENTITY_TOKEN_FILE"):
        return _web_identity()
    if setting("AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"):
        if setting("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"):
            _token("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
        return IamAwsProvider(http_client=_Service("the container's credentials service"))
    return _profile("default") if _credentials_file().is_file() and "default" in _profiles() else None


def _credentials_file() -> Path:
    return Path(setting("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials").expanduser()


def _profiles() -> configparser.ConfigParser:
    file = _credentials_file()
    profiles = configparser.ConfigParser(interpolation=None)
    try:
        profiles.read_string(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; set AWS_SHARED_CREDENTIALS_FILE to another one") from None
    except (configparser.Error, UnicodeDecodeError, OSError):  # whose texts may show keys
        raise InputError(f"{file} is not a readable AWS credentials file") from None
    return profiles


def _profile(name: str) -> Provider:
    profiles = _profiles()
    if name not in profiles:
        known = ", ".join(profiles.sections()) or "none"
        raise InputError(f"AWS_PROFILE={name}: no such profile in {_credentials_file()}: choose from {known}")
    missing = [key for key in ("aws_access_key_id", "aws_secret_access_key") if not profiles[name].get(key, "").strip()]
    if missing:
        raise InputError(
            f"the profile {name!r} in {_credentials_file()} has no {missing[0]}: only profiles with keys can be used"
        )
    token = profiles[name].get("aws_session_token", "").strip()
    return StaticProvider(profiles[name]["aws_access_key_id"], profiles[name]["aws_secret_access_key"], token or None)


def _web_identity() -> Provider:
    endpoint = _sts_endpoint()
    if not setting("AWS_ROLE_ARN"):
        raise InputError("AWS_WEB_IDENTITY_TOKEN_FILE is set but AWS_ROLE_ARN is not: set the role")
    return WebIdentityProvider(
        jwt_provider_func=lambda: {"access_token": _token("AWS_WEB_IDENTITY_TOKEN_FILE"), "expires_in": "0"},
        sts_endpoint=endpoint,
        role_arn=setting("AWS_ROLE_ARN"),
        role_session_name=setting("AWS_ROLE_SESSION_NAME") or None,
        http_client=_Service("STS", endpoint),
    )


def _sts_endpoint() -> str:
    """The server's own STS, where a store other than AWS has one, or AWS's in the region."""
    general = setting("AWS_ENDPOINT_URL")
    if named := setting("AWS_ENDPOINT_URL_STS") or ("" if "amazonaws.com" in general else general):
        return named.rstrip("/")
    region = setting("AWS_REGION", "AWS_DEFAULT_REGION")
    host = f"sts.{region}.amazonaws.com" if region else "sts.amazonaws.com"
    return f"https://{host}.cn" if region.startswith("cn-") else f"https://{host}"


def _token(variable: str) -> str:
    path = Path(setting(variable))
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InputError(f"{variable}={path}: cannot be read ({reason})") from None
    if not token:
        raise InputError(f"{variable}={path}: the file is empty: check the projected token")
    return token


class _Service:
    """Asks one of the services that hand out keys, as the client of the library's providers.

    The library puts the token into the address, where logs of servers would keep it; here it goes into the body.
    """

    def __init__(self, name: str, endpoint: str = "") -> None:
        self._name = name
        self._pool: Any = (
            open_pool(endpoint) if endpoint else urllib3.PoolManager(timeout=_METADATA_SECONDS, retries=False)
        )

    def urlopen(self, method: str, url: str, body: Any = None, headers: Any = None) -> urllib3.BaseHTTPResponse:
        address, _, query = url.partition("?")
        sent = {name: value.strip() for name, value in (headers or {}).items()}
        if method == "POST" and query:
            url, body, sent = address, query, sent | {"Content-Type": "application/x-www-form-urlencoded"}
        try:
            answer: urllib3.BaseHTTPResponse = self._pool.urlopen(method, url, body=body, headers=sent)
        except HTTPError as error:
            raise OutOfReachError(f"{self._name} at {shown(address)} cannot be reached ({reason_of(error)})") from None
        if answer.status != 200:
            said = " ".join(
                part.text.strip()
                for part in _elements(answer.data)
                if part.tag.rpartition("}")[2] in ("Code", "Message") and part.text
            )
            raise InputError(
                f"{self._name} at {shown(address)} refused the request "
                f"(HTTP {answer.status}{': ' if said else ''}{said})"
            )
        return answer


def _elements(data: bytes) -> list[ElementTree.Element]:
    try:
        return list(ElementTree.fromstring(data).iter())
    except ElementTree.ParseError:
        return []


class _Explained(Provider):  # type: ignore[misc]  # minio does not export its types
    """Keys from another provider, whose failures become one line without secrets."""

    def __init__(self, provider: Provider, uri: str, is_configured: bool) -> None:
        self._provider, self._uri, self._is_configured = provider, uri, is_configured

    @override
    def retrieve(self) -> Credentials:
        try:
            return self._provider.retrieve()
        except (InputError, *_FAULTS) as error:
            if not self._is_configured:
                raise InputError(
                    f"{self._uri}: no S3 credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
                    "(and AWS_ENDPOINT_URL_S3 for a server other than AWS), or give this machine a role"
                ) from None
            if isinstance(error, InputError):
                raise InputError(f"{self._uri}: {error}") from None
            raise InputError(f"{self._uri}: the credentials service gave an invalid answer") from None
