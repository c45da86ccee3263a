"""A share of requests: of those that go to a new fleet, to a shadow variant, into captured data."""

import threading
from fractions import Fraction


class Sampler:
    """Takes a share of what it counts, evenly and never more than it."""

    def __init__(self, share: Fraction) -> None:
        self._share = share
        self._count = 0
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Whether the next one is taken: after n calls, floor(n · share) of them have been."""
        with self._lock:
            before = self._count * self._share.numerator // self._share.denominator
            self._count += 1
            return self._count * self._share.numerator // self._share.denominator > before
