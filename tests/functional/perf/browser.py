# SPDX-License-Identifier: Apache-2.0
"""A real Chromium over its DevTools protocol: console errors, screenshots, the page's own state."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
    # Python's WebSocket client sends an Origin; the port is on loopback and random.
    "--remote-allow-origins=*",
)


def executable() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser")


def _remove(profile: Path) -> None:
    """Its helper processes outlive Chromium by a moment, and write into the profile until then."""
    deadline = time.monotonic() + 30
    while profile.exists():
        try:
            shutil.rmtree(profile)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


class Browser:
    """One tab. Use as a context manager.

    :param netns: network namespace to run in; one without interfaces proves that a page is
        self-contained, but then the protocol's port is in there too, so none by default.
    """

    def __enter__(self) -> Browser:
        import websocket

        self._stack = contextlib.ExitStack()
        profile = Path(tempfile.mkdtemp())
        self._stack.callback(_remove, profile)
        self._process = subprocess.Popen(
            [executable(), *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._stack.callback(self._end)
        port_file = profile / "DevToolsActivePort"
        deadline = time.monotonic() + 60
        while not (port_file.exists() and port_file.read_text().count("\n")):
            if time.monotonic() > deadline or self._process.poll() is not None:
                self._stack.close()
                raise RuntimeError("chromium did not come up")
            time.sleep(0.05)
        port = int(port_file.read_text().split("\n")[0])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
            tabs = json.load(answer)
        tab = next(tab for tab in tabs if tab["type"] == "page")
        self._socket = websocket.create_connection(tab["webSocketDebuggerUrl"], timeout=60)
        self._number = 0
        self.events: list[dict] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *_exc) -> None:
        self._socket.close()
        self._stack.close()

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)

    def call(self, method: str, **parameters) -> dict:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        self._socket.send(json.dumps(message))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def open(self, page: Path, width: int) -> None:
        """Load a file at a viewport width and wait for its load event."""
        self.events.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=1000, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        self.call("Emulation.setScrollbarsHidden", hidden=True)
        self.call("Page.navigate", url=page.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(json.loads(self._socket.recv()))

    def evaluate(self, expression: str):
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def problems(self) -> list[str]:
        """Console errors and warnings, exceptions, log entries, requests to anywhere."""
        self.evaluate("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")
        found = []
        for event in self.events:
            method, data = event.get("method"), event.get("params", {})
            if method == "Runtime.consoleAPICalled" and data["type"] in ("error", "warning"):
                found.append(f"console {data['type']}: {data['args']}")
            elif method == "Runtime.exceptionThrown":
                found.append(f"exception: {data['exceptionDetails']}")
            elif method == "Log.entryAdded" and data["entry"]["level"] in ("error", "warning"):
                found.append(f"log: {data['entry']['text']}")
            elif method == "Network.requestWillBeSent":
                url = data["request"]["url"]
                if not url.startswith(("file:", "data:", "blob:")):
                    found.append(f"request to {url}")
        return found

    def screenshot(self, path: Path) -> None:
        """The whole page."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        shot = self.call(
            "Page.captureScreenshot",
            captureBeyondViewport=True,
            clip={"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1},
        )
        path.write_bytes(base64.b64decode(shot["data"]))

    def pdf(self, path: Path) -> None:
        answer = self.call("Page.printToPDF", printBackground=True)
        path.write_bytes(base64.b64decode(answer["data"]))
