# SPDX-License-Identifier: Apache-2.0
"""Headless Chromium through its driver's HTTP interface (WebDriver); no package needed."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request

from .fakes import wait_until

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element in WebDriver's answers


def missing():
    """Why there is no browser, or an empty string."""
    names = ("chromedriver",), ("chromium", "google-chrome", "chromium-browser")
    absent = [" or ".join(some) for some in names if not any(map(shutil.which, some))]
    return f"needs {' and '.join(absent)} (Debian: chromium, chromium-driver)" if absent else ""


class Browser:
    """One window."""

    def __init__(self, driver):
        self._driver = driver
        # As root in a container there is no sandbox, and /dev/shm is small.
        arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--window-size=1200,900",
        ]
        names = ("chromium", "google-chrome", "chromium-browser")
        options = {"args": arguments, "binary": next(filter(None, map(shutil.which, names)))}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        made = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{made['sessionId']}"

    def _call(self, method, path, body=None):
        data = json.dumps(body or {}).encode() if method == "POST" else None
        request = urllib.request.Request(self._driver + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()[:500]) from None

    def open(self, url):
        self._call("POST", f"{self._session}/url", {"url": url})

    def run(self, script, *arguments):
        """The value that the script returns."""
        return self._call("POST", f"{self._session}/execute/sync", {"script": script, "args": list(arguments)})

    def choose(self, selector, path):
        """Put a file into a file input, as the dialogue does."""
        found = self._call("POST", f"{self._session}/element", {"using": "css selector", "value": selector})
        self._call("POST", f"{self._session}/element/{found[ELEMENT]}/value", {"text": str(path)})

    def wait_for(self, script):
        """Until the script's expression is true."""
        wait_until(lambda: self.run(f"return Boolean({script})"), 60)

    def log(self):
        """Lines of the console: errors of scripts, refused resources."""
        return [one["message"] for one in self._call("POST", f"{self._session}/se/log", {"type": "browser"})]

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(self._call("GET", f"{self._session}/screenshot")))

    def close(self):
        self._call("DELETE", self._session)


@contextlib.contextmanager
def opened():
    """A browser that ends with the block."""
    driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        port = next(found[1] for line in driver.stdout if (found := re.search(r"successfully on port (\d+)", line)))
        browser = Browser(f"http://127.0.0.1:{port}")
        try:
            yield browser
        finally:
            browser.close()
    finally:
        driver.terminate()
        driver.communicate()
