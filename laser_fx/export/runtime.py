"""`OnnxModel`: runs an exported file on ONNX Runtime, with the names and structures of the model it was made from."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from laser_fx.errors import InputError, OptionError
from laser_fx.export.call_inputs import check_values, matched
from laser_fx.export.call_settings import depths_fed, fidelity_fed
from laser_fx.export.cuda_graph import CudaGraphs, check_branch_free, with_cuda_graph
from laser_fx.export.halting_feed import halting_feed
from laser_fx.export.host_loop import HostLoop, StreamedStep, refresh_every
from laser_fx.export.model_file import read_model_file
from laser_fx.export.placement import Placement, placed
from laser_fx.export.providers import CUDA, Provider
from laser_fx.export.reference import made_inputs
from laser_fx.export.session import onnxruntime, open_file, told
from laser_fx.export.step_plan import STEP
from laser_fx.trees import fill

__all__ = ["OnnxModel"]


class OnnxModel:
    """A file that `laser_fx.export.to_onnx` wrote, checked before it is opened, run by ONNX Runtime.

    Called with torch tensors or numpy arrays: one by one, by name, or in the structures (dicts, lists, dataclasses)
    that the model takes; values that are no tensors were fixed when the model was captured: others are refused.
    Torch tensors are read where they lie, and answers come as tensors on the CPU; where CUDA runs the file and an input
    is a CUDA tensor, they stay on the GPU and nothing passes through the host.

    Several threads may call one model at once; ``stats`` are those of the thread that asks. Close it, or use it in a
    ``with`` statement, to give its memory back: calls that run then end in peace.

    Args:
        path: the file.
        providers: ONNX Runtime's execution providers by preference, each a name or a name and its options; ``None``:
            CUDA where this build has it and it can be loaded, else the CPU. ``providers`` and ``why_not`` tell.
        session_options: an ``onnxruntime.SessionOptions``, or attributes of one by name, as
            ``{"intra_op_num_threads": 1}``; names with a dot are config entries.
        cuda_graph: capture the file as one CUDA graph for each set of shapes: for files without loops and branches, on
            CUDA tensors. Calls then run one after the other.
        refresh: for files of the form ``step`` whose bases follow the loop: refresh all of them every so many steps;
            ``None``: where a step needs it.

    Attributes:
        metadata: what the file says about itself.
        providers: the providers that run it, by preference.
        why_not: providers that do not, each with the reason.

    Raises:
        OnnxFileError: the file is missing, damaged, tampered with, not ONNX, not ours, or of a newer version; or no
            provider has an operator of it.
        OptionError: a provider that this build of ONNX Runtime does not have, or that cannot be loaded and is the only
            one asked for; an unknown session option; ``cuda_graph`` for a file with branches, ``refresh`` for one
            that has no bases to refresh, or out of its range.
        MissingDependencyError: no ONNX Runtime, or both the CPU and the GPU build.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        providers: Sequence[Provider] | None = None,
        *,
        session_options: Any = None,
        cuda_graph: bool = False,
        refresh: int | None = None,
    ) -> None:
        self.path = Path(path)
        file = read_model_file(self.path)
        if cuda_graph:
            check_branch_free(file.model, str(self.path))
            providers = with_cuda_graph(providers)
        opened = open_file(file, providers=providers, options=session_options)
        if refresh is not None:
            refresh_every(opened.session, refresh, str(self.path))
        self.metadata = file.metadata
        self.providers, self.why_not = opened.providers, dict(opened.why_not)
        self._runtime = onnxruntime()
        self._session: Any = opened.session
        captured = opened.session.sessions[STEP] if isinstance(opened.session, HostLoop) else opened.session
        self._graphs = CudaGraphs(self._runtime, captured) if cuda_graph else None
        self._expected = {expected.name: expected for expected in opened.session.get_inputs()}
        known = [value.type for value in (*opened.session.get_inputs(), *opened.session.get_outputs())]
        self._numpy_has_all = "tensor(bfloat16)" not in known
        self._last = threading.local()

    def __repr__(self) -> str:
        state = "closed" if self._session is None else f"on {self.providers[0]}"
        return f"OnnxModel({str(self.path)!r}, {self.metadata.form}, {state})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the session's memory back. Answers that were given stay valid; closing twice is no error."""
        self._session = self._graphs = None

    @property
    def stats(self) -> dict[str, Any]:
        """Statistics of this thread's last call by site: (steps..., 5), fidelity, rank, tracked, reset, exact."""
        return getattr(self._last, "stats", {})

    @property
    def steps_taken(self) -> Any:
        """Steps of this thread's last call, int64: 0-d, or (batch,) in a file that halts per example.

        ``None`` before a call, and for files that were exported without ``halt`` in another form than ``step``.
        """
        return getattr(self._last, "steps_taken", None)

    def warm_up(self, *inputs: Any, sizes: Mapping[str, int] | int = 1, calls: int = 2, **named: Any) -> None:
        """Run the file, so that the first caller does not wait for allocations, kernels and CUDA graphs.

        Args:
            inputs: as for a call; none: zeros of the file's shapes, on the GPU where that runs the file.
            sizes: for those zeros, sizes of the open dimensions by name, or one for all.
            calls: how often.
            named: as for a call, ``depth``, ``fidelity`` and ``halt`` too.

        Raises:
            InputError: an open dimension without a size, and all that a call raises.
        """
        settings = {name: named.pop(name, None) for name in ("depth", "fidelity", "halt")}
        if inputs or named:
            values = self._matched(inputs, named)
        else:
            arrays = made_inputs(self._expected, sizes, seed=None)
            on_gpu = self.providers[0] == CUDA and torch.cuda.is_available()
            values = {name: torch.from_numpy(a).to("cuda" if on_gpu else "cpu") for name, a in arrays.items()}
        before = self.stats, self.steps_taken
        for _ in range(calls):
            self._answered(values, **settings)
        self._last.stats, self._last.steps_taken = before

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the user's inputs, in order."""
        return self.metadata.inputs

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return tuple(name for name, _ in self.metadata.outputs)

    def nested(self, answers: Mapping[str, Any]) -> Any:
        """Answers in the structure that the model returns: dicts and lists, dataclasses as dicts of their fields.

        Args:
            answers: what a call of this model gave.
        """
        return fill(self.metadata.output_tree, answers)

    def __call__(
        self,
        *inputs: Any,
        depth: int | Mapping[str, int] | None = None,
        fidelity: float | None = None,
        halt: bool | float | None = None,
        **named: Any,
    ) -> dict[str, Any]:
        """Run the file.

        Args:
            inputs: tensors or structures of them, in the order of the model's arguments.
            depth: trips of the outermost loop, or trips by loop name; ``None`` for what was traced.
            fidelity: threshold in (0, 1]; ``None`` for the one that the file was exported with.
            halt: for files that were exported with ``halt``: the logit above which an example is done; ``None`` and
                ``True`` for the file's own, ``False`` for all steps. ``steps_taken`` tells how many it were.
            named: inputs by name, or structures by the name of the argument.

        Returns:
            Outputs by name: torch tensors if a torch tensor came in, else numpy arrays. Tensors are on the GPU where
            CUDA runs the file and a CUDA tensor came in.

        Raises:
            InputError: a missing or unknown input, a wrong shape or dtype, a depth that the file does not take, values
                that ONNX Runtime cannot compute with; or the model is closed.
            OptionError: a depth, a fidelity or a logit out of its range.
            NonFiniteError: NaN in an input that lies on the CPU; looking at one on the GPU would stop it.
        """
        return self._answered(self._matched(inputs, named), depth=depth, fidelity=fidelity, halt=halt)

    def _answered(self, values: Mapping[str, Any], **settings: Any) -> dict[str, Any]:
        session, graphs = self._opened()
        results = self._run(session, graphs, self._feed(values, **settings))
        count = len(self.metadata.outputs)
        self._last.stats = {key: a for (key, _), a in zip(self.metadata.records, results[count:], strict=False)}
        self._last.steps_taken = self._steps(session) if self.metadata.halt is None else results[-1]
        return {name: answer for (name, _), answer in zip(self.metadata.outputs, results[:count], strict=True)}

    def stream(
        self,
        *inputs: Any,
        depth: int | Mapping[str, int] | None = None,
        fidelity: float | None = None,
        halt: bool | float | None = None,
        **named: Any,
    ) -> Iterator[StreamedStep]:
        """Run a file of the form ``step``, and answer after every step.

        Args:
            inputs: as for a call, like all others.
            depth: see there.
            fidelity: see there.
            halt: see there.
            named: see there.

        Returns:
            An iterator over the steps from the first one on at which every output exists; leave it, and no further
            step is taken.

        Raises:
            OptionError: a file of another form; and all that a call raises.
        """
        session, graphs = self._opened()
        if not isinstance(session, HostLoop):
            raise OptionError(
                f"the file has the form {self.metadata.form!r}: it gives no answers between its steps",
                where=str(self.path),
                fix="export it with form='step'",
            )
        placement = self._placed(self._feed(self._matched(inputs, named), depth, fidelity, halt))
        return self._streamed(session.stream(placement, self._runtime, graphs))

    def _streamed(self, steps: Iterator[StreamedStep]) -> Iterator[StreamedStep]:
        while True:
            with told(str(self.path)):
                step = next(steps, None)
            if step is None:
                return
            self._last.steps_taken = np.array(step.number, np.int64)
            yield step

    @property
    def replays(self) -> int | None:
        """How many of them ran again without bases, since they fell below the fidelity."""
        return getattr(self._session, "replays", None)

    @staticmethod
    def _steps(session: Any) -> Any:
        return np.array(session.steps_taken, np.int64) if isinstance(session, HostLoop) else None

    def _opened(self) -> tuple[Any, CudaGraphs | None]:
        session, graphs = self._session, self._graphs
        if session is None:
            raise InputError("the model is closed", where=str(self.path), fix="open the file again")
        return session, graphs

    def _matched(self, inputs: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        values = matched(self.metadata, self.input_names, inputs, named, str(self.path))
        check_values(values, self._expected, self.metadata, str(self.path))
        return values

    def _feed(
        self,
        values: Mapping[str, Any],
        depth: int | Mapping[str, int] | None,
        fidelity: float | None,
        halt: bool | float | None,
    ) -> dict[str, Any]:
        settings = depths_fed(self.metadata, depth) | fidelity_fed(self.metadata, fidelity)
        return {**values, **settings, **halting_feed(self.metadata, halt)}

    def _placed(self, feed: Mapping[str, Any]) -> Placement:
        return placed(feed, self.providers, numpy_has_all=self._numpy_has_all)

    def _run(self, session: Any, graphs: CudaGraphs | None, feed: Mapping[str, Any]) -> Sequence[Any]:
        names = list(self.metadata.results)
        with told(str(self.path)):
            placement = self._placed(feed)
            if isinstance(session, HostLoop):
                return session.run_placed(names, placement, self._runtime, graphs)
            if graphs is not None:
                return graphs.run(feed, names)
            results = placement.run(self._runtime, session, placement.feed, names, None)
            return [placement.answer(value) for value in results]
