"""What export needs of a compiled program, and nothing more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, fx

from laser_fx.loops import LoopNest, Site
from laser_fx.options import Options

__all__ = ["Exportable"]


class Exportable(Protocol):
    """A rolled graph with its weights, signature and names; `laser_fx.program.Program` is one."""

    @property
    def graph_module(self) -> fx.GraphModule:
        """The top level of the rolled graph: weights, user inputs, ``fidelity`` and sketches are placeholders."""

    @property
    def captured(self) -> fx.GraphModule:
        """The graph as captured, loops unrolled, with the same names of weights and user inputs."""

    @property
    def nest(self) -> LoopNest:
        """The loops of ``graph_module``."""

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites that are tracked."""

    @property
    def options(self) -> Options:
        """What the program was compiled with."""

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """Every placeholder that is not a user input nor ``fidelity``, by name."""

    @property
    def weight_names(self) -> Mapping[str, str]:
        """Placeholders among ``weights`` that are parameters or buffers, and their names in the model's state_dict."""

    @property
    def user_inputs(self) -> tuple[str, ...]:
        """Placeholders of the user's tensors, in order."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """A readable name for each of ``user_inputs``, as ``batch.inputs``."""

    @property
    def output_names(self) -> tuple[str, ...]:
        """A readable name for each of the model's outputs: the leading outputs of the graph."""

    @property
    def record_names(self) -> tuple[str, ...]:
        """Site keys of the outputs after those: the statistics of each site."""

    @property
    def signature(self) -> str:
        """The model's forward as text."""

    @property
    def input_tree(self) -> Any:
        """Arguments and keyword arguments as `laser_fx.trees.plain_tree`, their tensors by ``input_names``."""

    @property
    def output_tree(self) -> Any:
        """What the model returns as `laser_fx.trees.plain_tree`, its tensors by ``output_names``."""

    @property
    def guards(self) -> tuple[str, ...]:
        """What was assumed of the sizes, ``L['tensors'][0].size()[1] > 4``: the graph holds for no others."""

    @property
    def example_inputs(self) -> tuple[Tensor, ...]:
        """What the graph was captured with, parallel to ``user_inputs``."""
