"""A headless Chromium for tests, driven over the pipe of its DevTools protocol: no package, no port."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
from queue import Empty, Queue
from threading import Thread

PATIENCE = 40  # seconds until a browser that says nothing counts as broken
FLAGS = [
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions"),
    *("--disable-background-networking", "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe"),
]
BUTTONS = {"mousePressed": 1, "mouseReleased": 1}


def chromium():
    """Path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One page of a browser; a context manager."""

    def __init__(self, profile):
        commands, to_browser = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in os.pipe())
        from_browser, answers = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in os.pipe())

        def connect():
            os.dup2(commands, 3)
            os.dup2(answers, 4)

        self.process = subprocess.Popen(
            [chromium(), *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=connect,
            pass_fds=(3, 4),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands), os.close(answers)
        self.pipe, self.answers, self.said, self.number = to_browser, Queue(), [], 0
        Thread(target=self._listen, args=(from_browser,), daemon=True).start()
        self.session = None
        (page,) = (t for t in self("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = self("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(PATIENCE)
        os.close(self.pipe)

    def _listen(self, pipe):
        with os.fdopen(pipe, "rb") as stream:
            rest = b""
            while piece := stream.read1(1 << 20):
                *messages, rest = (rest + piece).split(b"\0")
                for message in map(json.loads, messages):
                    (self.answers.put if "id" in message else self.said.append)(message)

    def __call__(self, method, **parameters):
        """The result of a command of the protocol."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.pipe, json.dumps(message).encode() + b"\0")
        while True:
            try:
                answer = self.answers.get(timeout=PATIENCE)
            except Empty:
                raise TimeoutError(method) from None
            if answer["id"] == self.number:
                break
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def run(self, expression):
        """The value of an expression in the page, promises awaited."""
        answer = self("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def open(self, path, *, width=1280, height=900, scheme="light", touch=False):
        """Load a file and wait until its script has drawn."""
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch)
        self("Emulation.setTouchEmulationEnabled", enabled=touch)
        wishes = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
        self("Emulation.setEmulatedMedia", features=[{"name": n, "value": v} for n, v in wishes.items()])
        self("Page.navigate", url=path.as_uri())
        ready = "document.readyState === 'complete' && (typeof opened === 'undefined' || opened !== null)"
        self.run(f"new Promise(done => {{ const wait = () => {ready} ? done() : setTimeout(wait, 20); wait(); }})")
        self.settle()

    def settle(self):
        """Wait until what was changed is drawn."""
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def mouse(self, kind, x, y):
        """A mouse event at a place in the window."""
        buttons = BUTTONS.get(kind, 0)
        how = {"button": "left", "clickCount": 1} if buttons else {}
        self("Input.dispatchMouseEvent", type=kind, x=x, y=y, **how)

    def hover(self, x, y):
        """Move the mouse there."""
        self.mouse("mouseMoved", x, y)
        self.settle()

    def click(self, x, y):
        """Click there."""
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.mouse(kind, x, y)
        self.settle()

    def tap(self, x, y):
        """Touch there with a finger."""
        self("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        self.settle()

    def press(self, key, *, shift=False):
        """Press a key."""
        text = {"text": key} if len(key) == 1 else {}
        modifiers = 8 if shift else 0
        self("Input.dispatchKeyEvent", type="keyDown", key=key, modifiers=modifiers, **text)
        self("Input.dispatchKeyEvent", type="keyUp", key=key, modifiers=modifiers)
        self.settle()

    def place(self, selector, x=0.5, y=0.5):
        """A place within an element, scrolled into view, in pixels of the window."""
        find = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{find}.scrollIntoView({{block: 'nearest'}})")
        left, top, width, height = self.run(
            f"(({{left, top, width, height}}) => [left, top, width, height])({find}.getBoundingClientRect())"
        )
        return left + x * width, top + y * height

    def errors(self):
        """What the page complained of: exceptions, console errors, refused requests."""
        told = [(e["method"], e["params"]) for e in self.said]
        thrown = [what for method, what in told if method == "Runtime.exceptionThrown"]
        logged = [what for method, what in told if method == "Log.entryAdded" and what["entry"]["level"] == "error"]
        called = [what for method, what in told if method == "Runtime.consoleAPICalled"]
        return thrown + logged + [what for what in called if what["type"] in ("error", "assert")]

    def picture(self, path, *, whole=False):
        """A screenshot."""
        answer = self("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))
