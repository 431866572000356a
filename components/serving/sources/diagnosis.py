"""Why a camera on the network gives no image: OpenCV says only that it does not, so the camera itself is asked."""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
import urllib.request
from base64 import b64encode
from urllib.parse import SplitResult, unquote, urlsplit

from components.core.errors import InputError
from components.core.stores import web
from components.core.stores.addresses import is_web

SECONDS = 5.0  # at most, for the connection and for each answer
_LONGEST_ANSWER = 64 << 10
_PORTS = {"rtsp": 554, "rtsps": 322, "rtmp": 1935, "rtmps": 443}


def why_silent(address: str, timeout_s: float = SECONDS) -> str:
    """Ask a camera why it gives no image.

    Args:
        address: such as ``rtsp://user:password@camera/stream``.
        timeout_s: for the connection, and for each answer.

    Returns:
        One clause without user and password; empty where the camera gives no reason.
    """
    try:
        parts = urlsplit(address)
        port = parts.port or _PORTS.get(parts.scheme.lower(), 0)
    except ValueError:
        return "the address is not valid: write / and @ in passwords as %2F and %40"
    if is_web(address):
        return _why_no_page(address)
    if not parts.hostname or parts.scheme.lower() not in _PORTS:  # udp:// and the like: there is no server to ask
        return ""
    return _why_no_stream(parts, (parts.hostname, port), timeout_s)


def _why_no_stream(parts: SplitResult, server: tuple[str, int], timeout_s: float) -> str:
    host, port = server
    try:
        return _ask(parts, server, timeout_s)
    except socket.gaierror:
        return f"the name {host} is unknown: check the address and the network"
    except TimeoutError:
        return f"{host} does not answer on port {port}: check the address and that the camera is on"
    except ConnectionRefusedError:
        return f"{host} refuses connections on port {port}: check the port and that its streaming is on"
    except (OSError, ValueError) as error:
        return f"{host} cannot be reached on port {port} ({error})"


def _why_no_page(address: str) -> str:
    try:
        web.check(address)
    except InputError as error:
        return str(error).partition(": ")[2]
    return ""


def _ask(parts: SplitResult, server: tuple[str, int], timeout_s: float) -> str:
    with socket.create_connection(server, timeout_s) as connection:
        if parts.scheme.lower() == "rtsps":
            with _any_certificate().wrap_socket(connection, server_hostname=server[0]) as secure:
                return _describe(secure, parts)
        return _describe(connection, parts) if parts.scheme.lower() == "rtsp" else ""


def _describe(connection: socket.socket, parts: SplitResult) -> str:
    """What the camera answers to a request for the stream's description; empty where it gives that."""
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    target = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    head = _exchange(connection, [f"DESCRIBE {target} RTSP/1.0", "CSeq: 1"])
    code = _code(head)
    if code == 401 and user:
        login = _login(head, target, user, password)
        code = _code(_exchange(connection, [f"DESCRIBE {target} RTSP/1.0", "CSeq: 2", f"Authorization: {login}"]))
        if code in (401, 403):
            return f"the camera refuses this user and password ({code})"
    if code in (401, 403):
        return f"the camera asks for a user and password ({code}): write {parts.scheme}://USER:PASSWORD@..."
    if code == 404:
        return "the camera has no stream at this path (404): look the path up in its manual"
    return f"the camera refuses the stream ({code})" if code >= 400 else ""


def _exchange(connection: socket.socket, lines: list[str]) -> str:
    """Send a request; the head of the answer."""
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    answer = b""
    while b"\r\n\r\n" not in answer and len(answer) < _LONGEST_ANSWER and (more := connection.recv(4096)):
        answer += more
    return answer.partition(b"\r\n\r\n")[0].decode("latin-1")


def _code(head: str) -> int:
    found = re.match(r"RTSP/\d\.\d (\d{3})", head)
    if not found:
        raise ValueError("the server does not speak RTSP")
    return int(found[1])


def _login(head: str, target: str, user: str, password: str) -> str:
    """The value of the Authorization header that the camera asks for (RFC 2617, without ``qop``, as cameras do)."""
    offers = re.findall(r"(?im)^www-authenticate:\s*digest\s+(.+?)\s*$", head)
    if not offers:
        return "Basic " + b64encode(f"{user}:{password}".encode()).decode()
    asked = urllib.request.parse_keqv_list(urllib.request.parse_http_list(offers[0]))
    realm, nonce = asked.get("realm", ""), asked.get("nonce", "")
    response = _md5(f"{_md5(f'{user}:{realm}:{password}')}:{nonce}:{_md5(f'DESCRIBE:{target}')}")
    return f'Digest username="{user}", realm="{realm}", nonce="{nonce}", uri="{target}", response="{response}"'


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _any_certificate() -> ssl.SSLContext:
    """Cameras sign their own certificates; FFmpeg, which is to read the stream, takes them, too."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
