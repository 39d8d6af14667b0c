"""Numbers as a reader wants them."""

from __future__ import annotations

import math

__all__ = ["bytes_", "count", "factor", "fidelity", "percent", "seconds", "significant", "whole"]


def count(value: float) -> str:
    """Three digits and a unit.

    >>> count(950), count(27_440), count(1_234_000_000)
    ('950', '27.4 k', '1.23 G')
    """
    return _scaled(value, 1000, ("", "k", "M", "G", "T", "P"))


def whole(value: float) -> str:
    """Every digit.

    >>> whole(27440)
    '27,440'
    """
    return f"{value:,.0f}"


def bytes_(value: float) -> str:
    """Three digits and a binary unit.

    >>> bytes_(0), bytes_(1536), bytes_(3_500_000)
    ('0 B', '1.50 KiB', '3.34 MiB')
    """
    return _scaled(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"))


def _scaled(value: float, base: int, units: tuple[str, ...]) -> str:
    power = 0
    while value >= base and power < len(units) - 1:
        value, power = value / base, power + 1
    digits = 0 if not power else max(0, 2 - int(math.log10(value)))
    return f"{value:.{digits}f} {units[power]}".rstrip()


def percent(share: float | None) -> str:
    """A share in [0, 1].

    >>> percent(0.125), percent(0.004), percent(None)
    ('12 %', '0.4 %', '–')
    """
    if share is None:
        return "–"
    return f"{100 * share:.{0 if share >= 0.1 or not share else 1}f} %"


def fidelity(value: float | None) -> str:
    """Five digits, cut off and never rounded up: what reads as 0.999 is at least 0.999.

    >>> fidelity(0.99899999), fidelity(1.0), fidelity(float("nan")), fidelity(1e308), fidelity(None)
    ('0.99899', '1.00000', 'NaN', 'NaN', '–')
    """
    if value is None:
        return "–"
    cut = value * 1e5
    return f"{math.floor(cut) / 1e5:.5f}" if math.isfinite(cut) else "NaN"


def factor(after: float | None, before: float) -> str:
    """How many times as much.

    >>> factor(66, 100), factor(None, 100)
    ('0.66×', '–')
    """
    return "–" if after is None or not before else f"{after / before:.2f}×"


def significant(value: float | None) -> str:
    """Three digits, small and large ones with an exponent.

    >>> significant(0.1234), significant(1.2e-7), significant(0.0), significant(None)
    ('0.123', '1.2e-07', '0', '–')
    """
    return "–" if value is None else f"{value:.3g}"


def seconds(value: float) -> str:
    """Three digits and a unit.

    >>> seconds(2.5), seconds(0.0123), seconds(0.0000456)
    ('2.50 s', '12.3 ms', '45.6 µs')
    """
    unit, scale = next(((u, s) for u, s in (("s", 1.0), ("ms", 1e3)) if value * s >= 1), ("µs", 1e6))
    scaled = value * scale
    return f"{scaled:.{max(0, 2 - int(math.log10(max(scaled, 1.0))))}f} {unit}"
