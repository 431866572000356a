"""A small RTSP camera for tests: JPEG over RTP (RFC 2435) inside the RTSP connection, with the faults cameras have."""

from __future__ import annotations

import contextlib
import re
import socketserver
import struct
import threading
import time

import cv2
import numpy as np

CLOCK_HZ = 90_000
PACKET_BYTES = 1400


class Camera:
    """Serves images at ``url``, over and over, until it is closed.

    Args:
        images: (H, W, 3) RGB each, of one size whose sides are multiples of 8.
        fps: images per second.
        drop_after: images until a connection is closed, over and over; None never.
        silent_after: images until nothing comes any more, though the connection stays; None never.
    """

    def __init__(self, images, *, fps=30.0, drop_after=None, silent_after=None):
        self.frames = [_as_rtp(image) for image in images]
        self.size = images[0].shape[:2]
        self.fps, self.drop_after, self.silent_after = fps, drop_after, silent_after
        self.connections = 0
        self.closed = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Session)
        self._server.camera = self
        self.url = f"rtsp://127.0.0.1:{self._server.server_address[1]}/cam"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closed.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
    block_on_close = False


class _Session(socketserver.StreamRequestHandler):
    def handle(self):
        camera = self.server.camera
        camera.connections += 1
        with contextlib.suppress(OSError):
            while request := self._request():
                method, number = request
                self._answer(method, number)
                if method == "PLAY":
                    self._play(camera)
                    return

    def _request(self):
        lines = []
        while line := self.rfile.readline().decode().strip():
            lines.append(line)
        if not lines:
            return None
        number = re.search(r"CSeq: (\d+)", "\n".join(lines), re.IGNORECASE).group(1)
        self.udp = any("transport:" in line.lower() and "interleaved" not in line for line in lines)
        return lines[0].split()[0], number

    def _answer(self, method, number):
        body, extra, status = "", "", "200 OK"
        if method == "OPTIONS":
            extra = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
        elif method == "DESCRIBE":
            body = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 26\r\na=control:one\r\n"
            extra = "Content-Type: application/sdp\r\n"
        elif method == "SETUP" and self.udp:
            status = "461 Unsupported Transport"
        elif method == "SETUP":
            extra = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
        elif method == "PLAY":
            extra = "Session: 1\r\n"
        head = f"RTSP/1.0 {status}\r\nCSeq: {number}\r\n{extra}Content-Length: {len(body)}\r\n\r\n"
        self.wfile.write((head + body).encode())

    def _play(self, camera):
        sequence = 0
        for index in range(1 << 30):
            if camera.closed.is_set() or index == camera.drop_after:
                return
            if index == camera.silent_after:
                camera.closed.wait()
                return
            packets = camera.frames[index % len(camera.frames)]
            for place, payload in enumerate(packets):
                marker = 0x80 if place == len(packets) - 1 else 0
                stamp = int(index * CLOCK_HZ / camera.fps) & 0xFFFFFFFF
                packet = struct.pack("!BBHII", 0x80, marker | 26, sequence & 0xFFFF, stamp, 1) + payload
                self.wfile.write(struct.pack("!cBH", b"$", 0, len(packet)) + packet)
                sequence += 1
            time.sleep(1 / camera.fps)


def _as_rtp(image: np.ndarray) -> list[bytes]:
    """One image as RTP payloads: the header of RFC 2435, the tables in the first, and the scan."""
    data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    tables, scan = _tables(data), data[data.index(b"\xff\xda") :]
    scan = scan[2 + int.from_bytes(scan[2:4], "big") :]
    payloads = []
    for offset in range(0, len(scan), PACKET_BYTES):
        head = struct.pack("!IBBBB", offset, 1, 255, image.shape[1] // 8, image.shape[0] // 8)
        if offset == 0:
            head += struct.pack("!BBH", 0, 0, len(tables)) + tables
        payloads.append(head + scan[offset : offset + PACKET_BYTES])
    return payloads


def _tables(data: bytes) -> bytes:
    """The quantisation tables of a JPEG, 64 bytes each."""
    tables, place = b"", 2
    while data[place + 1] != 0xDA:
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        if data[place + 1] == 0xDB:
            segment = data[place + 4 : place + 2 + length]
            tables += b"".join(segment[start + 1 : start + 65] for start in range(0, len(segment), 65))
        place += 2 + length
    return tables
