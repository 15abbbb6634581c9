"""A real browser without a screen: Debian's Chromium, driven through WebDriver.

It runs as root, as these tests do, and so without its own sandbox: it is shown pages of this machine only.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from tests.requirements import missing
from tests.servers import packages

# The fonts: without any, there would be no letters on the pictures.
PACKAGES = ("chromium", "chromium-driver", "fonts-liberation")

WIDE = (1280, 900)
PHONE = (390, 844)
"""Sizes of a window: of a laptop, and of a phone."""


def install() -> None:
    """Install the browser: Debian 12, as root."""
    packages.install(PACKAGES)


def require_installed() -> None:
    """Skip the test, or fail it, where there is no browser."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        missing("chromium is not installed (Debian: apt-get install chromium chromium-driver)")


@contextlib.contextmanager
def start(profile: Path, size: tuple[int, int] = WIDE, dark: bool = False) -> Iterator[webdriver.Chrome]:
    """A browser with a window of this size; profile: a directory for what it keeps."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--no-default-browser-check",
        f"--user-data-dir={profile}", "--lang=en",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = Service(
        shutil.which("chromedriver") or "chromedriver", log_output=str(profile.parent / "driver.log")
    )
    driver = webdriver.Chrome(options=options, service=service)
    try:
        show_as(driver, size, dark)
        yield driver
    finally:
        driver.quit()


def show_as(driver: webdriver.Chrome, size: tuple[int, int], dark: bool) -> None:
    """Have the window be of this size (a headless one has no least width), and the user like it dark, or not."""
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def complaints(driver: webdriver.Chrome) -> list[str]:
    """What the page has complained about in the browser's console, since the last call."""
    entries: list[dict[str, object]] = driver.get_log("browser")  # type: ignore[no-untyped-call]
    return [str(entry["message"]) for entry in entries if entry["level"] in ("SEVERE", "WARNING")]
