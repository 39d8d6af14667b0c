"""How sure a share is."""

from __future__ import annotations

import math

__all__ = ["paired_lower", "wilson"]


def wilson(share: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a share of so many; 95 % for the default ``z``.

    >>> tuple(round(bound, 3) for bound in wilson(0.97, 100))
    (0.915, 0.99)
    """
    spread = z**2 / count
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(centre - half, 0.0), min(centre + half, 1.0)


def paired_lower(lost: int, gained: int, count: int, z: float = 1.644854) -> float:
    """The lower bound of the difference of two shares of the same examples; one-sided, 95 % for the default ``z``.

    By Agresti and Min: half an example is added to each of the four cells, so that few that differ still count.

    Args:
        lost: examples that only the first one has right.
        gained: examples that only the second one has.
        count: of all examples.

    >>> round(paired_lower(lost=0, gained=0, count=1000), 4), round(paired_lower(lost=10, gained=2, count=1000), 4)
    (-0.0016, -0.0139)
    """
    total, minus, plus = count + 2, lost + 0.5, gained + 0.5
    difference = (plus - minus) / total
    variance = (plus + minus) / total - difference**2
    return difference - z * math.sqrt(variance / total)
