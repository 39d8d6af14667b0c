"""How sure a share is."""

from __future__ import annotations

import math

__all__ = ["wilson"]


def wilson(share: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a share of so many; 95 % for the default ``z``.

    >>> tuple(round(bound, 3) for bound in wilson(0.97, 100))
    (0.915, 0.99)
    """
    spread = z**2 / count
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(centre - half, 0.0), min(centre + half, 1.0)
