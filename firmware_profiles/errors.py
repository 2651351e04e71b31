"""The errors of edgetide, by whose fault it is.

::

    EdgetideError
    ├── UserError    a file, option or environment value of the user's: one clear line, exit 1
    ├── PeerError    bytes or claims of another process: logged, counted, dropped; the fleet goes on
    └── WorldError   network, disk, sensor, broker: retried with jitter, or the value becomes None

Errors of our own code are plain Python errors: they crash loudly.
"""

from __future__ import annotations


class EdgetideError(Exception):
    """What edgetide raises on purpose. The message says what, where, and what to do next."""


class UserError(EdgetideError):
    """The user gave something that cannot be used: a file, an option, an environment value."""


class PeerError(EdgetideError):
    """Another process sent something that cannot be trusted."""


class WorldError(EdgetideError):
    """The world failed: network, disk, sensor, broker. Trying again later may help."""
