"""Whether a newcomer may push something out of a full cache: only when it was asked for before. Pure.

Most prompts are asked once. While there is room everything is let in; after that only what was missed a
second time, or one-off prompts would push out what is asked again and again. Source: Einziger, Friedman and
Manes, ACM ToS 13 (2017), whose doorkeeper this is, with two exact generations for its Bloom filter.
"""


class Doorkeeper:
    """Remembers the last `capacity` to 2 × `capacity` keys that were missed."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._young: set[str] = set()
        self._old: set[str] = set()

    def missed(self, key: str) -> bool:
        """Note a miss; whether it was not the first."""
        is_known = key in self._young or key in self._old
        if len(self._young) >= self._capacity:
            self._young, self._old = set(), self._young
        self._young.add(key)
        return is_known
