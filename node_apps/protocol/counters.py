"""Named event counts: a plain dict of ints that starts every name at 0."""

from __future__ import annotations


class Counters(dict[str, int]):
    """Counts by name, ready for JSON. A name appears once it has been counted.

    >>> counters = Counters()
    >>> counters.count("duplicate")
    >>> counters["duplicate"], counters["late"], dict(counters)
    (1, 0, {'duplicate': 1})
    """

    def __missing__(self, name: str) -> int:
        return 0

    def count(self, name: str, n: int = 1) -> None:
        """Add `n` to the count of `name`."""
        self[name] = self.get(name, 0) + n
