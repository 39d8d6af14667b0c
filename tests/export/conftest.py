"""Small rolled programs, made by hand: symbolic tracing, then fake tensors through every level."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.nn import functional as F

from laser_fx import ops, subspace  # the import of ops registers the laser:: operators
from laser_fx.export import OnnxFile, to_onnx
from laser_fx.loops import Loop, LoopNest, Site
from laser_fx.options import Options
from laser_fx.rolled import RolledLoop
from laser_fx.trees import tensor

assert ops.linear is not None
D, K = 16, 4


@dataclass(frozen=True)
class HandMade:
    """The shape of a program that export takes."""

    graph_module: fx.GraphModule
    captured: fx.GraphModule
    nest: LoopNest
    weights: Mapping[str, Tensor]
    user_inputs: tuple[str, ...]
    example_inputs: tuple[Tensor, ...]
    output_names: tuple[str, ...] = ("y",)
    record_names: tuple[str, ...] = ()
    sites: tuple[Site, ...] = ()
    options: Options = field(default_factory=Options)
    renamed: Mapping[str, str] = field(default_factory=dict)
    weight_names: Mapping[str, str] = field(default_factory=dict)
    signature: str = "HandMade.run(*inputs)"
    guards: tuple[str, ...] = ()

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(self.renamed.get(name, name) for name in self.user_inputs)

    @property
    def input_tree(self) -> Any:
        return [[tensor(name) for name in self.input_names], {}]

    @property
    def output_tree(self) -> Any:
        return [tensor(name) for name in self.output_names]

    def but(self, **changes: Any) -> HandMade:
        return replace(self, **changes)

    def run(self, *inputs: Tensor, fidelity: float | None = None) -> tuple[Any, ...]:
        at = torch.tensor(self.options.fidelity if fidelity is None else fidelity)
        values = {**self.weights, **dict(zip(self.user_inputs, inputs, strict=True)), "fidelity": at}
        with torch.no_grad():
            return self.graph_module(*(values[p.name] for p in self.graph_module.graph.find_nodes(op="placeholder")))


class _LoopsAreLeaves(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, RolledLoop) or super().is_leaf_module(module, name)


class _Record(fx.Interpreter):
    def run_node(self, node: fx.Node) -> Any:
        node.meta["val"] = super().run_node(node)
        return node.meta["val"]

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        loop = self.fetch_attr(target)
        body = loop.body
        recorded = RolledLoop(loop.name, nn.Identity(), loop.trip_count, loop.carry_count, loop.per_step_count)
        object.__setattr__(recorded, "body", lambda *values: _Record(body).run(*values))
        del recorded._modules["body"]
        return recorded(*args, **kwargs)


def trace(function: Callable[..., Any], **loops: RolledLoop) -> fx.GraphModule:
    """A level; its function calls the loops inside as attributes of its first argument."""
    if not loops:
        return fx.symbolic_trace(function)
    names = function.__code__.co_varnames[1 : function.__code__.co_argcount]
    namespace: dict[str, Any] = {"function": function}
    exec(f"def forward(self, {', '.join(names)}): return function(self, {', '.join(names)})", namespace)
    root = type("Level", (nn.Module,), {"forward": namespace["forward"]})()
    for name, loop in loops.items():
        root.add_module(name, loop)
    return fx.GraphModule(root, _LoopsAreLeaves().trace(root))


def program(
    rolled: fx.GraphModule,
    captured: fx.GraphModule,
    weights: Mapping[str, Tensor],
    inputs: Mapping[str, Tensor],
    *,
    dynamic: bool = True,
    **fields: Any,
) -> HandMade:
    for module in (rolled, captured):
        _record(module, weights, inputs, dynamic)
    made = HandMade(rolled, captured, _nest(rolled), weights, tuple(inputs), tuple(inputs.values()))
    return made.but(**fields)


def _record(module: fx.GraphModule, weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor], dynamic: bool) -> None:
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    symbolic: list[Tensor] = []
    for node in module.graph.find_nodes(op="placeholder"):
        if node.name in inputs and dynamic:
            sizes = [DimDynamic.DUCK, *[DimDynamic.STATIC] * (inputs[node.name].ndim - 1)]
            context = StatelessSymbolicContext(dynamic_sizes=sizes)
            symbolic.append(mode.from_tensor(inputs[node.name], symbolic_context=context))
        else:
            known = {**weights, **inputs, "fidelity": torch.tensor(0.5)}
            symbolic.append(mode.from_tensor(known[node.name], static_shapes=True))
    with mode:
        _Record(module).run(*symbolic)


def _nest(module: fx.GraphModule) -> LoopNest:
    def below(level: fx.GraphModule) -> tuple[Loop, ...]:
        children = [m for m in level.children() if isinstance(m, RolledLoop)]
        return tuple(Loop(m.name, m.trip_count, children=below(m.body), body=m.body) for m in children)

    return LoopNest(below(module))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def low_rank(*shape: int, rank: int = 3) -> Tensor:
    x = random(shape[0] * shape[1], rank, seed=5) @ random(rank, shape[2], seed=6)
    return (x + 1e-2 * random(shape[0] * shape[1], shape[2], seed=7)).reshape(shape)


def step(z: Tensor, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.rms_norm(z + F.linear(F.silu(z + x), w, b), (D,))


WEIGHTS = {"w": random(D, D, seed=1) / 4, "b": random(D, seed=2)}


def one_loop(trips: int = 5, dynamic: bool = True, used: int = -1) -> HandMade:
    """z ← step(z, x), with a step output of which one step is used."""

    def body(z: Tensor, x: Tensor, w: Tensor, b: Tensor) -> Any:
        following = step(z, x, w, b)
        return following, following.mean(-1)

    loop = RolledLoop("loop_0", trace(body), trip_count=trips, carry_count=1)

    def top(self: Any, w: Tensor, b: Tensor, x: Tensor, z: Tensor) -> Any:
        out = self.loop_0(z * 0.5, x, w, b)
        return (torch.tanh(out[0]), out[0], out[1][used] + 1, z)

    def unrolled(w: Tensor, b: Tensor, x: Tensor, z: Tensor) -> Any:
        first, z, means = z, z * 0.5, []
        for _ in range(trips):
            z = step(z, x, w, b)
            means.append(z.mean(-1))
        return (torch.tanh(z), z, means[used] + 1, first)

    inputs = {"x": random(2, 3, D, seed=3), "z": random(2, 3, D, seed=4)}
    return program(
        trace(top, loop_0=loop),
        trace(unrolled),
        WEIGHTS,
        inputs,
        dynamic=dynamic,
        output_names=("y", "carry.z", "last", "first"),
        renamed={"x": "batch.inputs", "z": "carry.z"},
        options=Options.exact(),
    )


def nested() -> HandMade:
    """H ⊃ L, the step outputs of the inner loop handed on by the outer one."""

    def inner(z: Tensor, x: Tensor, h: Tensor, w: Tensor, b: Tensor) -> Any:
        following = step(z, x + h, w, b)
        return following, following.sum((-1, -2))

    loop_l = RolledLoop("loop_0_0", trace(inner), trip_count=3, carry_count=1)

    def outer(self: Any, h: Tensor, z: Tensor, x: Tensor, w: Tensor, b: Tensor) -> Any:
        out = self.loop_0_0(z, x, h, w, b)
        return step(h, out[0], w, b), out[0], out[1], out[1][0]

    loop_h = RolledLoop("loop_0", trace(outer, loop_0_0=loop_l), trip_count=2, carry_count=2)

    def top(self: Any, w: Tensor, b: Tensor, x: Tensor, h: Tensor, z: Tensor) -> Any:
        out = self.loop_0(h, z, x, w, b)
        return out[0], out[1], out[2][-1][0] * 2, out[3][-1], out[2]

    def unrolled(w: Tensor, b: Tensor, x: Tensor, h: Tensor, z: Tensor) -> Any:
        for _ in range(2):
            sums = []
            for _ in range(3):
                z = step(z, x + h, w, b)
                sums.append(z.sum((-1, -2)))
            h = step(h, z, w, b)
        return h, z, sums[0] * 2, sums[0]

    inputs = {name: random(2, 3, D, seed=seed) for seed, name in enumerate(("x", "h", "z"))}
    return program(
        trace(top, loop_0=loop_h),
        trace(unrolled),
        WEIGHTS,
        inputs,
        output_names=("h_out", "z_out", "twice", "again", "sums"),
        options=Options.exact(),
    )


def per_step() -> HandMade:
    """A loop whose bias differs by step; an int64 carry counts the steps; a carry that passes through."""

    def body(z: Tensor, n: Tensor, same: Tensor, e: Tensor, x: Tensor, w: Tensor) -> Any:
        return step(z, x, w, e) + same, n + 1, same

    loop = RolledLoop("loop_0", trace(body), trip_count=3, carry_count=3, per_step_count=1)

    def top(self: Any, w: Tensor, e0: Tensor, e1: Tensor, e2: Tensor, n: Tensor, x: Tensor) -> Any:
        out = self.loop_0(x, n, x, e0, e1, e2, x, w)
        return out[0], out[1], out[2]

    def unrolled(w: Tensor, e0: Tensor, e1: Tensor, e2: Tensor, n: Tensor, x: Tensor) -> Any:
        z = x
        for e in (e0, e1, e2):
            z, n = step(z, x, w, e) + x, n + 1
        return z, n, x + 0

    weights = {"w": WEIGHTS["w"], **{f"e{t}": random(D, seed=10 + t) for t in range(3)}, "n": torch.tensor(4)}
    return program(
        trace(top, loop_0=loop),
        trace(unrolled),
        weights,
        {"x": random(2, 3, D)},
        output_names=("z_out", "count", "same"),
        options=Options.exact(),
    )


def two_loops() -> HandMade:
    """Two outermost loops that share a weight, straight code between them."""

    def body(z: Tensor, x: Tensor, w: Tensor, b: Tensor) -> Any:
        return (step(z, x, w, b),)

    loops = {
        name: RolledLoop(name, trace(body), trip_count=trips, carry_count=1)
        for name, trips in (("loop_0", 2), ("loop_1", 4))
    }

    def top(self: Any, w: Tensor, tied: Tensor, b: Tensor, x: Tensor) -> Any:
        z = self.loop_0(x, x, w, b)[0]
        return (self.loop_1(torch.sin(z), x + z, tied, b)[0],)

    def unrolled(w: Tensor, tied: Tensor, b: Tensor, x: Tensor) -> Any:
        z = x
        for _ in range(2):
            z = step(z, x, w, b)
        x, z = x + z, torch.sin(z)
        for _ in range(4):
            z = step(z, x, tied, b)
        return (z,)

    weights = {"w": WEIGHTS["w"], "tied": WEIGHTS["w"], "b": WEIGHTS["b"]}
    return program(trace(top, **loops), trace(unrolled), weights, {"x": random(2, 3, D)}, options=Options.exact())


def tracked(fidelity: float = 0.98, bias: bool = True) -> HandMade:
    """One tracked site in a loop: basis carried, statistics recorded at every step."""

    def body(z: Tensor, q: Tensor, folded: Tensor, x: Tensor, w: Tensor, b: Tensor, at: Tensor, sketch: Tensor) -> Any:
        laser, h = torch.ops.laser, torch.tanh(0.1 * (z + x))
        q, projected, measured, was_tracked = laser.track(h, q, at)
        q, projected, stats = laser.reset(h, q, projected, measured, was_tracked, sketch, at)
        folded = laser.fold(w, q, folded, stats)
        y = laser.folded_linear(h, w, b if bias else None, folded, projected, stats)
        return 0.5 * z + y, q, folded, stats

    loop = RolledLoop("loop_0", trace(body), trip_count=4, carry_count=3)

    def top(
        self: Any, w: Tensor, b: Tensor, q: Tensor, folded: Tensor, x: Tensor, fidelity: Tensor, sketch_0: Tensor
    ) -> Any:
        out = self.loop_0(x, q, folded, x, w, b, fidelity, sketch_0)
        return (out[0], out[3])

    def unrolled(w: Tensor, b: Tensor, q: Tensor, folded: Tensor, x: Tensor) -> Any:
        z = x
        for _ in range(4):
            z = 0.5 * z + F.linear(torch.tanh(0.1 * (z + x)), w, b if bias else None)
        return (z,)

    sketch = subspace.sketch(D, K, "loop_0:up")
    q = subspace.orthonormalise(sketch)
    weights = {**WEIGHTS, "q": q, "folded": (WEIGHTS["w"] @ q).mT, "sketch_0": subspace.sketch(D, K, 1)}
    return program(
        trace(top, loop_0=loop),
        trace(unrolled),
        weights,
        {"x": low_rank(2, 6, D)},
        options=Options(fidelity=fidelity),
        record_names=("loop_0:up",),
        sites=(Site("up", "loop_0", "up.weight", 12, D, D, 4, K),),
    )


MAKERS = {f.__name__: f for f in (one_loop, nested, per_step, two_loops, tracked)}


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """These tensors are small: threads that wait for each other cost more than they bring."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make() -> Callable[..., HandMade]:
    """Make a program by the name of its function."""

    def made(name: str, **options: Any) -> HandMade:
        return MAKERS[name](**options)

    return made


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[HandMade, OnnxFile]]:
    """A program by name and its file, verified, written once for all tests."""

    @functools.cache
    def written(name: str) -> tuple[HandMade, OnnxFile]:
        program = MAKERS[name]()
        return program, to_onnx(program, tmp_path_factory.mktemp("onnx") / f"{name}.onnx")

    return written
