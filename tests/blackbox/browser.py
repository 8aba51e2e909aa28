"""Debian's Chromium without a screen, driven over W3C WebDriver: ChromeDriver speaks JSON over HTTP, no library is needed."""

import base64
import http.client
import json
import subprocess
from contextlib import contextmanager

from programs import asked_until, free_port, is_open
from server import PATIENCE, die_with_parent

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Refused(AssertionError):
    """What the driver says that it could not do."""


class Browser:
    """One window."""

    def __init__(self, port, folder):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3 * PATIENCE)
        self.session = ""
        arguments = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", f"--user-data-dir={folder / 'profile'}",
            # As who owns a name makes it lead where they like.
            "--host-resolver-rules=MAP rebound.example 127.0.0.1",
        ]
        wanted = {"goog:chromeOptions": {"args": arguments}, "goog:loggingPrefs": {"browser": "ALL"}}
        self.session = "/session/" + self.ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def ask(self, method, path, body=None):
        text = None if body is None else json.dumps(body)
        self.connection.request(method, self.session + path, text, {"content-type": "application/json"})
        answer = self.connection.getresponse()
        value = json.loads(answer.read())["value"]
        if answer.status != 200:
            raise Refused(f"{path}: {value['error']}: {value['message']}")
        return value

    def close(self):
        self.ask("DELETE", "")
        self.connection.close()

    def size(self, width, height):
        self.developer("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.until(f"window.innerWidth === {width} && window.innerHeight === {height}", f"it is {width} by {height}")

    def colours(self, scheme):
        """As `prefers-color-scheme` has it: `light` or `dark`."""
        self.developer("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def developer(self, command, **parameters):
        return self.ask("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def open(self, url):
        self.ask("POST", "/url", {"url": url})

    def run(self, script, *arguments):
        """What this JavaScript returns."""
        return self.ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def text(self, selector):
        return self.run("return document.querySelector(arguments[0]).textContent", selector)

    def until(self, script, what):
        """Waits until this expression of JavaScript is true, and returns it."""
        return asked_until(lambda: self.run(f"return {script}"), what)

    def find(self, selector):
        return self.ask("POST", "/element", {"using": "css selector", "value": selector})[ELEMENT]

    def click(self, selector):
        """As a mouse would: what is hidden or covered cannot be clicked."""
        self.ask("POST", f"/element/{self.find(selector)}/click", {})

    def type(self, selector, text):
        self.ask("POST", f"/element/{self.find(selector)}/value", {"text": text})

    def console(self):
        """What was written to the console since it was asked last."""
        return self.ask("POST", "/se/log", {"type": "browser"})

    def picture(self):
        """The whole page as PNG."""
        width, height = self.run("return [document.documentElement.clientWidth, document.documentElement.scrollHeight]")
        self.size(width, height)
        return base64.b64decode(self.ask("GET", "/screenshot"))


def driver(folder, port):
    command = ["chromedriver", f"--port={port}", f"--log-path={folder / 'driver.log'}"]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=die_with_parent)


@contextmanager
def browser(folder):
    with free_port() as port, driver(folder, port) as running:
        try:
            asked_until(lambda: is_open(port), "chromedriver listens")
            window = Browser(port, folder)
            try:
                yield window
            finally:
                window.close()
        finally:
            running.terminate()
