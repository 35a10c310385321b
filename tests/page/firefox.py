"""A Firefox of the system, driven by its own Marionette protocol: JSON over a socket."""

import json
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # WebDriver's name for "this is an element"
_START = 60  # seconds


class Firefox:
    """One window of a headless Firefox with a profile of its own."""

    def __init__(self, path: str, profile: Path, patience: int) -> None:
        """Start it. `patience` is how many milliseconds a page or a script may take."""
        (profile / "user.js").write_text('user_pref("marionette.port", 0);\n')
        command = [path, "--headless", "--marionette", "--no-remote", "--profile", str(profile)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
        )
        self.connection = socket.create_connection(("127.0.0.1", self._port(profile)))
        self.stream = self.connection.makefile("rb")
        self._read()  # it greets first
        timeouts = {"script": patience, "pageLoad": patience}
        self.call("NewSession", capabilities={"alwaysMatch": {"timeouts": timeouts}})

    def _port(self, profile: Path) -> int:
        """The port that it chose, from the file in which it leaves that."""
        file = profile / "MarionetteActivePort"
        deadline = time.monotonic() + _START
        while not (file.is_file() and file.read_text()):
            if time.monotonic() > deadline or self.process.poll() is not None:
                self.process.kill()
                raise TimeoutError("Firefox does not start")
            time.sleep(0.05)
        return int(file.read_text())

    def call(self, name: str, **parameters: Any) -> Any:
        """One command of WebDriver, and what it returns."""
        message = json.dumps([0, 1, f"WebDriver:{name}", parameters]).encode()
        self.connection.sendall(b"%d:%s" % (len(message), message))
        _, _, error, result = self._read()
        if error:
            raise RuntimeError(error["message"])
        return result

    def _read(self) -> Any:
        digits = b""
        while not digits.endswith(b":"):
            digits += self.stream.read(1)
        return json.loads(self.stream.read(int(digits[:-1])))

    def goto(self, url: str) -> None:
        self.call("Navigate", url=url)

    def evaluate(self, expression: str, arg: Any = None) -> Any:
        """The result of a JavaScript function, which may be async."""
        script = (
            "const [argument, done] = arguments;"
            f"(async () => ({expression})(argument))()"
            ".then((value) => done({ value }), (error) => done({ error: String(error) }));"
        )
        result = self.call("ExecuteAsyncScript", script=script, args=[arg], sandbox=None)["value"]
        if "error" in result:
            raise RuntimeError(result["error"])
        return result.get("value")

    def set_input_files(self, selector: str, files: Path) -> None:
        found = self.call("FindElement", using="css selector", value=selector)["value"]
        self.call("ElementSendKeys", id=found[_ELEMENT], text=str(files))

    def close(self) -> None:
        self.stream.close()
        self.connection.close()
        self.process.terminate()
        self.process.wait()
