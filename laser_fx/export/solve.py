"""One call of the ``step`` form on the host: start, steps until enough or until done, finish.

Values are numpy arrays, or torch tensors where they lie; nothing here copies one but to take finished examples out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from laser_fx.export.history import History
from laser_fx.export.rows import Rows, as_bools, as_number, put, stacked, take
from laser_fx.export.step_plan import EXACT, EXACT_START, FINISH, REFRESH, START, STEP, StepPlan

__all__ = ["Parts", "Solve", "Values", "why_not_retire"]

Values: TypeAlias = dict[str, Any]
_NONE_IS_KEPT = 2.0
"""No basis has this fidelity."""


@dataclass(frozen=True)
class Parts:
    """The parts, ready to run.

    Args:
        run: runs the part of a role on values by name, of which it takes those that it reads; gives what it makes.
        reads: names of what each part reads, by role; a role that is not there has no part.
    """

    run: Callable[[str, Mapping[str, Any]], Values]
    reads: Mapping[str, tuple[str, ...]]


class Solve:
    """A call that is under way.

    Args:
        plan: how the parts play together.
        parts: runs them.
        feed: the caller's inputs by name.
        trips: most steps to take.
        threshold: a step whose fidelity is below it runs again, exactly or with other bases; ``None``: none does.
        refresh: bases that follow the loop are refreshed every so many steps too; ``None``: where a step needs it.
        per_example: whether each example is done by itself.

    Attributes:
        steps: how many were taken.
        replays: how many of them ran again.
        done: which examples are done, (batch,) bool; ``None`` where the file does not say.
    """

    def __init__(
        self,
        plan: StepPlan,
        parts: Parts,
        feed: Mapping[str, Any],
        trips: int,
        threshold: float | None = None,
        *,
        refresh: int | None = None,
        per_example: bool = False,
    ) -> None:
        self._plan, self._parts, self._feed = plan, parts, feed
        self._trips, self._threshold, self._refresh = trips, threshold, refresh
        self._first: Values = {**feed, **(parts.run(START, feed) if START in parts.reads else {})}
        changing = {state.name for state in plan.states} | {value.name for value in plan.by_step} | {plan.position}
        bases = () if plan.bases is None else plan.bases.held
        self._held: Values = {state.name: self._first[state.first] for state in bases}
        changing |= self._held.keys() | ({plan.bases.keep_at} if plan.bases else set())
        read = dict.fromkeys((*parts.reads[STEP], *parts.reads.get(REFRESH, ())))
        self._shared: Values = {name: self._first[name] for name in read if name not in changing}
        self._states: Values = {state.name: self._first[state.first] for state in plan.states}
        self._history = History(plan.kept)
        self._records: dict[str, list[Any]] = {}
        self._exact_first: Values | None = None
        self._active: Rows | None = None  # all of them
        self._retired: Values = {}
        self._per_example = per_example
        self._exits: Rows | None = None
        self.steps = self.replays = 0
        self.done: npt.NDArray[np.bool_] | None = None

    @property
    def taken(self) -> Rows:
        """Steps taken, int64: 0-d, or (batch,) where each example is done by itself."""
        return np.array(self.steps, np.int64) if self._exits is None else self._exits

    @property
    def is_over(self) -> bool:
        """Whether there is no step left to take."""
        return self.steps >= self._trips or (
            self.done is not None and self.steps >= self._plan.least and bool(self.done.all())
        )

    def step(self, records: tuple[str, ...] = ()) -> None:
        """Take a step.

        Args:
            records: outputs of the step to keep for every step.
        """
        made = self._made({**self._shared, **self._states, **self._held, **self._by_step()})
        self._states = {state.name: made[state.following] for state in self._plan.states}
        self._history.add(made, self.steps)
        for name in records:
            self._records.setdefault(name, []).append(made[name])
        self.steps += 1
        if self._plan.halted is not None:
            self._halt(as_bools(made[self._plan.halted]))

    def _made(self, given: Values) -> Values:
        """What the step makes, run again where it fell below the fidelity."""
        if self._is_due():
            return self._refreshed(given, at_once=self.steps > 0)
        made = self._parts.run(STEP, given)
        if self._is_below(made):
            again = self._refreshed(given) if self._plan.bases else self._parts.run(EXACT, given | self._for_exact())
            made |= again
            self.replays += 1
        return made

    def _is_due(self) -> bool:
        """Whether the bases are to be refreshed now: no step has made those that the first one has."""
        return self._plan.bases is not None and (
            self.steps == 0 or bool(self._refresh and not self.steps % self._refresh)
        )

    def _refreshed(self, given: Values, *, at_once: bool = False) -> Values:
        """The step with bases that follow it; ``at_once``: all of them, not only those that fell below."""
        assert self._plan.bases is not None
        keep_at = np.array(_NONE_IS_KEPT if at_once else self._threshold, np.float32)
        made = self._parts.run(REFRESH, {**given, self._plan.bases.keep_at: keep_at})
        self._held = {state.name: made[state.following] for state in self._plan.bases.held}
        return made

    def answers(self) -> Values:
        """What the steps so far lead to: all that the finish makes, and what it reads, by name.

        Examples that are done answer as they did when they were.
        """
        retired = {} if self._active is None else self._together()
        known = {**self._first, **self._states, **self._history.values(), **retired}
        return known | (self._parts.run(FINISH, known) if FINISH in self._parts.reads else {})

    def records(self) -> Values:
        """The records that were kept, the steps in front."""
        return {name: stacked(values) for name, values in self._records.items()}

    def _by_step(self) -> Values:
        # With the ellipsis a row of numbers is an array of none: ONNX Runtime takes no scalars.
        rows = {value.name: self._first[value.rows][self.steps, ...] for value in self._plan.by_step}
        here = {name: self._of_active(name, value) for name, value in rows.items()}
        return here if self._plan.position is None else {**here, self._plan.position: np.array(self.steps, np.int64)}

    def _is_below(self, made: Values) -> bool:
        if (
            self._threshold is None
            or self._plan.min_fidelity is None
            or not {EXACT, REFRESH} & self._parts.reads.keys()
        ):
            return False
        return not as_number(made[self._plan.min_fidelity]) >= self._threshold  # what is no number is below, too

    def _for_exact(self) -> Values:
        """What the exact step reads and the other one does not; made when it is needed first."""
        if self._exact_first is None:
            has_start = EXACT_START in self._parts.reads
            self._exact_first = self._parts.run(EXACT_START, self._feed) if has_start else {}
        known = {**self._first, **self._exact_first}
        taken = {*self._shared, *self._states, *(value.name for value in self._plan.by_step), self._plan.position}
        return {name: self._of_active(name, known[name]) for name in self._parts.reads[EXACT] if name not in taken}

    def _of_active(self, name: str, value: Any) -> Any:
        return value if self._active is None else self._rows_of(name, value, self._active)

    def _halt(self, halted: npt.NDArray[np.bool_]) -> None:
        if not self._per_example:
            self.done = halted
            return
        active = np.arange(len(halted)) if self._active is None else self._active
        if self.done is None or self._exits is None:
            self.done, self._exits = np.zeros(len(halted), np.bool_), np.zeros(len(halted), np.int64)
        self._exits[active] = self.steps
        if self.steps < self._plan.least:
            return
        self.done[active[halted]] = True
        if halted.any() and not self.is_over:
            self._retire(active, halted)

    def _retire(self, active: Rows, halted: npt.NDArray[np.bool_]) -> None:
        """Take finished examples out: what they lead to stays, the others run on in a smaller batch."""
        for name, value in self._last().items():
            if self._active is None:
                self._retired[name] = take(value, active)
            else:
                put(self._retired[name], active[halted], take(value, np.flatnonzero(halted)))
        left = np.flatnonzero(~halted)
        self._states = {name: self._rows_of(name, value, left) for name, value in self._states.items()}
        self._shared = {name: self._rows_of(name, value, left) for name, value in self._shared.items()}
        self._history.change(lambda output, value: self._rows_of(output, value, left))
        self._active = active[left]

    def _rows_of(self, name: str, value: Any, rows: Rows) -> Any:
        return take(value, rows) if name in self._plan.batched else value

    def _last(self) -> Values:
        """What the finish reads of the last steps, row by row."""
        values = {**self._states, **self._history.following()}
        source = {kept.name: kept.output for kept in self._plan.kept}
        return {name: value for name, value in values.items() if source.get(name, name) in self._plan.batched}

    def _together(self) -> Values:
        """The same for all examples: those that are done as they were then."""
        assert self._active is not None
        wholes: Values = {}
        for name, value in self._last().items():
            wholes[name] = take(self._retired[name], np.arange(len(self._retired[name])))
            put(wholes[name], self._active, value)
        return wholes


def why_not_retire(plan: StepPlan, step: Iterable[str], finish: Iterable[str], above: str) -> str | None:
    """The first value of which it is not known where its examples are, ``None`` where all are known.

    Args:
        plan: how the parts play together.
        step: what a step reads.
        finish: what the finish reads.
        above: the input that is the logit above which an example is done.
    """
    known = {*plan.batched, *plan.unbatched, plan.position, above}
    changing = {state.name for state in plan.states}
    by_rows = [name for name in finish if name in changing] + [kept.output for kept in plan.kept]
    stacks = [kept.output for kept in plan.kept if kept.index is None]
    unknown = [name for name in step if name not in known] + [name for name in by_rows if name not in plan.batched]
    return next(iter((*unknown, *stacks)), None)
