"""Heat, throttling and clock.

See the kernel's Documentation/ABI/testing/sysfs-class-thermal, Documentation/driver-api/thermal/
sysfs-api.rst, Documentation/admin-guide/pm/cpufreq.rst and Documentation/hwmon/raspberrypi-hwmon.rst.
"""

from __future__ import annotations

from device_agent.sensors.tree import Tree, parse_int

_ZONES = "sys/class/thermal/thermal_zone*"
_COOLING = "sys/class/thermal/cooling_device*"
_HWMON = "sys/class/hwmon/hwmon*"
_CLOCKS = "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"
# Raspberry Pi OS kernels; the address in the name differs by board.
_GET_THROTTLED = "sys/devices/platform/soc*/soc*:firmware/get_throttled"

# Jetson Nano's PMIC-Die always says 100 °C, and thermal-fan-est is a weighted sum for the fan.
_NOT_TEMPERATURES = frozenset({"PMIC-Die", "thermal-fan-est"})
_SLOWING = ("cpufreq-", "thermal-cpufreq-", "Processor")
_SLOWING_SUFFIX = "-throttle-alert"
_THROTTLED_NOW = 0b1111  # under-voltage, frequency capped, throttled, soft temperature limit


def read_temperature(tree: Tree) -> float | None:
    """The hottest thermal zone in degrees Celsius."""
    readings = []
    for folder in tree.paths(_ZONES):
        if tree.text(f"{folder}/type") in _NOT_TEMPERATURES:
            continue
        text = tree.text(f"{folder}/temp")  # a zone that is switched off may say anything
        reading = None if text is None else parse_millidegrees(text)
        if reading is not None:
            readings.append(reading)
    return max(readings, default=None)


def parse_millidegrees(text: str) -> float | None:
    """Millidegrees as degrees Celsius; outside -40..150 it is not a temperature of a running board."""
    millidegrees = parse_int(text)
    return None if millidegrees is None or not -40_000 <= millidegrees <= 150_000 else millidegrees / 1000


def read_throttled(tree: Tree) -> bool | None:
    """Whether the board slows itself down now, for heat or low voltage; None if it cannot tell.

    A lowered `scaling_max_freq` is not taken for throttling: owners and power modes set it too.
    """
    signs = [
        *(tree.value(path, parse_throttled) for path in tree.paths(_GET_THROTTLED)),
        *(_read_low_voltage(tree, folder) for folder in tree.paths(_HWMON)),
        *(_read_cooling(tree, folder) for folder in tree.paths(_COOLING)),
    ]
    known = [sign for sign in signs if sign is not None]
    return any(known) if known else None


def parse_throttled(text: str) -> bool | None:
    """The firmware's word in hexadecimal, with or without 0x. Bits 16 to 19 are the past: ignored."""
    digits = text.removeprefix("0x")
    if not 1 <= len(digits) <= 8 or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
        return None
    return bool(int(digits, 16) & _THROTTLED_NOW)


def _read_low_voltage(tree: Tree, folder: str) -> bool | None:
    if tree.text(f"{folder}/name") != "rpi_volt":
        return None
    return tree.value(f"{folder}/in0_lcrit_alarm", parse_alarm)


def parse_alarm(text: str) -> bool | None:
    """A hwmon alarm: 0 or 1."""
    return {"0": False, "1": True}.get(text)


def _read_cooling(tree: Tree, folder: str) -> bool | None:
    kind = tree.text(f"{folder}/type")
    if kind is None or not (kind.startswith(_SLOWING) or kind.endswith(_SLOWING_SUFFIX)):
        return None  # fans and idle injectors cool without slowing the clock
    state = tree.value(f"{folder}/cur_state", parse_int)
    return None if state is None else state > 0


def read_clock(tree: Tree) -> float | None:
    """Mean clock frequency of the cores in hertz."""
    kilohertz = [known for path in tree.paths(_CLOCKS) if (known := tree.value(path, parse_kilohertz))]
    return 1000.0 * sum(kilohertz) / len(kilohertz) if kilohertz else None


def parse_kilohertz(text: str) -> int | None:
    """A clock frequency in kilohertz, between 1 MHz and 100 GHz."""
    frequency = parse_int(text)
    return frequency if frequency is not None and 1_000 <= frequency <= 100_000_000 else None
