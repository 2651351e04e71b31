"""Takes a picture of the page of a real `edgetide up` while it trains; started by scripts/screenshot.

In the middle of the run half of the cores get other work for some seconds, so that the picture shows
what the page is for: the sub-networks shrink and grow with what is left.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from benchmarks.live_fleet import LiveFleet, busy_cores, live_fleet

ROUNDS, LOADED_IN_ROUND, TAKEN_IN_ROUND = 40, 14, 24
LOAD_S = 20.0
WIDTH, HEIGHT = 1600, 940
LIMIT_S = 300.0


def main(path: Path) -> None:
    """Run a fleet, wait for the right moment, take the picture."""
    with live_fleet(["--devices", "4", "--rounds", str(ROUNDS)]) as fleet:
        _wait_for_round(fleet, LOADED_IN_ROUND)
        with busy_cores(max(1, (os.cpu_count() or 2) // 2), LOAD_S):
            time.sleep(LOAD_S)
        _wait_for_round(fleet, TAKEN_IN_ROUND)
        fleet.wait_for(
            "every device training",
            lambda view: all(
                device["state"] == "training" and device["vector"] and device["steps_done"] > 20
                for device in view["devices"]
            ),
            LIMIT_S,
        )
        take(fleet.url, path)
    print(f"{path}: {path.stat().st_size} bytes")


def _wait_for_round(fleet: LiveFleet, number: int) -> None:
    fleet.wait_for(f"round {number}", lambda view: view["run"]["round"] >= number, LIMIT_S)


def take(url: str, path: Path) -> None:
    """Take a picture of the page once its cards and charts are drawn.

    Args:
        url: of the page.
        path: the PNG file to write.
    """
    options = Options()
    for argument in ("--headless=new", "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium's own does not work for root
    browser = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    try:
        # A headless window is smaller than asked for by a bar that is not there.
        size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(url)
        WebDriverWait(browser, 20).until(
            lambda page: (
                page.find_elements(By.CSS_SELECTOR, "#cards > *")
                and page.find_elements(By.CSS_SELECTOR, "#accuracy-chart svg")
                and page.find_elements(By.CSS_SELECTOR, "#tide-chart svg")
            )
        )
        time.sleep(8.0)  # the browser's own start is load too: let it pass
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(browser.get_screenshot_as_png())
    finally:
        browser.quit()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
