"""Fixtures of the farm's tests."""

from standins.farming import start_farm  # noqa: F401
