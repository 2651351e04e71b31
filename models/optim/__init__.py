"""Optimisers on sub-networks: their settings, schedules and states."""
