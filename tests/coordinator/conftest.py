"""A small world: cnn-tiny-28 on a few dozen easy images, boards slow enough that resources matter."""

import shutil

import pytest

from coordinator.dashboard.app import create_app
from coordinator.dashboard.server import Server, listen
from coordinator.twins.scenario import load_scenario
from tests.fixtures.shown_fleets import Shown
from tests.fixtures.squares import write_squares

SMALL = """\
name: small
model: cnn-tiny-28
data: data.npz
rounds: 2
round_s: 40
passes: 1
batch_size: 8
devices:
  - id: one
    profile: raspberry-pi-4
    speed: {core_seconds_per_mac: 6e-8}
  - id: two
    profile: raspberry-pi-4
    speed: {core_seconds_per_mac: 6e-8}
"""
"""The full network's step takes 8 * 2.7 MMAC * 6e-8 s = 1.3 s of a core; 5 steps a round and device."""


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A folder with data.npz: ten classes, each a bright square in another place."""
    folder = tmp_path_factory.mktemp("world")
    write_squares(folder / "data.npz", 80, 40)
    return folder


@pytest.fixture
def make_scenario(world):
    """A function of overrides that loads the small scenario."""
    path = world / "small.yaml"
    path.write_text(SMALL)
    return lambda *overrides: load_scenario(path, list(overrides))


@pytest.fixture
def shown():
    return Shown()


@pytest.fixture
def server(shown):
    server = Server(create_app(shown.view, lambda: shown.curve, period_s=0.05), listen(port=0))
    yield server
    server.stop()


@pytest.fixture
def browser(tmp_path):
    selenium = pytest.importorskip("selenium.webdriver")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("there is no chromium with its driver")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "disable-dev-shm-usage",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        f"user-data-dir={tmp_path / 'profile'}",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    browser.set_window_size(1280, 900)
    yield browser
    browser.quit()
