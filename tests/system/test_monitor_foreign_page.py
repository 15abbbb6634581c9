"""A page of another site, in a real Chromium, that knows all there is to know of a monitor: it gets nowhere."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from selenium.webdriver.support.ui import WebDriverWait

from jobtree.monitor import security
from tests.servers import chromium
from tests.system.monitoring import serving
from tests.unit.test_snapshot import Built

pytestmark = [
    pytest.mark.slow,
    pytest.mark.servers,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("chromium"),
]

#: It has the address, the token and the names of the orders, tries all that a browser lets it, waits for the last of
#: it, and says in its title what it has come to know.
FOREIGN = """<!doctype html><meta charset="utf-8"><title>at work</title>
<iframe name="frame" src="@BASE@/?token=@TOKEN@"></iframe>
<form id="form" method="post" target="frame" action="@BASE@/api/v1/trees/1/pause?token=@TOKEN@" enctype="text/plain">
  <input name='{"x": "' value='"}'>
</form>
<script>
const order = "@BASE@/api/v1/trees/1/pause";
const withToken = `${order}?token=@TOKEN@`;
const bearer = { authorization: "Bearer @TOKEN@" };
const json = { ...bearer, "content-type": "application/json" };
const text = (answer) => answer.text();
const frame = document.querySelector("iframe");

const attempts = [
  async () => fetch(withToken, { method: "POST", mode: "no-cors", body: "{}" }).then(text),
  async () => fetch(withToken, { method: "POST", headers: bearer, body: "{}" }).then(text),
  async () => fetch(order, { method: "POST", headers: json, body: "{}" }).then(text),
  async () => fetch("@BASE@/api/v1/trees?token=@TOKEN@").then(text),
  async () => fetch("@BASE@/api/v1/trees?token=@TOKEN@", { mode: "no-cors" }).then(text),
  async () => import("@BASE@/static/@FOLDER@/api.js").then(() => "a module"),
  () => new Promise((yes, no) => {
    const image = new Image();
    image.onload = () => yes("a picture");
    image.onerror = no;
    image.src = "@BASE@/static/@FOLDER@/icon.svg";
  }),
  async () => void navigator.sendBeacon(withToken, "{}"),
  () => new Promise((yes) => {
    frame.addEventListener("load", () => yes(""));
    document.querySelector("form").submit();
  }),
  async () => frame.contentDocument.body.innerText,
];

(async () => {
  const found = [];
  for (const attempt of attempts) found.push(await attempt().catch(() => ""));
  document.title = `done ${JSON.stringify(found.filter((seen) => seen))}`;
})();
</script>
"""
_SECONDS = 90.0


@pytest.fixture
def built(tmp_path: Path) -> Iterator[Built]:
    chromium.require_installed()
    made = Built(tmp_path / "secret")
    yield made
    made.store.close()


def test_it_orders_nothing_and_learns_nothing(built: Built, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    with (
        serving(tmp_path / "home", built.paths.root) as monitor,
        chromium.start(tmp_path / "profile") as driver,
        web_site(site) as port,
    ):
        words = {"BASE": monitor.base, "TOKEN": monitor.token, "FOLDER": security.folder(monitor.token)}
        page = FOREIGN
        for name, value in words.items():
            page = page.replace(f"@{name}@", value)
        (site / "index.html").write_text(page)
        for host in ("127.0.0.1", "localhost"):  # another port of this machine, and another site altogether
            driver.get(f"http://{host}:{port}/")
            WebDriverWait(driver, _SECONDS).until(lambda driver: driver.title.startswith("done"))
            assert driver.title == "done []"
        assert os.listdir(built.paths.requests) == []

        # Our own page may: so it was not for another reason.
        driver.get(f"{monitor.base}/?token={monitor.token}")
        said = driver.execute_async_script(
            "const [bearer, said] = arguments; fetch('/api/v1/trees/1/pause', { method: 'POST', headers: { "
            "authorization: bearer } }).then((answer) => answer.json()).then(({ words }) => said(words))",
            f"Bearer {monitor.token}",
        )
        assert said.startswith("It is noted")
        assert len([name for name in os.listdir(built.paths.requests) if name.startswith("pause")]) == 2


def test_without_the_token_there_is_no_page(built: Built, tmp_path: Path) -> None:
    with (
        serving(tmp_path / "home", built.paths.root) as monitor,
        chromium.start(tmp_path / "profile") as driver,
    ):
        for path in ("/", "/?token=", "/?token=wrong", "/api/v1/trees", "/metrics", "/static/../api.js"):
            driver.get(monitor.base + path)
            assert "Refused: the token is missing or wrong" in driver.page_source
            assert "secret" not in driver.page_source


@contextlib.contextmanager
def web_site(directory: Path) -> Iterator[int]:
    """The files of a directory, served; the port."""
    handler = functools.partial(_Quiet, directory=str(directory))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass
