"""The report: what was found, measured and done. Data, with three ways to look at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, TextIO

from laser_fx.errors import InputError, OptionError
from laser_fx.loops import LoopNest, NearMiss
from laser_fx.memory.plan import Plan
from laser_fx.options import Options
from laser_fx.reporting import frames, graphviz, html, model_explorer, text
from laser_fx.reporting.measured import CarryTrajectory, GraphPicture, LoopDynamics, MemoryArm, OnnxSize
from laser_fx.reporting.parts import Flops, GraphSize, SavedBytes, SiteReport
from laser_fx.reporting.plain import parsed, plain

__all__ = ["SCHEMA", "Report"]

SCHEMA = 3
"""Version of what `Report.to_dict` returns: it grows when a reader of the older one would misread the newer one."""
_READABLE = (1, 2, 3)
"""Schema 1 has no near-misses, 2 nothing of `laser_fx.reporting.measured` and no plan."""


@dataclass(frozen=True, repr=False)
class Report:
    """What a compilation, or an inspection, found and did.

    Args:
        model: name of the model's class.
        loops: the loop nest.
        sites: what was found at each site, in program order.
        options: the options that it was made with.
        environment: versions and machine, see `laser_fx.reporting.environment`.
        flops: floating-point operations of one call; ``None`` where not measured.
        saved_bytes: bytes saved for backward; ``None`` where not measured.
        graph: nodes captured and rolled; ``None`` where not measured.
        warnings: what the user should know, one sentence each.
        near_misses: repetitions that are nearly loops, and what keeps them from being one, best first.
        trajectories: how every floating carry moves, by loop; empty where not measured.
        dynamics: leading eigenvalues of each loop body's Jacobian; empty where not measured.
        memory: bytes held for backward by class of operator, eager first; empty where not measured.
        plan: what the memory plan keeps, value by value; None where there is no plan.
        onnx: size of the exported file in each form; empty where not measured.
        picture: the rolled graph, to be drawn; None where not asked for.
        control: the same of the untrained model, its weights drawn anew; None where not asked for.

    >>> from laser_fx.loops import Loop
    >>> report = Report("Tiny", LoopNest((Loop("loop_0", 4, carry=("z",)),)))
    >>> report
    Report('Tiny', 1 loop, 0 sites)
    >>> Report.from_dict(report.to_dict()) == report
    True
    """

    model: str
    loops: LoopNest = field(default_factory=LoopNest)
    sites: tuple[SiteReport, ...] = ()
    options: Options = field(default_factory=Options)
    environment: Mapping[str, str] = field(default_factory=dict)
    flops: Flops | None = None
    saved_bytes: SavedBytes | None = None
    graph: GraphSize | None = None
    warnings: tuple[str, ...] = ()
    near_misses: tuple[NearMiss, ...] = ()
    trajectories: tuple[CarryTrajectory, ...] = ()
    dynamics: tuple[LoopDynamics, ...] = ()
    memory: tuple[MemoryArm, ...] = ()
    plan: Plan | None = None
    onnx: tuple[OnnxSize, ...] = ()
    picture: GraphPicture | None = None
    control: Report | None = None

    def to_dict(self) -> dict[str, Any]:
        """The report for ``json.dumps``: loop bodies left out, NaN as ``None``, and ``"schema"``, see `SCHEMA`."""
        control = None if self.control is None else self.control.to_dict()
        return {"schema": SCHEMA, **plain(self), "loops": plain(self.loops.loops), "control": control}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """The report that `to_dict` made a dictionary of.

        Raises:
            InputError: the dictionary is no report, or one of another schema.
        """
        if not isinstance(data, Mapping):
            what = f"a report is made of a dictionary, not of a {type(data).__name__}"
            raise InputError(what, where="Report.from_dict", fix="pass what to_dict returned")
        _check_schemas(data)
        try:
            report: Report = parsed(cls, _fields(data))
        except TypeError as error:
            raise InputError(
                "the dictionary is no report", where=str(error), fix="pass what to_dict returned"
            ) from error
        except OptionError as error:
            raise InputError(
                f"the dictionary is no report: {error.what}", where=error.where, fix="pass what to_dict returned"
            ) from error
        return report

    def print(self, file: TextIO | None = None) -> None:
        """Prints the nest, the sites and the totals, in colour on a terminal.

        Args:
            file: where to; standard output unless given.
        """
        text.print_report(self, file)

    def to_html(self, path: str | PathLike[str], overwrite: bool = False) -> Path:
        """Writes one page that needs no other file and no network.

        Args:
            path: the file to write. Its folder must exist.
            overwrite: whether a file of that name may be replaced.

        Returns:
            The path.

        Raises:
            OutputPathError: the file exists, or cannot be written there.
        """
        return html.write(self, Path(path), overwrite=overwrite)

    def to_dot(self) -> str:
        """The nest in Graphviz's language: clusters for loops, sites with rank and fidelity, and what flows between."""
        return graphviz.dot(self)

    def to_svg(self, path: str | PathLike[str], overwrite: bool = False) -> Path:
        """Draws what `to_dot` says with Graphviz's program ``dot``; arguments and return value as for `to_html`.

        Raises:
            OutputPathError: the file exists, or cannot be written there.
            MissingDependencyError: ``dot`` is not installed, or fails.
        """
        return graphviz.write_svg(self, Path(path), overwrite=overwrite)

    def to_model_explorer(self, path: str | PathLike[str], overwrite: bool = False) -> tuple[Path, ...]:
        """Writes the rolled graph for Model Explorer (``pip install ai-edge-model-explorer``), and overlays beside it.

        Args:
            path: the graph's file, ``trm.json``: its nodes in namespaces ``loop_0/loop_0_0/layers/0/mlp``. Beside it go
                ``trm.rank.json`` and ``trm.fidelity.json``, values of the sites that colour their nodes.
            overwrite: whether files of these names may be replaced.

        Returns:
            The paths: the graph first, then those of the overlays that have a value.

        Raises:
            OutputPathError: a file exists, or cannot be written there.
        """
        return model_explorer.write(self, Path(path), overwrite=overwrite)

    def to_dataframe(self, table: frames.Table = "sites") -> Any:
        """A table of the report as a `pandas.DataFrame`.

        Args:
            table: ``"sites"``; ``"steps"``, what every step at a site did; ``"spectra"``, of every step at a site;
                ``"trajectories"``, of every carry by step; ``"dynamics"``, a row for each eigenvalue; ``"memory"``,
                a row for each arm and class; ``"plan"``, a row for each value.

        Returns:
            One row for each; none, with all columns, where that was not measured.

        Raises:
            MissingDependencyError: pandas is not installed: ``pip install 'laser-fx[pandas]'``.
            OptionError: there is no such table.
        """
        return frames.frame(self, table)

    def __str__(self) -> str:
        return text.render(self)

    def __repr__(self) -> str:
        loops = sum(1 for _ in self.loops.walk())
        return f"Report({self.model!r}, {text.counted(loops, 'loop')}, {text.counted(len(self.sites), 'site')})"


def _check_schemas(data: Any, where: str = "schema") -> None:
    """Of a report, and of its control."""
    while isinstance(data, Mapping):
        schema = data.get("schema")
        if type(schema) is not int or schema not in _READABLE:
            raise InputError(
                f"the report has schema {schema!r}, this version reads {', '.join(map(str, _READABLE))}",
                where=where,
                fix="make the report again, or read it with the version of laser-fx that wrote it",
            )
        data, where = data.get("control"), f"control.{where}"


def _fields(data: Mapping[str, Any]) -> dict[str, Any]:
    """The dictionary as the fields of a `Report` have it: without the schema, the nest as a nest."""
    fields = {key: value for key, value in data.items() if key != "schema"}
    if isinstance(data.get("control"), Mapping):
        fields["control"] = _fields(data["control"])
    return {**fields, "loops": {"loops": fields.get("loops")}}
