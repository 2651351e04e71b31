from __future__ import annotations

import pytest

from device_agent.stored_policy import StoredPolicy
from device_agent.wire.codec import digest_of
from firmware_profiles.errors import UserError
from firmware_profiles.policy import Policy, policy_digest

ROLLED_OUT = b"max_cpu_share_fraction: 0.25\n"


@pytest.fixture
def owners(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("max_cpu_share_fraction: 0.5\n")
    return path


@pytest.fixture
def stored(tmp_path, owners):
    policy = StoredPolicy(tmp_path / "state" / "policy.yaml", owners)
    policy.path.parent.mkdir()
    return policy


def test_without_any_policy_the_default_is_in_force(tmp_path):
    found = StoredPolicy(tmp_path / "policy.yaml", None).in_force()
    assert found == (Policy(), policy_digest(Policy()))


def test_the_owners_file_is_in_force_until_one_is_rolled_out(stored):
    assert stored.in_force()[0].max_cpu_share_fraction == 0.5


def test_a_policy_that_was_rolled_out_outlives_a_restart(stored, owners):
    stored.keep(ROLLED_OUT)
    policy, digest = StoredPolicy(stored.path, owners).in_force()
    assert (policy.max_cpu_share_fraction, digest) == (0.25, digest_of(ROLLED_OUT))


def test_a_policy_that_was_rolled_out_yields_to_a_file_the_owner_wrote_since(stored, owners):
    stored.keep(ROLLED_OUT)
    owners.write_text("max_cpu_share_fraction: 0.75\n")
    assert stored.in_force()[0].max_cpu_share_fraction == 0.75


def test_a_policy_rolled_out_without_a_file_of_the_owners_yields_to_one_given_later(tmp_path, owners):
    path = tmp_path / "policy.yaml"
    StoredPolicy(path, None).keep(ROLLED_OUT)
    assert StoredPolicy(path, None).in_force()[0].max_cpu_share_fraction == 0.25
    assert StoredPolicy(path, owners).in_force()[0].max_cpu_share_fraction == 0.5


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"max_cpu_share: 1\n", b""])
def test_a_damaged_stored_policy_is_passed_over_aloud(stored, caplog, damage):
    stored.keep(ROLLED_OUT)
    stored.path.write_bytes(damage)
    policy, _ = stored.in_force()
    assert policy.max_cpu_share_fraction == 0.5 or damage == b""
    assert ("stored policy ignored" in caplog.text) or damage == b""


def test_an_owners_policy_that_is_not_there_is_an_error_that_names_it(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.yaml"):
        StoredPolicy(tmp_path / "policy.yaml", tmp_path / "nowhere.yaml").in_force()


def test_a_disk_that_cannot_keep_a_policy_does_not_stop_the_agent(tmp_path, caplog):
    StoredPolicy(tmp_path / "no such folder" / "policy.yaml", None).keep(ROLLED_OUT)
    assert "lost at a restart" in caplog.text
