"""Sensors on captured trees, with a clock of the test's own."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agent.sensors import Cohort, Sensors, write_cohort
from firmware_profiles.resources import Snapshot

BOARDS = Path(__file__).parents[1] / "fixtures" / "boards"
AGENT = 1200


class Machine:
    """A tree under the test's hand: two CPUs of 100 ticks a second, and some processes."""

    def __init__(self, root: Path) -> None:
        self.root, self.now_s = root, 0.0
        self.cpus = {0: [0, 0], 1: [0, 0]}  # busy and idle ticks
        self.used: dict[int, int] = {}

    def run(self, seconds: float, *, others: float = 0.0, own: dict[int, float] | None = None) -> None:
        """Let time pass: `others` and `own` are cores in use."""
        own = own or {}
        self.now_s += seconds
        busy = (others + sum(own.values())) / 2
        for ticks in self.cpus.values():
            ticks[0] += round(100 * seconds * busy)
            ticks[1] += round(100 * seconds * (1 - busy))
        for pid, cores in own.items():
            self.used[pid] = self.used.get(pid, 0) + round(100 * seconds * cores)
        self.write()

    def write(self) -> None:
        lines = [f"cpu{cpu} {busy} 0 0 {idle} 0 0 0 0 0 0" for cpu, (busy, idle) in self.cpus.items()]
        self.put("proc/stat", "\n".join(["cpu  0 0 0 0", *lines, "ctxt 1"]))
        for pid, ticks in self.used.items():
            self.process(pid, ticks)

    def process(self, pid: int, ticks: int, *, start: int = 5000, state: str = "R") -> None:
        fields = [state, *["0"] * 10, str(ticks), "0", *["0"] * 6, str(start), *["0"] * 20]
        self.put(f"proc/{pid}/stat", f"{pid} (python3) {' '.join(fields)}")

    def put(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def sensors(self, **options) -> Sensors:
        return Sensors(
            self.root,
            options.pop("cohort_file", None),
            clock=lambda: self.now_s,
            hour=lambda: 12.0,
            own_memory=lambda: 7,
            own_pid=options.pop("own_pid", AGENT),
            **options,
        )


@pytest.fixture
def machine(tmp_path):
    machine = Machine(tmp_path / "root")
    machine.run(100.0, own={AGENT: 0.0})
    return machine


def board(name: str) -> Snapshot:
    return Sensors(BOARDS / name, own_pid=AGENT, hour=lambda: 12.0, own_memory=lambda: 7).read()


def test_a_raspberry_pi_4_is_read():
    assert board("raspberry-pi-4") == Snapshot(
        num_cores=4,
        memory_available_bytes=3102208 * 1024,
        memory_own_bytes=7,
        temperature_celsius=48.312,
        throttled=False,
        clock_hz=1.5e9,
        hour_of_day=12.0,
    )


def test_a_jetson_orin_nano_is_read():
    # Its USB-C port is idle, which does not mean that the board is unplugged.
    assert board("jetson-orin-nano") == Snapshot(
        num_cores=6,
        memory_available_bytes=5104640 * 1024,
        memory_own_bytes=7,
        temperature_celsius=50.5,
        throttled=False,
        clock_hz=729.6e6,
        hour_of_day=12.0,
    )


def test_a_laptop_is_read():
    # 40 of 50 and 2 of 10 Wh are 42 of 60; the mouse's 5 % are not the laptop's.
    assert board("laptop") == Snapshot(
        num_cores=8,
        memory_available_bytes=9216000 * 1024,
        memory_own_bytes=7,
        battery_fraction=pytest.approx(0.7),
        charging=False,
        temperature_celsius=61.0,
        throttled=False,
        clock_hz=2.4e9,
        hour_of_day=12.0,
    )


@pytest.mark.parametrize("name", ["raspberry-pi-4", "jetson-orin-nano", "laptop"])
def test_a_fixture_names_its_source(name):
    assert "Documentation/" in (BOARDS / name / "SOURCE.md").read_text()


def test_an_empty_tree_gives_a_snapshot_that_knows_nothing(tmp_path):
    sensors = Sensors(tmp_path, hour=lambda: None, own_memory=lambda: None, own_pid=AGENT)
    assert sensors.read() == Snapshot(num_cores=1)


def test_the_machine_itself_can_be_read():
    assert Sensors().read().num_cores >= 1


@pytest.mark.parametrize(
    ("device", "kind", "state", "throttled"),
    [
        ("cooling_device0", "pwm-fan", "3", None),
        ("cooling_device0", "cpufreq-cpu0", "0", False),
        ("cooling_device0", "thermal-cpufreq-0", "2", True),
        ("cooling_device0", "cpu-throttle-alert", "1", True),
        ("cooling_device0", "Processor", "garbage", None),
    ],
)
def test_a_cooler_that_slows_the_clock_means_throttled(machine, device, kind, state, throttled):
    machine.put(f"sys/class/thermal/{device}/type", kind)
    machine.put(f"sys/class/thermal/{device}/cur_state", state)
    assert machine.sensors().read().throttled is throttled


def test_low_voltage_of_a_raspberry_pi_means_throttled(tmp_path):
    root = tmp_path / "pi"
    shutil.copytree(BOARDS / "raspberry-pi-4", root)
    (root / "sys/class/hwmon/hwmon1/in0_lcrit_alarm").write_text("1\n")
    assert Sensors(root, own_pid=AGENT).read().throttled is True


def test_a_constant_that_is_no_temperature_is_ignored(machine):
    for index, (kind, millidegrees) in enumerate([("PMIC-Die", "100000"), ("CPU-therm", "35500")]):
        machine.put(f"sys/class/thermal/thermal_zone{index}/type", kind)
        machine.put(f"sys/class/thermal/thermal_zone{index}/temp", millidegrees)
    assert machine.sensors().read().temperature_celsius == 35.5


# ---------------------------------------------------------------- others' use of the CPU


def test_the_first_reading_knows_nothing_of_others(machine):
    assert machine.sensors().read().cpu_others_fraction is None


def test_load_of_others_is_the_share_of_all_cores_they_use(machine):
    sensors = machine.sensors()
    sensors.read()
    machine.run(1.0, others=1.0)
    assert sensors.read().cpu_others_fraction == pytest.approx(0.5)


def test_our_own_load_is_not_that_of_others(machine):
    sensors = machine.sensors()
    sensors.read()
    machine.run(1.0, others=0.5, own={AGENT: 1.0})
    assert sensors.read().cpu_others_fraction == pytest.approx(0.25)


def test_processes_of_the_cohort_are_ours(machine, tmp_path):
    path = tmp_path / "cohort.json"
    write_cohort(path, Cohort(agents=(AGENT, 1201), others=(1300,)))
    machine.run(1.0, own={AGENT: 0.0, 1201: 0.0, 1300: 0.0})
    sensors = machine.sensors(cohort_file=path)
    sensors.read()
    machine.run(1.0, others=0.2, own={AGENT: 0.5, 1201: 0.5, 1300: 0.4})
    snapshot = sensors.read()
    assert snapshot.cpu_others_fraction == pytest.approx(0.1)
    assert snapshot.cohort_size == 2


def test_a_load_shows_within_two_seconds_and_is_gone_within_two(machine):
    sensors = machine.sensors()
    seen = []
    for load in [0.0] * 8 + [1.0] * 8 + [0.0] * 8:
        machine.run(0.25, others=load, own={AGENT: 0.8})
        seen.append(sensors.read().cpu_others_fraction)
    assert seen[7] == pytest.approx(0.0, abs=0.01)
    assert seen[15] == pytest.approx(0.5, abs=0.01)
    assert seen[23] == pytest.approx(0.0, abs=0.01)


def test_a_flickering_load_is_seen_as_its_mean(machine):
    sensors = machine.sensors()
    seen = []
    for step in range(40):
        machine.run(0.25, others=2.0 * (step % 2))
        seen.append(sensors.read().cpu_others_fraction)
    assert all(abs(fraction - 0.5) < 0.15 for fraction in seen[10:])


def test_a_long_silence_does_not_linger_in_the_mean(machine):
    sensors = machine.sensors()
    sensors.read()
    machine.run(3600.0, others=2.0)
    sensors.read()
    machine.run(0.5, others=0.0)
    assert sensors.read().cpu_others_fraction == pytest.approx(0.0)


def test_within_the_interval_the_last_snapshot_is_given_again(machine):
    sensors = machine.sensors(interval_s=0.25)
    first = sensors.read()
    machine.run(0.1, others=2.0)
    assert sensors.read() is first


def test_a_recycled_pid_is_not_taken_for_the_process_it_was(machine, tmp_path):
    path = tmp_path / "cohort.json"
    write_cohort(path, Cohort(agents=(AGENT, 1201)))
    machine.run(1.0, own={1201: 0.0})
    sensors = machine.sensors(cohort_file=path)
    sensors.read()
    machine.run(1.0, others=1.0)
    machine.process(1201, 100_000, start=9999)
    assert sensors.read().cpu_others_fraction == pytest.approx(0.5)


def test_only_cpus_the_process_may_run_on_count(machine):
    machine.put("proc/self/status", "Cpus_allowed_list:\t1\n")
    sensors = machine.sensors()
    sensors.read()
    machine.cpus[0][0] += 1000
    machine.run(1.0)
    snapshot = sensors.read()
    assert snapshot.num_cores == 1
    assert snapshot.cpu_others_fraction == pytest.approx(0.0)


def test_a_quota_of_a_control_group_caps_the_cores(machine):
    machine.put("proc/self/cgroup", "0::/\n")
    machine.put("sys/fs/cgroup/cpu.max", "50000 100000\n")
    sensors = machine.sensors()
    sensors.read()
    machine.run(1.0)
    snapshot = sensors.read()
    assert (snapshot.num_cores, snapshot.cpu_others_fraction) == (1, pytest.approx(0.5))


def test_memory_of_a_control_group_caps_what_is_available(machine):
    machine.put("proc/meminfo", "MemAvailable: 1000 kB\n")
    machine.put("proc/self/cgroup", "0::/\n")
    machine.put("sys/fs/cgroup/memory.max", "500000\n")
    machine.put("sys/fs/cgroup/memory.current", "100000\n")
    assert machine.sensors().read().memory_available_bytes == 400_000


# ---------------------------------------------------------------- cohort


def test_a_missing_cohort_file_means_alone(machine, tmp_path):
    assert machine.sensors(cohort_file=tmp_path / "none.json").read().cohort_size == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"agents": ["x"]}', '{"agents": [-1]}', "\0\0"])
def test_a_garbled_cohort_file_means_alone(machine, tmp_path, text):
    path = tmp_path / "cohort.json"
    path.write_text(text)
    assert machine.sensors(cohort_file=path).read().cohort_size == 1


def test_only_living_agents_share(machine, tmp_path):
    path = tmp_path / "cohort.json"
    write_cohort(path, Cohort(agents=(AGENT, 1201, 1202, 1203)))
    machine.process(1201, 5)
    machine.process(1202, 5, state="Z")
    assert machine.sensors(cohort_file=path).read().cohort_size == 2


def test_an_agent_that_is_not_listed_yet_counts_itself(machine, tmp_path):
    path = tmp_path / "cohort.json"
    write_cohort(path, Cohort(agents=(1201,)))
    machine.process(1201, 5)
    assert machine.sensors(cohort_file=path).read().cohort_size == 2


# ---------------------------------------------------------------- trouble


def test_a_garbled_file_is_unknown_and_logged_once_until_it_changes(machine, caplog):
    machine.put("proc/meminfo", "MemAvailable: lots\n")
    sensors = machine.sensors(interval_s=0.0)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert sensors.read().memory_available_bytes is None
        assert len(caplog.records) == 1
        machine.put("proc/meminfo", "MemAvailable: 1 kB\n")
        assert sensors.read().memory_available_bytes == 1024
        machine.put("proc/meminfo", "MemAvailable: lots\n")
        sensors.read()
    assert len(caplog.records) == 2


def test_an_unreadable_file_is_unknown_and_logged(machine, caplog):
    (machine.root / "proc/meminfo").mkdir(parents=True)
    with caplog.at_level(logging.WARNING):
        assert machine.sensors().read().memory_available_bytes is None
    assert "proc/meminfo" in caplog.text


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_a_board_whose_files_rot_never_raises(data, tmp_path_factory):
    root = tmp_path_factory.mktemp("rot")
    for path in sorted((BOARDS / "laptop").rglob("*")):
        if path.is_file() and path.parts[-4:-2] != ("system", "cpu"):
            target = root / path.relative_to(BOARDS / "laptop")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data.draw(st.just(path.read_bytes()) | st.binary(max_size=30)))
    snapshot = Sensors(root, own_pid=AGENT, hour=lambda: 1.0).read()
    assert snapshot.num_cores >= 1
    assert snapshot.battery_fraction is None or 0 <= snapshot.battery_fraction <= 1
