"""More sites than a page can show, put together: by loop and the shape of their name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from laser_fx.loops import Site, Step
from laser_fx.reporting.parts import SiteReport
from laser_fx.reporting.series import Stretch, shortened

__all__ = ["LIMIT", "Shown", "shown_sites"]

LIMIT = 240
"""Sites that are shown one by one."""
CELLS = 96
"""Stretches that the steps of a group are cut into."""


@dataclass(frozen=True)
class Shown:
    """The rows of the page's tables and charts.

    Args:
        rows: sites, or groups of them.
        counts: how many sites each row stands for.
        row_of: key of a site → its row.
        note: what was put together and how; None where every site has its row.
    """

    rows: tuple[SiteReport, ...]
    counts: tuple[int, ...]
    row_of: dict[str, int]
    note: str | None = None


@dataclass(frozen=True)
class _Group(SiteReport):
    """Several sites in one row. Its steps are moments, each with the worst of all: totals cannot be told from them."""

    lowest: float | None = field(default=None, compare=False)
    counts: tuple[int, int, int] = field(default=(0, 0, 0), compare=False)

    @property
    def lowest_fidelity(self) -> float | None:
        """The least of its sites."""
        return self.lowest

    @property
    def tracked(self) -> int:
        """Of all its sites together, as those that follow."""
        return self.counts[0]

    @property
    def resets(self) -> int:
        return self.counts[1]

    @property
    def exact(self) -> int:
        return self.counts[2]


def shown_sites(sites: Sequence[SiteReport], limit: int = LIMIT) -> Shown:
    """Every site by itself where they are few; else groups, in each of which the worst is shown.

    >>> many = [SiteReport(Site(f"layers.{i}.up", "loop_0", "w", 8, 4, 4, steps=2, rank=i)) for i in range(1000)]
    >>> shown = shown_sites(many)
    >>> shown.rows[0].site.key, shown.rows[0].site.rank, shown.counts
    ('loop_0:layers.*.up', 999, (1000,))
    >>> print(shown.note)
    1,000 sites are shown as 1 group, by loop and module, * being any number. A row has the largest rank and the lowest fidelity of its sites, and counts the steps of all of them.
    """  # noqa: E501
    if len(sites) <= limit:
        return Shown(tuple(sites), (1,) * len(sites), {site.site.key: row for row, site in enumerate(sites)})
    for name, key in _KEYS.items():
        groups = _grouped(sites, key)
        if len(groups) <= limit:
            return _shown(groups, len(sites), name)
    return _shown(_worst(_grouped(sites, _loop), limit), len(sites), "loop, the loops with the lowest fidelity first")


def _numbered(site: Site) -> tuple[str, str]:
    return site.loop, re.sub(r"\d+", "*", site.name)


def _outer(site: Site) -> tuple[str, str]:
    loop, name = _numbered(site)
    return loop, ".".join([*name.split(".")[:2], "…"])


def _loop(site: Site) -> tuple[str, str]:
    return site.loop, "all sites"


_Key = Callable[[Site], tuple[str, str]]
_KEYS: dict[str, _Key] = {
    "loop and module, * being any number": _numbered,
    "loop and outer module": _outer,
    "loop": _loop,
}
_Groups = dict[tuple[str, str], list[SiteReport]]


def _grouped(sites: Iterable[SiteReport], key: _Key) -> _Groups:
    groups: _Groups = {}
    for site in sites:
        groups.setdefault(key(site.site), []).append(site)
    return groups


def _worst(groups: _Groups, limit: int) -> _Groups:
    """The groups of lowest fidelity, and one of all others."""
    ordered = sorted(groups.items(), key=lambda group: _lowest(group[1]))
    rest = [site for _, members in ordered[limit - 1 :] for site in members]
    return dict(ordered[: limit - 1]) | {("other loops", "all sites"): rest}


def _lowest(members: Iterable[SiteReport]) -> float:
    return min((m.lowest_fidelity for m in members if m.lowest_fidelity is not None), default=2.0)


def _shown(groups: _Groups, sites: int, by: str) -> Shown:
    rows = tuple(_pooled(loop, name, members) for (loop, name), members in groups.items())
    row_of = {member.site.key: row for row, members in enumerate(groups.values()) for member in members}
    note = f"{sites:,} sites are shown as {len(rows):,} {'group' if len(rows) == 1 else 'groups'}, by {by}. "
    note += "A row has the largest rank and the lowest fidelity of its sites, and counts the steps of all of them."
    return Shown(rows, tuple(map(len, groups.values())), row_of, note)


def _pooled(loop: str, name: str, members: list[SiteReport]) -> SiteReport:
    sites = [member.site for member in members]
    ranks = [site.rank for site in sites if site.rank is not None]
    widest = max(sites, key=lambda site: site.features)
    site = replace(widest, name=name, loop=loop, steps=max(site.steps for site in sites), rank=max(ranks, default=None))
    return _Group(
        site,
        steps=_pooled_steps([member.steps for member in members if member.steps]),
        rank_at=tuple(max(ranks) for ranks in zip(*(m.rank_at for m in members if m.rank_at), strict=False)),
        energy=min((m.energy for m in members if m.energy is not None), default=None),
        flops_share=_sum(member.flops_share for member in members),
        saved_share=_sum(member.saved_share for member in members),
        left_exact=next((member.left_exact for member in members if member.left_exact), None),
        lowest=min((m.lowest_fidelity for m in members if m.lowest_fidelity is not None), default=None),
        counts=(sum(m.tracked for m in members), sum(m.resets for m in members), sum(m.exact for m in members)),
    )


def _sum(shares: Iterable[float | None]) -> float | None:
    known = [share for share in shares if share is not None]
    return sum(known) if known else None


def _pooled_steps(series: list[tuple[Step, ...]]) -> tuple[Step, ...]:
    """The steps of all members side by side, from the first to the last; of each moment the worst."""
    parts: list[Sequence[Step | Stretch]] = [
        steps if len(steps) <= CELLS else shortened(steps, CELLS) for steps in series
    ]
    length = max(map(len, parts), default=0)
    return tuple(_worst_step([part[len(part) * i // length] for part in parts]) for i in range(length))


def _worst_step(stretches: Sequence[Step | Stretch]) -> Step:
    return Step(
        fidelity=min(stretch.fidelity for stretch in stretches),
        rank=max(stretch.rank for stretch in stretches),
        tracked=any(stretch.tracked for stretch in stretches),
        reset=any(stretch.reset for stretch in stretches),
        exact=any(stretch.exact for stretch in stretches),
    )
