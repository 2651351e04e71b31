from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from coordinator.state_lock import locked
from firmware_profiles.errors import UserError

HOLD = """
import sys, time
from pathlib import Path
from coordinator.state_lock import locked
with locked(Path(sys.argv[1]), "edgetide coordinator run"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_that_another_process_holds_is_refused_until_that_is_killed(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(UserError, match=r"another `edgetide up` runs on .*--state"),
            locked(tmp_path, "edgetide up"),
        ):
            pass
        holder.send_signal(signal.SIGKILL)
    with locked(tmp_path, "edgetide up"):
        pass


def test_a_folder_that_was_let_go_can_be_held_again(tmp_path):
    for _ in range(2):
        with locked(tmp_path / "new", "edgetide up"):
            pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"state folder .*file/state cannot be used"),
        locked(tmp_path / "file" / "state", "edgetide up"),
    ):
        pass
