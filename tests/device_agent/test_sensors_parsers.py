"""Parsers of kernel files: known text gives known values, garbage gives None and never raises."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agent.sensors.cgroup import (
    Limits,
    parse_cpu_max,
    parse_membership,
    parse_reclaimable,
    read_limits,
)
from device_agent.sensors.cohort import parse_cohort
from device_agent.sensors.power import parse_online, parse_percent, parse_positive, parse_status
from device_agent.sensors.procfs import (
    CpuTicks,
    ProcessTicks,
    parse_allowed_cpus,
    parse_cpu_list,
    parse_memory_available,
    parse_process_stat,
    parse_stat,
)
from device_agent.sensors.thermal import parse_alarm, parse_kilohertz, parse_millidegrees, parse_throttled
from device_agent.sensors.tree import Tree, parse_int

PARSERS = [
    parse_alarm,
    parse_allowed_cpus,
    parse_cohort,
    parse_cpu_list,
    parse_cpu_max,
    parse_int,
    parse_kilohertz,
    parse_membership,
    parse_memory_available,
    parse_millidegrees,
    parse_online,
    parse_percent,
    parse_positive,
    parse_process_stat,
    parse_reclaimable,
    parse_stat,
    parse_status,
    parse_throttled,
]
GARBAGE = [
    "",
    "\0",
    "-",
    "nan",
    "٣",
    "1e+9",
    "9" * 5000,
    "cpu0 1 2",
    "cpu0 a b c d e",
    "1 (x) R 1",
    "[" * 5000,
    "\ud800",
]
WORDS = st.sampled_from(
    [
        *("cpu0", "cpu", "(", ")", "R", "max", "0::/", "MemAvailable:", "kB"),
        *("Cpus_allowed_list:", "inactive_file", "0-3", "-1", "7", "²", "\n"),
    ]
)


@pytest.mark.parametrize("parse", PARSERS, ids=lambda parse: parse.__name__)
@pytest.mark.parametrize("text", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_no_value(parse, text):
    assert not parse(text)


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=80) | st.lists(WORDS, max_size=40).map(" ".join))
def test_no_parser_raises_on_any_text(text):
    for parse in PARSERS:
        parse(text)


def test_guest_time_is_not_counted_twice_and_stolen_time_is_busy():
    # user nice system idle iowait irq softirq steal guest guest_nice
    assert parse_stat("cpu0 100 10 20 1000 50 1 2 5 90 9") == {0: CpuTicks(busy=138, idle=1050)}


def test_the_sum_line_is_not_taken_for_a_cpu():
    assert set(parse_stat("cpu  4 0 0 4\ncpu0 2 0 0 2\ncpu3 2 0 0 2\nintr 5") or {}) == {0, 3}


def test_a_command_with_parentheses_and_spaces_does_not_shift_the_fields():
    text = "7 (a) R (b c) S " + " ".join(str(number) for number in range(4, 53))
    assert parse_process_stat(text) == ProcessTicks(start=22, used=14 + 15)


def test_a_zombie_does_not_live():
    assert parse_process_stat("7 (x) Z " + " ".join(["1"] * 49)) is None


def test_a_list_of_cpus_has_ranges_and_single_ones():
    assert parse_cpu_list("0-2,5") == {0, 1, 2, 5}


def test_available_memory_is_in_bytes():
    assert parse_memory_available("MemTotal: 9 kB\nMemAvailable:   3 kB\n") == 3072


@pytest.mark.parametrize(
    ("text", "cores"), [("150000 100000", 1.5), ("max 100000", None), ("0 0", None), ("-1 5", None)]
)
def test_a_cpu_quota_is_in_cores(text, cores):
    assert parse_cpu_max(text) == cores


def test_memberships_are_by_controller_and_version_2_has_no_name():
    assert parse_membership("0::/a\n4:cpu,cpuacct:/b\nbroken") == {"": "/a", "cpu": "/b", "cpuacct": "/b"}


def test_a_membership_cannot_lead_out_of_the_tree():
    assert parse_membership("0::/../../etc") == {}


def test_reclaimable_memory_includes_the_children():
    assert parse_reclaimable("inactive_file 5\ntotal_inactive_file 50") == 50
    assert parse_reclaimable("anon 9\ninactive_file 5") == 5


@pytest.mark.parametrize(
    ("text", "celsius"), [("48312", 48.312), ("-5000", -5.0), ("-274000", None), ("999999", None)]
)
def test_a_temperature_no_running_board_has_is_unknown(text, celsius):
    assert parse_millidegrees(text) == celsius


@pytest.mark.parametrize(
    ("text", "throttled"),
    [("0", False), ("50000", False), ("50005", True), ("0x8", True), ("xyz", None), ("-1", None)],
)
def test_only_the_present_bits_of_the_firmware_mean_throttled(text, throttled):
    assert parse_throttled(text) is throttled


@pytest.mark.parametrize(
    ("text", "external"),
    [("Charging", True), ("Full", True), ("Not charging", True), ("Discharging", False), ("Unknown", None)],
)
def test_a_battery_status_tells_of_external_power(text, external):
    assert parse_status(text) is external


def put(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Tree(root)


def test_the_tightest_group_of_all_ancestors_binds(tmp_path):
    tree = put(
        tmp_path,
        {
            "proc/self/cgroup": "0::/outer/inner\n",
            "sys/fs/cgroup/outer/inner/cpu.max": "max 100000\n",
            "sys/fs/cgroup/outer/cpu.max": "50000 100000\n",
            "sys/fs/cgroup/outer/inner/memory.max": "1000\n",
            "sys/fs/cgroup/outer/inner/memory.current": "900\n",
            "sys/fs/cgroup/outer/inner/memory.stat": "anon 600\ninactive_file 300\n",
            "sys/fs/cgroup/outer/memory.max": "5000\n",
            "sys/fs/cgroup/outer/memory.current": "100\n",
        },
    )
    assert read_limits(tree) == Limits(num_cores=0.5, memory_available_bytes=400)


def test_groups_of_version_1_bind_too(tmp_path):
    tree = put(
        tmp_path,
        {
            "proc/self/cgroup": "3:cpu,cpuacct:/box\n2:memory:/box\n",
            "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "200000\n",
            "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "1000\n",
            "sys/fs/cgroup/memory/box/memory.usage_in_bytes": "400\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "400\n",
        },
    )
    assert read_limits(tree) == Limits(num_cores=2.0, memory_available_bytes=600)


def test_a_machine_without_groups_has_no_limits(tmp_path):
    assert read_limits(Tree(tmp_path)) == Limits()
