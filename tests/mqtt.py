"""A small MQTT 3.1.1 broker for tests: takes messages of QoS 1 and confirms them."""

import socketserver
import struct
import threading


class Broker:
    """Listens until it is closed; ``messages`` are the topics and payloads that came, ``logins`` who connected.

    With ``refusal`` a connection is answered with that code, such as 5 for a wrong password, and closed.
    """

    def __init__(self, port=0, confirm=True, refusal=0):
        self.messages, self.logins, self.confirm, self.refusal = [], [], confirm, refusal
        self._server = _Server(("127.0.0.1", port), _Session)
        self._server.broker = self
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
    block_on_close = False


class _Session(socketserver.StreamRequestHandler):
    def handle(self):
        broker = self.server.broker
        while head := self.rfile.read(1):
            body = self.rfile.read(self._length())
            kind = head[0] >> 4
            if kind == 1:  # CONNECT: name, level, flags, keep-alive, then texts
                broker.logins.append([text.decode() for text in _texts(body[10:])][1:])
                self.wfile.write(bytes([0x20, 2, 0, broker.refusal]))
                if broker.refusal:
                    return
            elif kind == 3:  # PUBLISH
                (size,) = struct.unpack("!H", body[:2])
                topic, number = body[2 : 2 + size].decode(), body[2 + size : 4 + size]
                broker.messages.append((topic, body[4 + size :].decode()))
                if broker.confirm:
                    self.wfile.write(b"\x40\x02" + number)
            elif kind == 12:  # PINGREQ
                self.wfile.write(b"\xd0\x00")

    def _length(self):
        value, shift = 0, 0
        while True:
            byte = self.rfile.read(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value


def _texts(data):
    while data:
        (size,) = struct.unpack("!H", data[:2])
        yield data[2 : 2 + size]
        data = data[2 + size :]
