"""Chromium without a window, driven through its DevTools protocol."""

import http.cookiejar
import json
import re
import shutil
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request
from contextlib import contextmanager

import websocket

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page:
    """One page.

    Args:
        address: of its DevTools.
    """

    def __init__(self, address):
        self._socket = websocket.create_connection(address, suppress_origin=True, timeout=60)
        self._number = 0

    def call(self, method, **parameters):
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            said = json.loads(self._socket.recv())
            if said.get("id") == self._number:
                return said["result"]

    def open(self, url, cookies=()):
        for cookie in cookies:
            self.call("Network.setCookie", name=cookie.name, value=cookie.value, url=url)
        self.call("Page.navigate", url=url)

    def value(self, expression):
        """What an expression of JavaScript is, through JSON."""
        said = self.call("Runtime.evaluate", expression=f"JSON.stringify({expression})")
        return json.loads(said["result"].get("value") or "null")

    def press(self, digit):
        """Press the key of a digit."""
        for kind, text in (("keyDown", digit), ("keyUp", "")):
            self.call("Input.dispatchKeyEvent", type=kind, key=digit, text=text, code=f"Digit{digit}",
                      windowsVirtualKeyCode=ord(digit))  # fmt: skip

    def drag(self, start, end, steps=10):
        """Press the mouse at a point, move it to another as slowly as a hand does, and let it go."""
        moves = [[a + (b - a) * step / steps for a, b in zip(start, end, strict=True)] for step in range(1, steps + 1)]
        for kind, (x, y) in [("mousePressed", start), *(("mouseMoved", at) for at in moves), ("mouseReleased", end)]:
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1,
                      buttons=int(kind != "mouseReleased"))  # fmt: skip
            time.sleep(0.05)

    def until(self, expression, seconds=120):
        """Wait until an expression is true, or not empty; its value then."""
        end = time.monotonic() + seconds
        while not (found := self.value(expression)):
            assert time.monotonic() < end, f"{expression} is still {found}: {self.value('document.body.innerText')}"
            time.sleep(0.5)
        return found

    def settled(self, expression):
        """What an expression is once it has been the same, and not empty, for some seconds."""
        seen = []
        while len(seen) < 4 or len({json.dumps(one) for one in seen[-4:]}) > 1:
            seen.append(self.until(expression))
            time.sleep(1)
        return seen[-1]


@contextmanager
def browser():
    """A page of a browser of its own."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [PROGRAM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                   "--remote-debugging-port=0", f"--user-data-dir={folder}", "--window-size=1400,1000",
                   "about:blank"]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            found = next(filter(None, (re.search(r"listening on ws://([^/]+)/", line) for line in process.stderr)))
            with urllib.request.urlopen(f"http://{found[1]}/json") as answer:
                tabs = json.load(answer)
            yield Page(next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"))
        finally:
            process.kill()
            process.wait()


def log_in(address, user, password):
    """The cookies of somebody who has logged in to Label Studio."""
    jar = http.cookiejar.CookieJar()
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
    with opener.open(f"{address}/user/login/") as page:
        token = re.search(r'csrfmiddlewaretoken" value="([^"]+)"', page.read().decode())[1]
    form = urllib.parse.urlencode({"csrfmiddlewaretoken": token, "email": user, "password": password})
    opener.open(f"{address}/user/login/", form.encode()).close()
    return list(jar)
