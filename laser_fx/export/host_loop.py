"""The ``step`` form behind the face of a session: what `laser_fx.export.solve` does, on ONNX Runtime."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from laser_fx.errors import OptionError
from laser_fx.export.cuda_graph import CudaGraphs
from laser_fx.export.metadata import FileMetadata
from laser_fx.export.placement import Placement
from laser_fx.export.rows import as_number, copied
from laser_fx.export.schema import MAX_TRIPS
from laser_fx.export.solve import Parts, Solve, Values
from laser_fx.export.step_plan import STEP, Signature

__all__ = ["HostLoop", "StreamedStep", "refresh_every"]


@dataclass(frozen=True)
class StreamedStep:
    """What a model answers after a step.

    Args:
        number: steps so far, from 1.
        answers: outputs by name, as a call with this depth gives them; examples that are done keep theirs.
        done: which examples are done, (batch,) bool; ``None`` where the file knows no halting.
    """

    number: int
    answers: dict[str, Any]
    done: npt.NDArray[np.bool_] | None


Call = Callable[[Any, Mapping[str, Any], Sequence[str]], Sequence[Any]]
"""Runs a session on values by name, for outputs by name."""


class HostLoop:
    """Sessions of the parts as one session of the whole; threads may share it.

    Args:
        metadata: that of the main file.
        sessions: an ``onnxruntime.InferenceSession`` for each part, by role.

    Attributes:
        refresh: bases that follow the loop are refreshed every so many steps; ``None``: only where a step needs it.
        metadata: that of the main file.
        sessions: the sessions.
    """

    def __init__(self, metadata: FileMetadata, sessions: Mapping[str, Any]) -> None:
        assert metadata.step is not None
        self.metadata, self.plan, self.sessions = metadata, metadata.step, sessions
        self._reads = {role: tuple(value.name for value in s.get_inputs()) for role, s in sessions.items()}
        self._makes = {role: tuple(value.name for value in s.get_outputs()) for role, s in sessions.items()}
        self.refresh: int | None = None
        self._last = threading.local()

    @property
    def steps_taken(self) -> int:
        """Steps of this thread's last call."""
        return getattr(self._last, "steps", 0)

    @property
    def replays(self) -> int:
        """How many of them ran again, exactly."""
        return getattr(self._last, "replays", 0)

    def get_inputs(self) -> list[Signature]:
        """The caller's inputs, with name, type and shape."""
        return list(self.plan.signature)

    def get_outputs(self) -> list[Any]:
        """What the parts make, with name, type and shape."""
        return [value for session in self.sessions.values() for value in session.get_outputs()]

    def get_providers(self) -> list[str]:
        """Those of the step."""
        providers: list[str] = self.sessions[STEP].get_providers()
        return providers

    def run(self, names: Sequence[str], feed: Mapping[str, Any], options: Any = None) -> list[Any]:
        """Answers for arrays on the CPU, as a session gives them.

        Args:
            names: value names of outputs and records.
            feed: arrays by input name, the number of steps and the fidelity among them where the caller gives them.
            options: an ``onnxruntime.RunOptions``.
        """
        return self._run(names, feed, lambda session, given, wanted: session.run(wanted, given, options))

    def run_placed(
        self, names: Sequence[str], placement: Placement, runtime: Any, graphs: CudaGraphs | None
    ) -> list[Any]:
        """Answers where the inputs lie.

        Args:
            names: value names of outputs and records.
            placement: the inputs.
            runtime: the ONNX Runtime package.
            graphs: the captured graphs of the step, where it has them.
        """
        found = self._run(names, placement.feed, self._call(placement, runtime, graphs))
        return [placement.answer(value) for value in found]

    def stream(self, placement: Placement, runtime: Any, graphs: CudaGraphs | None) -> Iterator[StreamedStep]:
        """The answers after every step, from the first one on at which all of them exist."""
        solve = self.solve(placement.feed, self._call(placement, runtime, graphs))
        while not solve.is_over:
            solve.step()
            self._last.steps, self._last.replays = solve.steps, solve.replays
            if solve.steps >= self.plan.least:
                found = solve.answers()
                answers = {name: placement.answer(copied(found[value])) for name, value in self.metadata.outputs}
                yield StreamedStep(solve.steps, answers, None if solve.done is None else solve.done.copy())

    def solve(self, feed: Mapping[str, Any], call: Call | None = None) -> Solve:
        """A call that is under way, before its first step."""
        depth = next((feed[depth.input] for depth in self.metadata.depths if depth.input in feed), None)
        threshold, halt = self._threshold(feed), self.metadata.halt
        asked = {} if self.metadata.fidelity is None else {self.metadata.fidelity: np.array(threshold, np.float32)}
        return Solve(
            self.plan,
            Parts(self._runner(call or (lambda session, given, wanted: session.run(wanted, given))), self._reads),
            {name: feed[name] for name in self.metadata.inputs} | self._above(feed) | asked,
            self.plan.trips if depth is None else int(depth),
            threshold,
            refresh=self.refresh,
            per_example=halt is not None and halt.per == "example",
        )

    def _threshold(self, feed: Mapping[str, Any]) -> float | None:
        """The fidelity below which a step runs again."""
        given = feed.get(self.metadata.fidelity or self.plan.min_fidelity or "")
        default = None if self.plan.bases is None else self.plan.bases.threshold
        return default if given is None else as_number(given)

    def _above(self, feed: Mapping[str, Any]) -> Values:
        """The logit above which an example is done."""
        halt = self.metadata.halt
        return {} if halt is None else {halt.above: feed.get(halt.above, np.array(halt.default, np.float32))}

    def _call(self, placement: Placement, runtime: Any, graphs: CudaGraphs | None) -> Call:
        step = self.sessions[STEP]
        return lambda session, given, wanted: placement.run(
            runtime, session, given, wanted, graphs if session is step else None
        )

    def _run(self, names: Sequence[str], feed: Mapping[str, Any], call: Call) -> list[Any]:
        read = {kept.name for kept in self.plan.kept}
        records = tuple(value for _, value in self.metadata.records if value in names and value not in read)
        solve = self.solve(feed, call)
        while not solve.is_over:
            solve.step(records)
        self._last.steps, self._last.replays = solve.steps, solve.replays
        found = {**solve.answers(), **solve.records()}
        if self.metadata.halt is not None:
            found[self.metadata.halt.steps] = solve.taken
        return [found[name] for name in names]

    def _runner(self, call: Call) -> Callable[[str, Mapping[str, Any]], Values]:
        def run(role: str, known: Mapping[str, Any]) -> Values:
            names = self._makes[role]
            given = {name: known[name] for name in self._reads[role]}
            return dict(zip(names, call(self.sessions[role], given, names), strict=True))

        return run


def refresh_every(session: Any, steps: int, where: str) -> None:
    """Have a session refresh its bases on a schedule.

    Args:
        session: of any form.
        steps: after how many steps.
        where: words for the error.

    Raises:
        OptionError: the file holds no bases that could be refreshed, or the number is out of range.
    """
    if not isinstance(session, HostLoop) or session.plan.bases is None:
        raise OptionError(
            "the file has no bases that its host could refresh",
            where=f"refresh, {where}",
            fix="leave it out, or export a program with basis='tracked' with form='step'",
        )
    if type(steps) is not int or not 1 <= steps <= MAX_TRIPS:
        raise OptionError(f"refresh is {steps!r}", where=where, fix=f"choose a whole number from 1 to {MAX_TRIPS:,}")
    session.refresh = steps
