"""When a paced flow may send its next bits: a schedule of absolute times, so that no error adds up."""

from __future__ import annotations

# A writer that was held up for longer does not send the rest after at full speed: the lost time is counted instead.
MAX_LAG_S = 0.5


class Pacer:
    """Releases bits at `rate_bps` from `start_s` on; the first `head_start_bits` are released at `start_s`.

    Falling behind by less than MAX_LAG_S is made up, so the mean rate is exact; what exceeds it adds to `lost_s`.
    """

    def __init__(self, rate_bps: float, start_s: float, head_start_bits: float = 0.0) -> None:
        if not rate_bps > 0:
            raise ValueError(f"rate_bps is {rate_bps}: a pacer needs a rate above 0")
        self.rate_bps, self.start_s = rate_bps, start_s
        self._origin_s = start_s - head_start_bits / rate_bps
        self._bits = 0.0
        self.lost_s = 0.0

    def release_s(self, bits: float, now: float) -> float:
        """Take the next `bits` as sent and return when they may go; a time that is past means at once."""
        due_s = max(self._origin_s + self._bits / self.rate_bps, self.start_s)
        lag_s = now - due_s - MAX_LAG_S
        if lag_s > 0:
            self.lost_s += lag_s
            self._origin_s += lag_s
        self._bits += bits
        return due_s
