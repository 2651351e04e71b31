"""What can be changed while devices train: policies, tables, models, their own data."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest

pytestmark = pytest.mark.timeout(170)

PERMISSIVE = "max_cpu_share_fraction: 0.9\nmin_cpu_share_fraction: 0.1\n"


@pytest.fixture(scope="module")
def fleet(make_fleet):
    # It keeps to vectors that fit all mini-batches that are left, so a table shows at once.
    fleet = make_fleet("--strategy", "distreal-paper", rounds=1000)
    fleet.wait_until_training("device-1", "device-2")
    return fleet


@pytest.fixture
def roll_out(fleet, edgetide, tmp_path):
    """A function that writes a file and rolls it out."""

    def send(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return edgetide("coordinator", "rollout", path, "--state", fleet.state / "coordinator")

    return send


def assert_refused(fleet, ended, *words):
    """One clear line, and nobody noticed."""
    assert ended.returncode == 1
    assert ended.errors == [ended.stderr.strip()]
    for word in words:
        assert word in ended.stderr
    fleet.wait_for_line("coordinator", "round committed", len(fleet.log("coordinator")))


def not_now():
    """A time window of one hour that is far from now, whatever the time of day."""
    hour = time.localtime().tm_hour
    return f"{(hour + 6) % 24:02d}:00-{(hour + 7) % 24:02d}:00"


def test_a_policy_pauses_training_at_once_and_another_one_lets_it_go_on(fleet, roll_out):
    forbids = roll_out("night.yaml", f'hours: ["{not_now()}"]\n')
    assert (forbids.returncode, forbids.stderr) == (0, "")
    assert "policy sent to 2 devices" in forbids.stdout
    for name in ("device-1", "device-2"):
        fleet.wait_for(f"{name} paused", lambda name=name: fleet.device(name).get("state") == "paused")
        assert not_now() in fleet.device(name)["reason"]
    assert roll_out("day.yaml", PERMISSIVE).returncode == 0
    fleet.wait_until_training("device-1", "device-2")


def test_a_rolled_out_policy_outlives_the_agent(fleet, roll_out):
    assert roll_out("night.yaml", f'hours: ["{not_now()}"]\n').returncode == 0
    fleet.wait_for("a pause", lambda: fleet.device("device-2").get("state") == "paused")
    epoch = fleet.device("device-2")["boot_epoch"]
    fleet.kill("device-2")
    fleet.wait_for(
        "a pause in the next life",
        lambda: (
            (device := fleet.device("device-2")).get("boot_epoch", 0) > epoch and device["state"] == "paused"
        ),
    )
    assert roll_out("day.yaml", PERMISSIVE).returncode == 0
    fleet.wait_until_training("device-1", "device-2")


def test_a_corrupt_policy_is_refused_and_training_goes_on(fleet, roll_out):
    ended = roll_out("typo.yaml", "max_cpu_shares_fraction: 0.5\n")
    assert_refused(fleet, ended, "typo.yaml", "max_cpu_shares_fraction", "max_cpu_share_fraction")


def table_of(*vectors):
    from models.table import dump_table, uniform_table
    from models.widths import plan_widths
    from models.zoo import load_model

    graph, _ = load_model("cnn-28")
    table = uniform_table(graph, plan_widths(graph), 32, (0.52, 1.0))
    assert [entry.vector for entry in table.entries] == list(vectors)
    return dump_table(table)


def test_a_table_decides_the_vectors_from_the_next_mini_batch_on(fleet, roll_out):
    # More mini-batches are ordered than there is time for: devices keep to the cheapest vectors.
    assert fleet.wait_for("a vector", lambda: fleet.device("device-1").get("vector")) != [17, 33, 33]
    ended = roll_out("table.yaml", table_of((17, 33, 33), (32, 64, 64)))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "table of 2 vectors sent to 2 devices" in ended.stdout
    fleet.wait_for("the new vector", lambda: fleet.device("device-1").get("vector") == [17, 33, 33])


def test_a_corrupt_table_is_refused_and_training_goes_on(fleet, roll_out):
    whole = table_of((17, 33, 33), (32, 64, 64))
    cut_off = whole[: whole.rindex("macs:")]
    assert_refused(fleet, roll_out("cut.yaml", cut_off), "cut.yaml", "macs")
    another = re.sub(r"graph_digest: .*", f'graph_digest: "{"0" * 64}"', whole)
    assert_refused(fleet, roll_out("other.yaml", another), "other.yaml", "another network")


def newest_model(fleet):
    (digest,) = fleet.database("SELECT digest FROM versions ORDER BY version DESC LIMIT 1")[0]
    return (fleet.state / "coordinator" / "models" / f"{digest}.safetensors").read_bytes()


def test_a_model_is_put_in_force_and_training_goes_on_from_it(fleet, roll_out):
    ended = roll_out("model.safetensors", newest_model(fleet))
    assert ended.returncode == 0, ended.stderr
    version = int(re.search(r"put in force as version (\d+)", ended.stdout)[1])
    fleet.wait_for(
        "a version made from it",
        lambda: fleet.database("SELECT max(version) FROM versions")[0][0] > version,
    )


def test_a_corrupt_model_is_refused_and_training_goes_on(fleet, roll_out):
    whole = newest_model(fleet)
    assert_refused(fleet, roll_out("cut.safetensors", whole[:-1000]), "cut.safetensors", "safetensors")
    poisoned = bytearray(whole)
    poisoned[-4:] = np.float32(np.nan).tobytes()
    assert_refused(fleet, roll_out("nan.safetensors", bytes(poisoned)), "nan.safetensors", "finite")


def test_a_file_of_no_known_kind_is_refused(fleet, roll_out):
    ended = roll_out("model.pt", b"\x80\x04.")
    assert ended.returncode == 1
    assert len(ended.errors) == 1
    assert "model.pt" in ended.stderr


def test_an_agent_notices_new_files_in_its_folder(fleet, start_agent, tmp_path):
    folder = tmp_path / "images"
    write_images(folder, range(10))
    start_agent(
        "--broker", fleet.broker_url, "--id", "field-1", "--data", folder, "--state", tmp_path / "state"
    )

    def num_samples():
        return (fleet.device("field-1").get("hello") or {}).get("num_samples", 0)

    before = fleet.wait_for("its hello", num_samples)
    write_images(folder, range(10, 30))
    fleet.wait_for("a hello with more samples", lambda: num_samples() > before)


def write_images(folder, numbers):
    from PIL import Image

    rng = np.random.default_rng(0)
    for label in ("shoe", "shirt"):
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in numbers:
            pixels = rng.integers(0, 256, (28, 28), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
