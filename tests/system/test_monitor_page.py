"""The page in a real Chromium: a run goes on, a failure is read and tried again, on a phone too, dark and light.

What is waited for is what a person would wait for: words on the page.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from tests.servers import chromium
from tests.system.monitoring import Monitor, serving
from tests.system.waiting import PAUSE, Bench, Running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.servers,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("chromium"),
]

_SECONDS = 90.0

#: Whatever a tree can say is hostile: its directory, the name of a class, what targets print and fail with.
NAME = "<img src=x onerror=document.title='hurt'>"
TREE = f"{NAME}tree"

#: One leaf fails as long as there is no file `mended`; three wait at the gate.
SCRIPT = r"""
import argparse, os, sys
from jobtree import Stack, Target

NAME = "<img src=x onerror=document.title='hurt'>"
BREAKS = "\" autofocus onfocus=\"document.title='hurt'\" x=\""
URL = "javascript:document.title='hurt'"

def root(target):
    for n in range(6):
        target.addChildTarget(LEAVES[n % 2](n))

class Leaf(Target):
    def __init__(self, n):
        Target.__init__(self)
        self.n = n
    def run(self):
        print("leaf", self.n, "<script>document.title='hurt'</script> \x1b[31m \u202e", flush=True)
        print(BREAKS, URL, flush=True)
        if self.n == 1 and not os.path.exists("mended"):
            raise ValueError("</pre><svg onload=document.title='hurt'>" + BREAKS + URL)
        self.reportProgress(0.4, NAME)
        if self.n >= 3:
            pause()

Other = type(NAME, (Leaf,), {"__module__": __name__})
setattr(sys.modules[__name__], NAME, Other)
LEAVES = [Leaf, Other]

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    Stack.addJobTreeOptions(parser)
    options = parser.parse_args()
    sys.exit(1 if Stack(Target.makeTargetFn(root)).startJobTree(options) else 0)
"""


class Page:
    """The page as somebody sees it."""

    def __init__(self, driver: Chrome, monitor: Monitor) -> None:
        self.driver = driver
        driver.get(monitor.page)

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait for something to be seen."""

        def seen(_: Chrome) -> Any:
            try:
                return condition()
            except StaleElementReferenceException:
                return False  # it was just replaced

        try:
            return WebDriverWait(self.driver, _SECONDS, poll_frequency=0.1).until(seen, what)
        except TimeoutException:
            pytest.fail(
                f"waited in vain for {what}; the page says:\n{self.text('body')}\n{self.text('#job')}"
            )

    def text(self, selector: str) -> str:
        """What is to be read there."""
        return str(
            self.driver.execute_script(
                "return document.querySelector(arguments[0])?.innerText ?? ''", selector
            )
        )

    def shows(self, selector: str, words: str) -> None:
        """Wait until these words are to be read there."""
        self.until(lambda: words in self.text(selector), f"{words!r} in {selector}")

    def find(self, selector: str) -> WebElement:
        """What is there, once it is."""
        found: WebElement = self.until(
            lambda: next(
                (e for e in self.driver.find_elements(By.CSS_SELECTOR, selector) if e.is_displayed()), None
            ),
            f"something at {selector}",
        )
        return found

    def click(self, selector: str) -> None:
        """Press what is there. (By a script: what moves while it is updated would be missed.)"""
        self.driver.execute_script("arguments[0].click()", self.find(selector))

    def order(self, selector: str) -> None:
        """Press a button and confirm."""
        self.click(selector)
        self.click("#confirm-yes")

    def holds_nothing_foreign(self) -> None:
        """Nothing that the tree has told has become part of the page but as text."""
        foreign = self.driver.execute_script(
            "return [...document.querySelectorAll('main img, main svg, dialog img, dialog svg, body script, a, iframe, "
            "[href^=javascript], [src^=javascript], [style*=javascript]')].concat([...document.body.querySelectorAll("
            "'*')].filter((node) => [...node.attributes].some((one) => one.name.startsWith('on') || "
            "(one.name === 'autofocus' && node.id !== 'confirm-no')))).map((node) => node.outerHTML)"
        )
        assert foreign == []
        assert self.driver.title.endswith(TREE), "something on the page was taken for a script"

    def count(self, name: str) -> int:
        """One of the numbers of the progress."""
        return int(self.text(f"#counts .{name} dd").replace(",", "") or -1)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    chromium.require_installed()
    with Bench(tmp_path) as made:
        made.write("script.py", PAUSE + SCRIPT)
        yield made


@pytest.fixture
def running(bench: Bench) -> Running:
    running = bench.start(
        "script.py", "--jobTree", TREE, "--maxThreads", "1", "--retryCount", "0", "--hungAfter", "1s"
    )
    bench.gate.arrival()
    return running


@pytest.fixture
def page(bench: Bench, running: Running) -> Iterator[Page]:
    with (
        serving(bench.directory / "home", bench.directory / TREE) as monitor,
        chromium.start(bench.directory / "profile") as driver,
    ):
        made = Page(driver, monitor)
        made.shows("#link", "live")
        yield made
        made.holds_nothing_foreign()
        assert chromium.complaints(driver) == []


def test_a_run_goes_on_a_failure_is_read_and_tried_again(bench: Bench, running: Running, page: Page) -> None:
    page.shows("#state", f"with pid {running.pid}")
    page.until(lambda: page.count("done") == 2 and page.count("failed") == 1, "two done and one failed")
    page.shows("#pace", "1 of 1")
    page.shows("#running", "script.")
    page.shows("#running .progress", f"40 %, {NAME}")

    # The failure, its log; nothing of it is markup.
    page.shows("#failures summary", "ValueError: </pre><svg onload=document.title='hurt'>")
    page.shows("#failures summary .name", "<img src=x onerror=document.title='hurt'>")
    page.click("#failures summary")
    page.shows("#failures .body", "leaf 1 <script>document.title='hurt'</script> \\x1b[31m \\u{202e}")
    page.shows(
        "#failures .body", '" autofocus onfocus="document.title=\'hurt\'" x=" javascript:document.title'
    )
    page.shows("#failures .body", "Traceback")
    page.shows("#directory", TREE)
    page.holds_nothing_foreign()

    # It advances without being asked.
    bench.gate.let_through(1)
    page.until(lambda: page.count("done") == 3, "three done")
    for chart in ("throughput", "slots"):
        wide = f"const place = document.getElementById('{chart}'); return place.querySelector('canvas')?.clientWidth"
        whole = f"return document.getElementById('{chart}').clientWidth - 100"
        page.until(
            lambda: (page.driver.execute_script(wide) or 0) > page.driver.execute_script(whole) > 200,  # noqa: B023
            "a chart as wide as its place",
        )
    assert page.driver.find_elements(By.CSS_SELECTOR, "#slots canvas") != []

    # Tried again, by a button; not when somebody thinks better of it.
    (bench.directory / "mended").touch()
    page.click("#failures [data-action=retry]")
    page.click("#confirm-no")
    assert page.text("#answer") == ""
    page.order("#failures [data-action=retry]")
    page.shows("#answer", "is tried again")
    page.until(lambda: page.count("failed") == 0, "none failed")
    page.shows("#failures", "No job was given up.")
    bench.gate.let_through(2)
    running.ended().succeeded()
    page.shows("#state", "Complete: every job is done.")
    assert page.count("done") == 7


def test_the_tree_opens_level_by_level_and_tells_of_each_job(bench: Bench, page: Page) -> None:
    page.shows("#tree", "0-1")
    assert "waits for 4" in page.text("#tree")
    page.until(
        lambda: len(page.driver.find_elements(By.CSS_SELECTOR, "#tree ul ul > li")) == 4, "four children"
    )
    page.click("#tree ul ul li:nth-child(1) button.link")
    page.shows("#job", "It was given up after 1 failure of its own.")
    page.click("#job-close")
    page.click("#running button.link")
    page.shows("#job", "It has been running on the machine of the master")
    page.click("#job-body > div:last-child button")
    page.shows("#job pre", "<script>document.title")
    page.click("#job-close")


def test_a_worker_is_killed_a_run_paused_and_a_job_forgotten(
    bench: Bench, running: Running, page: Page
) -> None:
    page.order("#steer [data-action=pause]")
    page.shows("#state", "Paused")
    page.shows("#running tr.hung", "hung? silent for")
    page.order("#running [data-action=kill]")
    page.until(lambda: page.count("failed") == 2, "the killed one has failed")
    page.click("#failures li:nth-child(2) summary")
    page.order("#failures li:nth-child(2) [data-action=forget]")
    page.until(lambda: page.count("failed") == 1, "one was forgotten")
    page.order("#steer [data-action=goOn]")
    page.until(lambda: page.count("issued") > 0, "it goes on")
    bench.gate.let_through(2)
    running.ended().failed()
    page.shows("#state", "The run has ended, and some jobs have failed.")


def test_classes_are_sorted_by_the_column_that_is_chosen(page: Page) -> None:
    page.until(
        lambda: len(page.driver.find_elements(By.CSS_SELECTOR, "#classes tbody tr")) == 3, "three classes"
    )
    page.click("#classes th:first-child button")
    first = page.text("#classes tbody tr:first-child td")
    page.click("#classes th:first-child button")
    page.until(lambda: page.text("#classes tbody tr:last-child td") == first, "the other way around")
    assert page.find("#classes th:first-child").get_attribute("aria-sort") == "descending"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_on_a_phone_dark_and_light(dark: bool, page: Page) -> None:
    chromium.show_as(page.driver, chromium.PHONE, dark)
    page.shows("#failures", "ValueError")
    wide, window = page.driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide <= window == chromium.PHONE[0], "nothing sticks out"
    page.click("#failures summary")
    page.shows("#failures .body", "Traceback")
    assert page.driver.execute_script("return document.documentElement.scrollWidth") <= window
    assert contrast(page.driver, "body") >= 7
    for selector in ("#failures .message", "#directory", "#classes th button", "#link"):
        page.find(selector)
        assert contrast(page.driver, selector) >= 4.5, selector
    lightness = page.driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (luminance(lightness) < 0.05) is dark


def test_who_uses_the_keyboard_and_who_hears_the_page(page: Page) -> None:
    nameless = page.driver.execute_script(
        "return [...document.querySelectorAll('button, summary, dialog, section, [role]')].filter((node) => "
        "!(node.innerText.trim() || node.getAttribute('aria-label') || node.getAttribute('aria-labelledby') "
        "|| node.closest('[hidden]') || node.closest('dialog:not([open])') || node.getAttribute('role') === 'status'))"
        ".map((node) => node.outerHTML)"
    )
    assert nameless == []
    page.until(
        lambda: int(page.find("#bar").get_attribute("aria-valuenow") or 0) > 0, "the bar tells how far"
    )
    page.click("#steer [data-action=pause]")
    assert page.driver.execute_script("return document.activeElement.id") == "confirm-no", (
        "the safe one is first"
    )
    page.click("#confirm-no")


def test_a_page_whose_monitor_has_ended_says_so(bench: Bench, running: Running) -> None:
    with (
        serving(bench.directory / "home", bench.directory / TREE) as monitor,
        chromium.start(bench.directory / "profile") as driver,
    ):
        page = Page(driver, monitor)
        page.shows("#link", "live")
        monitor.end()
        page.shows("#link", "The monitor does not answer")
        assert page.count("done") == 2, "what was seen last stays"


def luminance(colour: str) -> float:
    """Of a colour as CSS has it, by the definition of WCAG."""
    parts = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(driver: Chrome, selector: str) -> float:
    """Between letters and what is behind them, by the definition of WCAG."""
    colours = driver.execute_script(
        "let node = document.querySelector(arguments[0]); const front = getComputedStyle(node).color;"
        "while (node && getComputedStyle(node).backgroundColor === 'rgba(0, 0, 0, 0)') node = node.parentElement;"
        "return [front, getComputedStyle(node).backgroundColor]",
        selector,
    )
    high, low = sorted(map(luminance, colours), reverse=True)
    return (high + 0.05) / (low + 0.05)
