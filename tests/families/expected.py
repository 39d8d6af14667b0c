"""The nest that each family must be found to have: what a person would write, or, where they differ, why not."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figures:
    """One loop of a nest.

    Args:
        level: how many loops are around it.
        trips: steps.
        carry: values handed from step to step.
        invariants: values that are the same at every step, weights and buffers not counted.
        per_step: values known up front that differ by step.
        outputs: values of every step that are used outside.
    """

    level: int
    trips: int
    carry: int
    invariants: int
    per_step: int = 0
    outputs: int = 0


Nest = tuple[Figures, ...]


@dataclass(frozen=True)
class Expected:
    """The loops in evaluation and in training, outermost first, in program order."""

    evaluation: Nest
    training: Nest


def nest(*loops: tuple[int, ...], training: tuple[tuple[int, ...], ...] | None = None) -> Expected:
    """Loops as `Figures`; training has the same ones unless it says otherwise."""
    evaluation = tuple(Figures(*loop) for loop in loops)
    return Expected(evaluation, evaluation if training is None else tuple(Figures(*loop) for loop in training))


def supervision(steps: int) -> Expected:
    """Steps of two cycles of two updates. In training, the first cycle has no gradients and the second one has."""
    return nest(
        (0, steps, 2, 1, 0, 1),
        (1, 2, 2, 1),
        (2, 2, 1, 2),
        training=((0, steps, 2, 1, 0, 1), (1, 2, 1, 2), (1, 2, 1, 2)),
    )


ONE_STEP = nest((0, 4, 1, 1))

# Each latent is added to the sum of the others in the order of the list, so that the updates are not one another's
# rotation: a cycle has two pairs of equal calls, latents 0 and 1, then latent 2 and the answer.
PAIRS = ((1, 2, 1, 3, 1, 1), (1, 2, 1, 0, 3, 1))
LAST_PAIRS = ((0, 2, 1, 3, 1, 1), (0, 2, 1, 0, 3))

EXPECTED: dict[str, Expected] = {
    # In training, the cycles without gradients are a loop; the last one, with gradients, is a remainder. Besides the
    # input embedding, the cosines and sines of the rotary angles are invariants.
    "trm_attention": nest((0, 3, 2, 3), (1, 3, 1, 4), training=((0, 2, 2, 3), (1, 3, 1, 4), (0, 3, 1, 4))),
    "trm_mlp_t": nest((0, 3, 2, 1), (1, 3, 1, 2), training=((0, 2, 2, 1), (1, 3, 1, 2), (0, 3, 1, 2))),
    # Nothing tells the fourth update of a cycle from the first of the next one: three cycles of four are one loop.
    "trm_single_z": nest((0, 12, 1, 1), training=((0, 8, 1, 1), (0, 4, 1, 1))),
    "trm_many_z": nest((0, 3, 4, 1), *PAIRS, training=((0, 2, 4, 1), *PAIRS, *LAST_PAIRS)),
    # Without gradients: two cycles, and two of the three fast updates of the last one; with them, one update of each.
    "hrm": nest((0, 3, 2, 1), (1, 3, 1, 2), training=((0, 2, 2, 1), (1, 3, 1, 2), (0, 2, 1, 2))),
    "supervision_1": nest((0, 2, 2, 1), (1, 2, 1, 2), training=((0, 2, 1, 2), (0, 2, 1, 2))),
    "supervision_2": supervision(2),
    "supervision_16": supervision(16),
    # The last step's states go nowhere, so that in training they are not detached: that step is a remainder.
    "supervision_2_last": nest((0, 2, 2, 1), (1, 2, 1, 2), training=((0, 2, 1, 2), (0, 2, 1, 2))),
    "supervision_16_last": nest((0, 16, 2, 1), (1, 2, 1, 2), training=((0, 15, 2, 1), (1, 2, 1, 2), (0, 2, 1, 2))),
    "albert": ONE_STEP,
    "albert_groups": nest((0, 3, 1, 1), (0, 3, 1, 1)),
    "albert_inner": ONE_STEP,
    "universal_learned": nest((0, 4, 1, 0, 1)),
    "universal_sinusoidal": nest((0, 4, 1, 0, 1)),
    # The last step adds to no halting probability that is read again: it is shorter, and a remainder.
    "universal_adaptive": nest((0, 3, 5, 0, 1)),
    "huginn": ONE_STEP,
    "huginn_random": ONE_STEP,
    "looped_gpt": ONE_STEP,
    "gru": nest((0, 5, 1, 0, 1, 1)),
    "lstm": nest((0, 5, 2, 0, 1, 1)),
    "automaton": nest((0, 4, 1, 0)),
    "automaton_sure": nest((0, 4, 1, 0)),
    "equilibrium": nest((0, 6, 1, 1, 0, 1)),
    "descent": nest((0, 5, 1, 1)),
    "descent_per_step": nest((0, 5, 1, 1, 2)),
    "raft": nest((0, 4, 2, 4, 0, 1)),
    "repeated_module": nest((0, 4, 1, 0)),
    "tied_parameters": nest((0, 4, 1, 0)),
    "two_steps": nest((0, 2, 1, 1)),
    "three_steps": nest((0, 3, 1, 1)),
    # A body has one shape for its state, so the first step stands before the loop.
    "first_state_is_broadcast": ONE_STEP,
    "first_state_is_constant": ONE_STEP,
    "first_step_is_shorter": ONE_STEP,
    "last_step_is_shorter": ONE_STEP,
    "between_untied_layers": ONE_STEP,
    "two_loops_of_one_body": nest((0, 3, 1, 1), (0, 5, 1, 1)),
    "interleaved_evenly": nest((0, 4, 2, 1)),
    "interleaved_irregularly": nest((0, 4, 1, 1), (0, 7, 1, 1)),
    # Both loops read x, whose gradient is summed in program order: in training they stay as they are written.
    "interleaved_over_one_input": nest(
        (0, 4, 1, 1), (0, 7, 1, 1), training=((0, 2, 1, 1), (0, 2, 1, 1), (0, 3, 1, 1), (0, 2, 1, 1))
    ),
    # The first step reads two values from before the loop, the second one of them again: it stands before the loop.
    "skip_carried": nest((0, 4, 2, 0)),
    # A round of the list is a step of the outer loop; inside, the four updates are two pairs, and a pair is a loop.
    "states_take_turns": nest((0, 3, 4, 0), (1, 2, 2, 0, 2, 2), (2, 2, 1, 0, 3, 1)),
    "constant_of_every_step": nest((0, 4, 1, 2)),
    "another_input_in_one_step": nest((0, 4, 1, 0, 1)),
}
