"""The accuracy of a test, with its confidence interval."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Accuracy:
    """An accuracy with Wilson's 95 % interval, in percent.

    Attributes:
        percent: Share of the videos that were classified correctly.
        low: Lower limit.
        high: Upper limit.
    """

    percent: float
    low: float
    high: float

    @classmethod
    def of(cls, hits: int, videos: int) -> "Accuracy":
        """Return the accuracy for counts."""
        from scipy.stats import binomtest  # here because it takes seconds to import

        interval: Any = binomtest(hits, videos).proportion_ci(method="wilson")
        return cls(100 * hits / videos, 100 * float(interval.low), 100 * float(interval.high))
