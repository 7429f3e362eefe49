"""The dashboard in a real Chromium: it updates without reloading, takes orders, and admits when it is cut off.

With OUTRIDER_SCREENSHOTS set to a folder, the pictures for the documentation are written there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from support import fleet_story
from support.installation import eventually as patiently

from cloud.auth.roles import Role
from cloud.dashboard import link
from cloud.services import campaigns
from fleet.registry.repositories import Campaigns

pytestmark = [pytest.mark.browser, pytest.mark.slow]

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--window-size=1360,940",
    "--hide-scrollbars",
    "--force-prefers-reduced-motion",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)

DRAWN = (
    "return [...document.querySelectorAll('[data-chart]')].every(e => e.querySelector('canvas'))"
)
eventually = partial(patiently, within_s=12.0)
"""Sooner than the page would look by itself, so that only events can have told it."""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    profile = tmp_path_factory.mktemp("profile")
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium, fleet) -> Iterator[WebDriver]:
    """Signed in as an operator, on the fleet page; at the end nothing may have gone wrong in it."""
    chromium.get("about:blank")  # the last test's page would go on asking a server that is gone
    chromium.get_log("browser")
    address = link.issue(fleet.url, fleet.story.token(Role.OPERATOR, "Grace"))
    assert address
    chromium.get(address)
    chromium.execute_script("localStorage.setItem('outrider-theme', 'light')")
    chromium.get(fleet.url)
    yield chromium
    severe = [entry for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"]
    chromium.delete_all_cookies()
    assert severe == []


def shows(browser: WebDriver, css: str, text: str) -> Callable[[], bool]:
    """Whether an element shows a text; the script reads at one moment, so nothing can go stale."""
    script = "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText).join(' ')"
    return lambda: text in browser.execute_script(script, css)


def mark(browser: WebDriver) -> None:
    """Leave a mark that a reload would wipe away."""
    browser.execute_script("window.notReloaded = true")


def is_marked(browser: WebDriver) -> bool:
    return browser.execute_script("return window.notReloaded === true")


def picture(browser: WebDriver, name: str, tmp_path: Path) -> None:
    """A picture of the page, in the documentation where that was asked for."""
    folder = Path(os.environ.get("OUTRIDER_SCREENSHOTS") or tmp_path)
    for theme in ("light", "dark"):
        browser.execute_script("document.documentElement.dataset.theme = arguments[0]", theme)
        browser.execute_script("document.dispatchEvent(new Event('theme'))")
        eventually(lambda: browser.execute_script(DRAWN), "charts are drawn")
        target = folder / f"{name}-{theme}.png"
        assert browser.save_screenshot(str(target))
        assert target.stat().st_size > 20_000


def test_a_rollout_progresses_on_the_screen_without_reloading(browser, fleet, tmp_path) -> None:
    story, release = fleet.story, fleet.releases[1]
    devices = ["camera-1", "camera-2", "camera-4", "camera-5"]
    eventually(shows(browser, "#live", "live"), "the page listens")
    mark(browser)
    rollout = story.rollout(release, devices, waves=[50.0, 100.0])
    eventually(shows(browser, "main", f"Rollout of {release}"), "the fleet page shows the rollout")
    assert is_marked(browser)

    browser.get(f"{fleet.url}/rollouts/{rollout}")
    eventually(shows(browser, "#live", "live"), "the rollout page listens")
    mark(browser)
    story.report("camera-1", release, "fetching", progress=0.5)
    eventually(shows(browser, "#member-camera-1", "25 %"), "progress of the download")
    story.update("camera-1", release)
    eventually(shows(browser, "#member-camera-1", "updated"), "the first device")
    story.report("camera-2", release, "fetching", progress=1.0)
    story.report("camera-2", release, "self_testing")
    eventually(shows(browser, "#member-camera-2", "self-testing"), "the second device's test")
    eventually(shows(browser, "#updated", "1"), "the count")
    picture(browser, "rollout", tmp_path)
    story.update("camera-2", release)
    eventually(shows(browser, "#wave-1", "passed"), "the gate of the first wave")
    eventually(shows(browser, "#wave-2", "running"), "the second wave")
    for device in devices[2:]:
        story.update(device, release)
    eventually(shows(browser, "main > header", "succeeded"), "the end")
    assert is_marked(browser)


def test_a_failed_device_pauses_and_the_button_restores(browser, fleet) -> None:
    story, release = fleet.story, fleet.releases[1]
    rollout = story.rollout(release, ["camera-1", "camera-2"], waves=[50.0, 100.0])
    browser.get(f"{fleet.url}/rollouts/{rollout}")
    eventually(shows(browser, "#live", "live"), "the page listens")
    mark(browser)
    story.report("camera-1", release, "failed", error="ota.self_test")
    eventually(shows(browser, "main > header", "paused"), "the hard gate")
    eventually(shows(browser, "#member-camera-1", "ota.self_test"), "the reason")
    browser.find_element(By.CSS_SELECTOR, "#order-rollback button").click()
    browser.switch_to.alert.accept()
    eventually(shows(browser, "main > header", "rolled back"), "the rollback")
    assert fleet_story.state_of(story, rollout) == "rolled_back"
    assert is_marked(browser)


def test_charts_follow_the_windows_and_the_theme_is_kept(browser, fleet, tmp_path) -> None:
    browser.get(f"{fleet.url}/devices/camera-3")
    canvases = "return document.querySelectorAll('[data-chart] canvas').length"
    eventually(lambda: browser.execute_script(canvases) == 3, "three charts")
    picture(browser, "device", tmp_path)
    browser.execute_script("document.documentElement.dataset.theme = 'light'")
    browser.find_element(By.ID, "theme").click()
    browser.refresh()
    assert browser.execute_script("return document.documentElement.dataset.theme") == "dark"


def test_the_other_pages_look_as_documented(browser, fleet, tmp_path) -> None:
    story, release = fleet.story, fleet.releases[1]
    story.rollout(release, ["camera-1", "camera-2", "camera-4", "camera-5"], waves=[50.0, 100.0])
    story.update("camera-1", release)
    story.report("camera-2", release, "fetching", progress=0.7)
    for name, path in (("fleet", "/"), ("model", "/models/digits")):
        browser.get(fleet.url + path)
        eventually(shows(browser, "#live", "live"), "the page listens")
        picture(browser, name, tmp_path)


def test_an_artifact_is_proven_and_a_campaign_started_on_the_screen(
    chromium, browser, fleet, tmp_path
) -> None:
    story = fleet.story
    story.enrol("bench-1", hardware="rtx-ada", labels={"site": "lab"})
    browser.get(f"{fleet.url}/devices/bench-1")
    eventually(shows(browser, "#live", "live"), "the page listens")
    browser.find_element(By.CSS_SELECTOR, "#proving button").click()
    browser.switch_to.alert.accept()
    eventually(shows(browser, "main > header", "proves for rtx-ada"), "the mark")

    browser.get(f"{fleet.url}/models/digits")
    eventually(shows(browser, "#live", "live"), "the page listens")
    mark(browser)
    prove = "#version-2 form[id^=prove-] button"
    browser.find_element(By.CSS_SELECTOR, prove).click()
    eventually(shows(browser, "#version-2", "on trial"), "the trial")
    story.measure("bench-1", latency_ms_p50=0.0)
    eventually(shows(browser, "#version-2", "expected a p50 above 0 ms"), "the refusal")
    browser.find_element(By.CSS_SELECTOR, prove).click()
    eventually(shows(browser, "#version-2", "Call off"), "another trial")
    story.measure("bench-1")
    eventually(shows(browser, "#version-2", "by bench-1"), "the verdict")
    eventually(shows(browser, "#version-2", "on 1 device"), "what the device measured")
    assert is_marked(browser)
    picture(browser, "proving", tmp_path)

    story.birth("camera-5", hardware="cpu-x86-64", onnxruntime="2.0.0")
    campaigns.look(story.context)
    with story.context.unit() as unit:
        for campaign in Campaigns(unit.session).all():
            campaign.noticed_at -= campaigns.SETTLE_S
    campaigns.look(story.context)
    address = link.issue(fleet.url, story.token(Role.ENGINEER, "Ada"))
    browser.get(address)
    browser.get(f"{fleet.url}/models")
    eventually(shows(browser, "#live", "live"), "the page listens")
    eventually(shows(browser, "#campaigns", "onnxruntime 2.0.0"), "the campaign")
    picture(browser, "campaigns", tmp_path)
    browser.find_element(By.CSS_SELECTOR, "#campaigns form[id^=start-] button").click()
    eventually(shows(browser, "#campaigns", "jobs queued"), "the decision")


def test_every_control_has_a_name_and_every_page_one_heading(browser, fleet) -> None:
    nameless = (
        "return [...document.querySelectorAll('button, a, input:not([type=hidden]), progress')]"
        ".filter(e => !(e.innerText || e.ariaLabel || e.labels?.length)).map(e => e.outerHTML)"
    )
    rollout = fleet.story.rollout(fleet.releases[1], ["camera-1"], waves=[100.0])
    for path in (
        "/",
        "/devices/camera-1",
        "/models",
        "/models/digits",
        f"/rollouts/{rollout}",
        "/audit",
    ):
        browser.get(fleet.url + path)
        assert browser.execute_script(nameless) == []
        assert len(browser.find_elements(By.TAG_NAME, "h1")) == 1
        assert browser.find_elements(By.CSS_SELECTOR, "nav [aria-current=page]")
        assert browser.execute_script("return document.documentElement.lang") == "en"


def test_the_page_admits_when_the_cloud_is_gone(chromium, story_that_ends) -> None:
    site, end = story_that_ends
    chromium.get(link.issue(site.url, site.story.token(Role.VIEWER)))
    eventually(shows(chromium, "#live", "live"), "the page listens")
    end()
    eventually(shows(chromium, "#live", "not connected"), "the sign")
    chromium.get("about:blank")
    chromium.get_log("browser")
