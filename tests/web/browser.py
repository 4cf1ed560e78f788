"""A headless Chromium, driven over its DevTools protocol: as much of it as the tests of the page need.

with Browser(width=390) as page:
    page.open(url)
    page.choose("#file", path)
    page.wait("document.querySelectorAll('#top5 li').length == 3")
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--disable-dev-shm-usage")


def find() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One tab. Every request it makes is noted in `requests`, every error of a script in `errors`."""

    def __init__(self, width: int = 1200, height: int = 900, dark: bool = False):
        self.width, self.height, self.dark = width, height, dark
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.count = 0

    def __enter__(self) -> Browser:
        import websocket

        self.folder = tempfile.TemporaryDirectory(prefix="alexnet-browser-", ignore_cleanup_errors=True)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        command = [find(), *OPTIONS, f"--user-data-dir={self.folder.name}", "about:blank"]
        self.process = subprocess.Popen(command, **quiet)
        address = f"http://127.0.0.1:{self._port()}/json/list"
        with urllib.request.urlopen(address, timeout=10) as answer:
            tab = next(one for one in json.load(answer) if one["type"] == "page")
        self.socket = websocket.create_connection(tab["webSocketDebuggerUrl"], timeout=20, suppress_origin=True)
        for domain in ("Page", "Runtime", "Network", "DOM"):
            self.call(f"{domain}.enable")
        size = {"width": self.width, "height": self.height, "deviceScaleFactor": 1, "mobile": self.width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if self.dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.wait()
        self.socket.close()
        self.folder.cleanup()

    def _port(self) -> int:
        told = Path(self.folder.name) / "DevToolsActivePort"
        for _ in range(300):
            if told.exists() and (lines := told.read_text().split()):
                return int(lines[0])
            time.sleep(0.1)
        raise TimeoutError("the browser does not start")

    def call(self, method: str, **params) -> dict:
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": params}))
        while (message := json.loads(self.socket.recv())).get("id") != self.count:
            self._note(message)
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']['message']}")
        return message["result"]

    def _note(self, message: dict) -> None:
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])
        if message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(message["params"]["exceptionDetails"]))

    def run(self, script: str):
        """The value of a script, promises awaited."""
        asked = {"expression": script, "awaitPromise": True, "returnByValue": True}
        answer = self.call("Runtime.evaluate", **asked)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"].get("exception", {}).get("description", "script failed"))
        return answer["result"].get("value")

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.wait("document.readyState == 'complete'")

    def wait(self, condition: str, time_s: float = 15) -> None:
        until_s = time.monotonic() + time_s
        while not self.run(condition):
            if time.monotonic() > until_s:
                raise TimeoutError(f"{condition}; the page says: {self.run('document.body.innerText')[:800]}")
            time.sleep(0.05)

    def text(self, selector: str) -> str:
        return self.run(f"document.querySelector({json.dumps(selector)}).innerText")

    def choose(self, selector: str, path: Path) -> None:
        """A file into an <input type=file>."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def hand(self, event: str, name: str, data: bytes, kind: str = "image/png") -> None:
        """Drops or pastes a file: the event a person's hand would cause, on the whole window."""
        holder = {"drop": ("DragEvent", "dataTransfer"), "paste": ("ClipboardEvent", "clipboardData")}[event]
        self.run(f"""(() => {{
            const bytes = Uint8Array.from(atob({json.dumps(base64.b64encode(data).decode())}), (c) => c.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], {json.dumps(name)}, {{ type: {json.dumps(kind)} }}));
            const options = {{ bubbles: true, cancelable: true, {holder[1]}: data }};
            document.body.dispatchEvent(new {holder[0]}({json.dumps(event)}, options));
        }})()""")

    def key(self, name: str) -> None:
        codes = {"Tab": 9, "Enter": 13, "ArrowDown": 40}
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if name == "Enter" and kind == "keyDown" else {}
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=codes[name], **text
            )

    def picture(self, path: Path, whole: bool = True) -> None:
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))
