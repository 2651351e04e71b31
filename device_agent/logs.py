"""Log lines: for people on a terminal or in a file, JSON under systemd."""

from __future__ import annotations

import json
import logging
import os
import sys

from firmware_profiles.errors import UserError

PACKAGES = ("firmware_profiles", "models", "dse", "device_agent", "coordinator")
"""Whose lines the level is about; libraries speak up from WARNING on."""

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class JsonLines(logging.Formatter):
    """One JSON object a line, as journald's tools and log shippers like it."""

    def format(self, record: logging.LogRecord) -> str:
        """Write level, logger, message and traceback."""
        line = {"level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def set_up_logs(level: str = "INFO") -> None:
    """Send every log line to stderr, so that stdout carries results only.

    Raises:
        UserError: there is no such level.
    """
    if level.upper() not in LEVELS:
        raise UserError(f"log level {level!r} is unknown: choose one of {', '.join(LEVELS)}")
    handler = logging.StreamHandler(sys.stderr)
    if os.environ.get("JOURNAL_STREAM"):
        handler.setFormatter(JsonLines())
    else:
        handler.setFormatter(
            logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")
        )
    logging.basicConfig(level="WARNING", handlers=[handler], force=True)
    for package in PACKAGES:
        logging.getLogger(package).setLevel(level.upper())
