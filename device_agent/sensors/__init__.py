"""What a device has now, read from procfs, sysfs and cgroupfs below a root that is a value.

Reading is apart from parsing: `tree` reads and says once what it could not read; every `parse_*`
is a pure function of text that gives None for what it cannot understand.
"""

from __future__ import annotations

from device_agent.sensors.cohort import Cohort, parse_cohort, write_cohort
from device_agent.sensors.sensors import Sensors

__all__ = ["Cohort", "Sensors", "parse_cohort", "write_cohort"]
