"""A report's tables, row by row, and as pandas DataFrames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, get_args

from laser_fx.errors import MissingDependencyError, OptionError
from laser_fx.reporting.parts import ENERGIES
from laser_fx.reporting.plain import plain

if TYPE_CHECKING:
    from laser_fx.reporting.report import Report

__all__ = ["Table", "frame", "rows"]

Table = Literal["sites", "steps", "spectra", "trajectories", "dynamics", "memory", "plan"]
Row = dict[str, Any]


def rows(report: Report, table: Table) -> list[Row]:
    """One dictionary for each row; all have the same keys.

    Raises:
        OptionError: there is no such table.
    """
    if table not in get_args(Table):
        raise OptionError(
            f"table is {table!r}", where="to_dataframe", fix=f"choose one of {', '.join(get_args(Table))}"
        )
    return list(_TABLES[table](report))


def frame(report: Report, table: Table) -> Any:
    """The same as a DataFrame; its columns are there without rows, too.

    Raises:
        MissingDependencyError: pandas is not installed.
    """
    found = rows(report, table)
    try:
        import pandas
    except ImportError as error:
        raise MissingDependencyError(
            "pandas is not installed", where="to_dataframe", fix="pip install 'laser-fx[pandas]'"
        ) from error
    return pandas.DataFrame(found, columns=None if found else list(_COLUMNS[table]))


def _sites(report: Report) -> Iterator[Row]:
    for site in report.sites:
        yield {
            **plain(site.site),
            **_by_energy("rank", site.rank_at),
            "energy": site.energy,
            "lowest_fidelity": site.lowest_fidelity,
            "tracked": site.tracked,
            "resets": site.resets,
            "exact": site.exact,
            "flops_share": site.flops_share,
            "saved_share": site.saved_share,
            "left_exact": site.left_exact,
        }


def _steps(report: Report) -> Iterator[Row]:
    for site in report.sites:
        for number, step in enumerate(site.steps):
            yield {"site": site.site.key, "step": number, **plain(step)}


def _spectra(report: Report) -> Iterator[Row]:
    for site in report.sites:
        for step in site.spectra:
            yield {
                "site": site.site.key,
                "step": step.step,
                "effective_rank": step.effective_rank,
                **_by_energy("rank", step.ranks),
                **_by_energy("centred_rank", step.centred_ranks),
                "mean_share": step.mean_share,
                "drift": step.drift,
                "mean_drift": step.mean_drift,
                "values": list(step.values),
            }


def _trajectories(report: Report) -> Iterator[Row]:
    for trajectory in report.trajectories:
        for step in trajectory.steps:
            yield {"loop": trajectory.loop, "carry": trajectory.carry, **plain(step)}


def _dynamics(report: Report) -> Iterator[Row]:
    for loop in report.dynamics:
        for step in loop.steps:
            for place, (value, residual) in enumerate(zip(step.eigenvalues, step.residuals, strict=True)):
                yield {
                    "loop": loop.loop,
                    "step": step.step,
                    "eigenvalue": place,
                    "real": value[0],
                    "imaginary": value[1],
                    "modulus": abs(complex(*value)),
                    "residual": residual,
                    "norm": step.norm,
                }


def _memory(report: Report) -> Iterator[Row]:
    for arm in report.memory:
        for name, size in arm.classes.items():
            yield {
                "arm": arm.name,
                "class": name,
                "bytes": size,
                "time": arm.time,
                "gradient_error": arm.gradient_error,
            }


def _plan(report: Report) -> Iterator[Row]:
    if report.plan is not None:
        yield from (plain(row) for row in report.plan.rows)


def _by_energy(name: str, ranks: tuple[int, ...]) -> Row:
    """``rank_90`` to ``rank_99.9``; None where they were not measured."""
    shown = [*ranks, *[None] * (len(ENERGIES) - len(ranks))]
    return {f"{name}_{100 * share:g}": rank for share, rank in zip(ENERGIES, shown, strict=True)}


_TABLES: dict[str, Callable[[Any], Iterator[Row]]] = {
    "sites": _sites,
    "steps": _steps,
    "spectra": _spectra,
    "trajectories": _trajectories,
    "dynamics": _dynamics,
    "memory": _memory,
    "plan": _plan,
}
_RANKS = tuple(_by_energy("rank", ()))
_COLUMNS: dict[str, tuple[str, ...]] = {
    "sites": (
        *("name", "loop", "weight", "rows", "features", "outputs", "steps", "rank", "objective", *_RANKS, "energy"),
        *("lowest_fidelity", "tracked", "resets", "exact", "flops_share", "saved_share", "left_exact"),
    ),
    "steps": ("site", "step", "fidelity", "rank", "tracked", "reset", "exact"),
    "spectra": (
        *("site", "step", "effective_rank", *_RANKS, *_by_energy("centred_rank", ())),
        *("mean_share", "drift", "mean_drift", "values"),
    ),
    "trajectories": ("loop", "carry", "step", "change", "cosine", "error"),
    "dynamics": ("loop", "step", "eigenvalue", "real", "imaginary", "modulus", "residual", "norm"),
    "memory": ("arm", "class", "bytes", "time", "gradient_error"),
    "plan": ("segment", "value", "operator", "shape", "codec", "before", "after", "time", "error", "site"),
}
