from __future__ import annotations

import logging

import pytest

from device_agent.logs import PACKAGES, set_up_logs
from firmware_profiles.errors import UserError


@pytest.fixture(autouse=True)
def restore_logging():
    loggers = [logging.getLogger(), *map(logging.getLogger, PACKAGES)]
    levels, handlers = [logger.level for logger in loggers], list(logging.getLogger().handlers)
    yield
    logging.getLogger().handlers[:] = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def test_a_log_level_in_small_letters_is_understood():
    set_up_logs("debug")
    assert logging.getLogger("device_agent").level == logging.DEBUG


def test_an_unknown_log_level_names_the_known_ones():
    with pytest.raises(UserError, match="'loud' is unknown: choose one of DEBUG, INFO"):
        set_up_logs("loud")
