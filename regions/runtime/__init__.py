"""What any process of a region stands on; it knows no domain word."""

from typing import Final

OVERRIDE_PREFIX: Final = "MERIDIAN__"
"""Begins the name of every variable that overrides a configuration's key."""
