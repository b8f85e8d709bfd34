"""The last minutes of the console's points, and the readings that the window is made of. Bounded. Pure."""

from collections import deque
from typing import Any, Final

from gateway.console.readings import Between, Reading

WINDOW: Final = 30
"""Readings that numbers are made over, one a second."""
KEPT: Final = 600
"""Points that a page gets when it is opened: ten minutes."""


class History:
    """Readings and points, the oldest dropped."""

    def __init__(self, window: int = WINDOW, kept: int = KEPT) -> None:
        self._readings: deque[Reading] = deque(maxlen=window + 1)
        self.points: deque[dict[str, Any]] = deque(maxlen=kept)

    def window(self, reading: Reading) -> Between:
        """From the oldest kept reading to this one, which is kept too. Of the first: nothing."""
        self._readings.append(reading)
        return Between(self._readings[0], reading)
