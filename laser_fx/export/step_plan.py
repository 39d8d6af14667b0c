"""What the main file of the ``step`` form says of its parts: what goes into a step, what comes out, who reads it.

Values have one name in all parts. The host keeps them by name: the caller's inputs, what the start makes, the states,
and what the finish reads.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

__all__ = [
    "EXACT",
    "EXACT_START",
    "FINISH",
    "REFRESH",
    "START",
    "STEP",
    "WEIGHTS",
    "Bases",
    "ByStep",
    "Kept",
    "Part",
    "Signature",
    "State",
    "StepPlan",
    "graph_parts",
]

START, STEP, FINISH, EXACT, EXACT_START, WEIGHTS = "start", "step", "finish", "exact", "exact_start", "weights"
REFRESH = "refresh"
"""The roles of the parts; that of the main file is ``STEP``."""


@dataclass(frozen=True)
class Part:
    """A file beside the main one.

    Args:
        role: ``"start"``, ``"finish"``, ``"weights"``, ``"exact"``, ``"exact_start"`` or ``"refresh"``.
        file: its name; it lies in the main file's folder.
        sha256: of all its bytes, in hexadecimal.
    """

    role: str
    file: str
    sha256: str


@dataclass(frozen=True)
class Signature:
    """An input of the caller's.

    Args:
        name: as the caller gives it.
        type: in ONNX Runtime's words, ``tensor(float)``.
        shape: sizes; names for open ones.
    """

    name: str
    type: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class State:
    """What is carried from step to step.

    Args:
        name: input of the step, and of the finish, which reads the last one.
        following: output of the step.
        first: an input of the caller's, or an output of the start.
    """

    name: str
    following: str
    first: str


@dataclass(frozen=True)
class ByStep:
    """A value that differs by step.

    Args:
        name: input of the step.
        rows: an input of the caller's, or an output of the start, with the steps in front.
    """

    name: str
    rows: str


@dataclass(frozen=True)
class Kept:
    """An output of the step that the finish reads.

    Args:
        name: input of the finish.
        output: output of the step.
        index: the step that it is of, negative from the end; ``None``: all of them, stacked.
    """

    name: str
    output: str
    index: int | None


@dataclass(frozen=True)
class Bases:
    """What the sites of a step compute through, where it follows the loop.

    Args:
        held: what the step reads, and the refresh makes anew from step to step.
        threshold: a step that measures less runs again, in the refresh, where the caller asks for no other fidelity.
        keep_at: input of the refresh, 0-d float32: the fidelity from which on a site keeps its basis.
    """

    held: tuple[State, ...]
    threshold: float
    keep_at: str


@dataclass(frozen=True)
class StepPlan:
    """How the parts play together.

    Args:
        parts: the files beside the main one, which is the step.
        signature: the caller's inputs, in order.
        states: what is carried.
        by_step: what differs by step.
        kept: what the finish reads of the steps.
        position: input of the step that is its number, from 0; ``None`` where it reads none.
        trips: steps where the caller asks for no other number.
        least: fewest steps with which every answer exists.
        batched: values whose leading size is that of the batch.
        unbatched: values none of whose sizes depends on the batch.
        min_fidelity: output of the step: the least fidelity of its sites, 0-d float32.
        halted: output of the step: which examples are done, (batch,) bool.
        bases: bases that follow the loop; ``None`` where there are none.
    """

    parts: tuple[Part, ...]
    signature: tuple[Signature, ...]
    states: tuple[State, ...]
    by_step: tuple[ByStep, ...]
    kept: tuple[Kept, ...]
    position: str | None
    trips: int
    least: int
    batched: tuple[str, ...]
    unbatched: tuple[str, ...]
    min_fidelity: str | None = None
    halted: str | None = None
    bases: Bases | None = None

    @property
    def is_whole_model(self) -> bool:
        """Whether a step is a call of the model, whose inputs are the states, and not a step of a loop in it."""
        return any(state.name == state.first for state in self.states)

    def part(self, role: str) -> Part | None:
        """The file of a role, where there is one."""
        return next((part for part in self.parts if part.role == role), None)

    def changed(self, **changes: Any) -> StepPlan:
        """The same with other fields."""
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_json(cls, read: dict[str, Any]) -> StepPlan:
        """Made of what `laser_fx.export.step_schema` has passed."""
        signature = (Signature(s["name"], s["type"], tuple(s["shape"])) for s in read["signature"])
        return cls(
            **{
                **read,
                "parts": tuple(Part(**part) for part in read["parts"]),
                "signature": tuple(signature),
                "states": tuple(State(**state) for state in read["states"]),
                "by_step": tuple(ByStep(**value) for value in read["by_step"]),
                "kept": tuple(Kept(**value) for value in read["kept"]),
                "batched": tuple(read["batched"]),
                "unbatched": tuple(read["unbatched"]),
                "bases": None if read["bases"] is None else _bases(read["bases"]),
            }
        )


def _bases(read: dict[str, Any]) -> Bases:
    return Bases(tuple(State(**state) for state in read["held"]), read["threshold"], read["keep_at"])


def graph_parts(plan: StepPlan) -> tuple[Part, ...]:
    """The parts that are graphs."""
    return tuple(part for part in plan.parts if part.role != WEIGHTS)
