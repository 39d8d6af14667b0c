"""The Tiny Recursive Model as published (arXiv 2510.04871), and a whole solve as one module.

Module tree, parameter names and shapes equal the published ones, so that a published state_dict loads. It differs in
three ways: puzzle embeddings are an ordinary parameter (published: a buffer with an optimiser of its own); a fresh
carry holds the initial states (published: uninitialised memory, overwritten at the first step); ``full_gradient`` and
``pos_encodings`` with ``rope2d`` are extensions of this package.
"""

from __future__ import annotations

import contextlib
import math
import sys
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laser_fx.errors import OptionError
from laser_fx.zoo.layers import (
    Attention,
    CastedEmbedding,
    CastedLinear,
    CosSin,
    RotaryEmbedding,
    RotaryEmbedding2D,
    SwiGLU,
    cast,
    rms_norm,
    truncated_normal_,
)

__all__ = ["TRM", "Batch", "Carry", "InnerCarry", "ReasoningModule", "Solve", "TRMConfig"]

Batch = dict[str, Tensor]
Positions = Literal["rope", "rope2d", "learned", "learned_rope2d", "none"]
ForwardDtype = Literal["float32", "bfloat16", "float16", "float64"]


@dataclass(frozen=True)
class TRMConfig:
    """Sizes and schedule of a `TRM`, under the published names.

    Args:
        seq_len: tokens of one puzzle.
        vocab_size: number of different tokens, in the input and in the answer.
        H_cycles: updates of ``z_H`` in one supervision step.
        L_cycles: updates of ``z_L`` before each update of ``z_H``.
        L_layers: blocks of the one network.
        hidden_size: width of a token.
        expansion: inner width of SwiGLU in terms of its outer width, times 3/2.
        num_heads: attention heads.
        pos_encodings: ``"rope"``, ``"learned"``, ``"none"``, or ours for square grids: ``"rope2d"`` and
            ``"learned_rope2d"``, which is both.
        puzzle_emb_ndim: width of the puzzle embedding; 0 for none.
        puzzle_emb_len: tokens that the puzzle embedding fills; 0 for as many as it needs.
        num_puzzle_identifiers: rows of the puzzle embedding.
        rms_norm_eps: added to the mean square.
        rope_theta: base of the rotary frequencies.
        halt_max_steps: supervision steps after which a sequence always halts.
        halt_exploration_prob: share of training sequences that may not halt before a random step.
        forward_dtype: dtype of all activations. Weights are float32.
        mlp_t: mix tokens by a SwiGLU over the sequence instead of by attention.
        no_ACT_continue: halt on the halting logit alone, without a target for continuing.
        full_gradient: gradients through all H cycles, not only the last one (our extension).

    Raises:
        OptionError: naming the field, its value and the values allowed.

    >>> TRMConfig(seq_len=36, vocab_size=7, hidden_size=32, num_heads=2).tokens
    36
    >>> TRMConfig(seq_len=36, vocab_size=7, H_cycles=0)
    Traceback (most recent call last):
        ...
    laser_fx.errors.OptionError: H_cycles is 0
      where: TRMConfig.H_cycles
      fix: choose a whole number of at least 1
    """

    seq_len: int
    vocab_size: int
    H_cycles: int = 3
    L_cycles: int = 6
    L_layers: int = 2
    hidden_size: int = 512
    expansion: float = 4.0
    num_heads: int = 8
    pos_encodings: Positions = "rope"
    puzzle_emb_ndim: int = 0
    puzzle_emb_len: int = 16
    num_puzzle_identifiers: int = 1
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    halt_max_steps: int = 16
    halt_exploration_prob: float = 0.1
    forward_dtype: ForwardDtype = "float32"
    mlp_t: bool = False
    no_ACT_continue: bool = True
    full_gradient: bool = False

    def __post_init__(self) -> None:
        for name in _AT_LEAST_ONE:
            _check(_is_whole(getattr(self, name), 1), name, self, "choose a whole number of at least 1")
        for name in ("puzzle_emb_ndim", "puzzle_emb_len"):
            _check(_is_whole(getattr(self, name), 0), name, self, "choose a whole number of at least 0")
        for name in ("expansion", "rms_norm_eps", "rope_theta"):
            _check(_is_positive(getattr(self, name)), name, self, "choose a positive number")
        for name in ("mlp_t", "no_ACT_continue", "full_gradient"):
            _check(isinstance(getattr(self, name), bool), name, self, "choose True or False")
        _check_one_of("pos_encodings", self, get_args(Positions))
        _check_one_of("forward_dtype", self, get_args(ForwardDtype))
        chance = self.halt_exploration_prob
        _check(_is_positive(chance, most=1.0) or chance == 0, "halt_exploration_prob", self, "choose 0 to 1")
        self._check_shapes()

    def _check_shapes(self) -> None:
        rotary = 4 if self.is_2d else 2 if self.pos_encodings == "rope" else 1
        _check(
            self.hidden_size % (self.num_heads * rotary) == 0,
            "hidden_size",
            self,
            f"choose a multiple of num_heads × {rotary}: {self.num_heads * rotary}",
        )
        if self.is_2d:
            square = math.isqrt(self.seq_len) ** 2 == self.seq_len
            _check(square, "seq_len", self, "choose a square number, or pos_encodings without rope2d")
        if self.puzzle_emb_len and self.puzzle_emb_ndim > self.puzzle_emb_len * self.hidden_size:
            fix = "choose at most puzzle_emb_len × hidden_size, or puzzle_emb_len=0"
            raise OptionError(f"puzzle_emb_ndim is {self.puzzle_emb_ndim}", where="TRMConfig.puzzle_emb_ndim", fix=fix)

    @property
    def is_2d(self) -> bool:
        """Whether attention turns by row and column of a square grid."""
        return self.pos_encodings in ("rope2d", "learned_rope2d")

    @property
    def learns_positions(self) -> bool:
        """Whether every token has a learned vector of its own."""
        return self.pos_encodings in ("learned", "learned_rope2d")

    @property
    def prefix(self) -> int:
        """Tokens that the puzzle embedding puts before the puzzle; 0 without one."""
        if self.puzzle_emb_ndim == 0:
            return 0
        return self.puzzle_emb_len or -(-self.puzzle_emb_ndim // self.hidden_size)

    @property
    def tokens(self) -> int:
        """Tokens that the network sees: `prefix` and ``seq_len``."""
        return self.prefix + self.seq_len

    @property
    def dtype(self) -> torch.dtype:
        """``forward_dtype`` as a torch dtype."""
        dtype: torch.dtype = getattr(torch, self.forward_dtype)
        return dtype

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TRMConfig:
        """A config from its fields by name.

        Raises:
            OptionError: a name that is no field, a field that is missing, or a value out of range.
        """
        names = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(names))
        if unknown:
            raise OptionError(f"{unknown[0]} is no field", where="TRMConfig", fix="choose from " + ", ".join(names))
        missing = [name for name in ("seq_len", "vocab_size") if name not in values]
        if missing:
            raise OptionError(f"{missing[0]} is missing", where="TRMConfig", fix="give seq_len and vocab_size")
        return cls(**values)


_AT_LEAST_ONE = (
    "seq_len",
    "vocab_size",
    "H_cycles",
    "L_cycles",
    "L_layers",
    "hidden_size",
    "num_heads",
    "num_puzzle_identifiers",
    "halt_max_steps",
)


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_positive(value: object, most: float = sys.float_info.max) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0.0 < value <= most


def _check_one_of(name: str, config: TRMConfig, allowed: tuple[str, ...]) -> None:
    _check(getattr(config, name) in allowed, name, config, "choose one of " + ", ".join(repr(a) for a in allowed))


def _check(holds: bool, name: str, config: TRMConfig, fix: str) -> None:
    if not holds:
        raise OptionError(f"{name} is {getattr(config, name)!r}", where=f"TRMConfig.{name}", fix=fix)


@dataclass
class InnerCarry:
    """The two latent states, each (batch, tokens, hidden_size)."""

    z_H: Tensor
    z_L: Tensor


@dataclass
class Carry:
    """What one supervision step hands to the next.

    Args:
        inner_carry: the latent states.
        steps: supervision steps made so far, (batch,) int32.
        halted: sequences that start anew at the next step, (batch,) bool.
        current_data: the batch that is being solved; rows are replaced where ``halted``.
    """

    inner_carry: InnerCarry
    steps: Tensor
    halted: Tensor
    current_data: Batch


torch.export.register_dataclass(InnerCarry, serialized_type_name="laser_fx.zoo.trm.InnerCarry")
torch.export.register_dataclass(Carry, serialized_type_name="laser_fx.zoo.trm.Carry")


class Block(nn.Module):
    """Token mixing, then SwiGLU, each added to its input and normalised after. (batch, tokens, hidden_size)."""

    def __init__(self, config: TRMConfig) -> None:
        super().__init__()
        self.eps = config.rms_norm_eps
        self.mixes_by_mlp = config.mlp_t
        if config.mlp_t:
            self.mlp_t = SwiGLU(config.tokens, config.expansion)
        else:
            self.self_attn = Attention(config.hidden_size, config.num_heads)
        self.mlp = SwiGLU(config.hidden_size, config.expansion)

    def forward(self, x: Tensor, cos_sin: CosSin | None) -> Tensor:
        if self.mixes_by_mlp:
            across = x.transpose(1, 2)
            x = rms_norm(across + self.mlp_t(across), self.eps).transpose(1, 2)
        else:
            x = rms_norm(x + self.self_attn(x, cos_sin), self.eps)
        return rms_norm(x + self.mlp(x), self.eps)


class ReasoningModule(nn.Module):
    """The one network: adds the injected input to the state, then runs the blocks."""

    def __init__(self, config: TRMConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(config) for _ in range(config.L_layers))

    def forward(self, state: Tensor, injection: Tensor, cos_sin: CosSin | None) -> Tensor:
        state = state + injection
        for layer in self.layers:
            state = layer(state, cos_sin)
        return state


class PuzzleEmbedding(nn.Module):
    """One vector per puzzle identifier, zero at first. Input (batch,), output (batch, puzzle_emb_ndim)."""

    def __init__(self, config: TRMConfig) -> None:
        super().__init__()
        self.dtype = config.dtype
        self.weights = nn.Parameter(torch.zeros(config.num_puzzle_identifiers, config.puzzle_emb_ndim))

    def reset_parameters(self) -> None:
        """As the constructor has it."""
        nn.init.zeros_(self.weights)

    def forward(self, identifiers: Tensor) -> Tensor:
        return cast(self.weights[identifiers], self.dtype)


class Inner(nn.Module):
    """One supervision step: ``H_cycles`` times (``L_cycles`` updates of z_L, one of z_H), then the heads."""

    H_init: Tensor
    L_init: Tensor

    def __init__(self, config: TRMConfig) -> None:
        super().__init__()
        self.config = config
        width, dtype = config.hidden_size, config.dtype
        self.embed_scale = math.sqrt(width)
        self.embed_tokens = CastedEmbedding(config.vocab_size, width, 1.0 / self.embed_scale, dtype)
        self.lm_head = CastedLinear(width, config.vocab_size)
        self.q_head = CastedLinear(width, 2, bias=True)
        if config.puzzle_emb_ndim > 0:
            self.puzzle_emb = PuzzleEmbedding(config)
        self._add_positions(config)
        self.L_level = ReasoningModule(config)
        self.register_buffer("H_init", truncated_normal_(torch.empty(width), std=1.0).to(dtype))
        self.register_buffer("L_init", truncated_normal_(torch.empty(width), std=1.0).to(dtype))
        self._start_unwilling_to_halt()

    def reset_parameters(self) -> None:
        """The heads as they start; their weights are drawn before."""
        self._start_unwilling_to_halt()

    def _add_positions(self, config: TRMConfig) -> None:
        head_dim = config.hidden_size // config.num_heads
        self.rotary_emb: RotaryEmbedding | None = None
        if config.pos_encodings == "rope":
            self.rotary_emb = RotaryEmbedding(head_dim, config.tokens, config.rope_theta)
        elif config.is_2d:
            self.rotary_emb = RotaryEmbedding2D(head_dim, config.tokens, config.rope_theta, config.prefix)
        if config.learns_positions:
            std = 1.0 / self.embed_scale
            self.embed_pos = CastedEmbedding(config.tokens, config.hidden_size, std, config.dtype)

    def _start_unwilling_to_halt(self) -> None:
        # A halting head that starts near "never" lets the answers be learnt before the halting is.
        bias = self.q_head.bias
        assert bias is not None
        nn.init.zeros_(self.q_head.weight)
        nn.init.constant_(bias, -5.0)

    def _embed(self, batch: Batch) -> Tensor:
        """The input embedding (batch, tokens, hidden_size)."""
        embedding = self.embed_tokens(batch["inputs"])
        if self.config.puzzle_emb_ndim > 0:
            embedding = torch.cat((self._embed_puzzle(batch["puzzle_identifiers"]), embedding), dim=-2)
        if self.config.learns_positions:
            # The sum of two has twice the variance of one.
            embedding = math.sqrt(0.5) * (embedding + self.embed_pos.table())
        scaled: Tensor = self.embed_scale * embedding
        return scaled

    def _embed_puzzle(self, identifiers: Tensor) -> Tensor:
        prefix, width = self.config.prefix, self.config.hidden_size
        flat: Tensor = self.puzzle_emb(identifiers)
        return F.pad(flat, (0, prefix * width - self.config.puzzle_emb_ndim)).view(-1, prefix, width)

    def fresh_carry(self, batch_size: int) -> InnerCarry:
        """The initial states of ``batch_size`` sequences."""
        shape = (batch_size, self.config.tokens, self.config.hidden_size)
        return InnerCarry(self.H_init.expand(shape).clone(), self.L_init.expand(shape).clone())

    def reset_carry(self, reset: Tensor, carry: InnerCarry) -> InnerCarry:
        """`carry` with the initial states in the rows where ``reset``, (batch,) bool, is set."""
        rows = reset.view(-1, 1, 1)
        return InnerCarry(torch.where(rows, self.H_init, carry.z_H), torch.where(rows, self.L_init, carry.z_L))

    def _cycle(self, z_H: Tensor, z_L: Tensor, injected: Tensor, cos_sin: CosSin | None) -> tuple[Tensor, Tensor]:
        for _ in range(self.config.L_cycles):
            z_L = self.L_level(z_L, z_H + injected, cos_sin)
        return self.L_level(z_H, z_L, cos_sin), z_L

    def forward(self, carry: InnerCarry, batch: Batch) -> tuple[InnerCarry, Tensor, tuple[Tensor, Tensor]]:
        """Returns the detached carry, logits (batch, seq_len, vocab_size), halt and continue logits (batch,)."""
        cos_sin = None if self.rotary_emb is None else self.rotary_emb()
        injected = self._embed(batch)
        z_H, z_L = carry.z_H, carry.z_L
        with contextlib.nullcontext() if self.config.full_gradient else torch.no_grad():
            for _ in range(self.config.H_cycles - 1):
                z_H, z_L = self._cycle(z_H, z_L, injected, cos_sin)
        z_H, z_L = self._cycle(z_H, z_L, injected, cos_sin)
        logits = self.lm_head(z_H)[:, self.config.prefix :]
        halt = cast(self.q_head(z_H[:, 0]), torch.float32)
        return InnerCarry(z_H.detach(), z_L.detach()), logits, (halt[..., 0], halt[..., 1])


class TRM(nn.Module):
    """A Tiny Recursive Model: one call is one supervision step over a batch, with adaptive halting.

    ``forward(carry, batch)`` returns the next carry and a dict of ``logits`` (batch, seq_len, vocab_size),
    ``q_halt_logits`` and ``q_continue_logits``, both (batch,) float32. ``batch`` holds ``inputs`` (batch, seq_len) of
    integers and ``puzzle_identifiers`` (batch,), and may hold more, such as ``labels``. Rows whose sequence halted
    before are replaced by those of ``batch``. In eval mode every sequence runs ``halt_max_steps`` steps, and nothing
    branches on data.

    >>> model = TRM(TRMConfig(seq_len=4, vocab_size=5, H_cycles=1, L_cycles=2, hidden_size=16, num_heads=2)).eval()
    >>> batch = {"inputs": torch.ones(3, 4, dtype=torch.int64), "puzzle_identifiers": torch.zeros(3, dtype=torch.int64)}
    >>> carry, outputs = model(model.initial_carry(batch), batch)
    >>> tuple(outputs["logits"].shape), carry.steps.tolist()
    ((3, 4, 5), [1, 1, 1])
    """

    def __init__(self, config: TRMConfig) -> None:
        super().__init__()
        self.config = config
        self.inner = Inner(config)

    def initial_carry(self, batch: Batch) -> Carry:
        """A carry of which every sequence counts as halted, so that the first step takes all rows from `batch`."""
        size, device = batch["inputs"].shape[0], self.inner.H_init.device
        return Carry(
            inner_carry=self.inner.fresh_carry(size),
            steps=torch.zeros(size, dtype=torch.int32, device=device),
            halted=torch.ones(size, dtype=torch.bool, device=device),
            current_data={name: torch.zeros_like(value) for name, value in batch.items()},
        )

    def forward(self, carry: Carry, batch: Batch) -> tuple[Carry, dict[str, Tensor]]:
        inner_carry = self.inner.reset_carry(carry.halted, carry.inner_carry)
        steps = torch.where(carry.halted, 0, carry.steps)
        data = {name: _replace_rows(carry.halted, batch[name], old) for name, old in carry.current_data.items()}

        inner_carry, logits, (q_halt, q_continue) = self.inner(inner_carry, data)
        outputs = {"logits": logits, "q_halt_logits": q_halt, "q_continue_logits": q_continue}

        with torch.no_grad():
            steps = steps + 1
            last = steps >= self.config.halt_max_steps
            halted = last
            if self.training and self.config.halt_max_steps > 1:
                halted = self._halts(steps, last, q_halt, q_continue)
                if not self.config.no_ACT_continue:
                    outputs["target_q_continue"] = self._continue_target(inner_carry, data, last)
        return Carry(inner_carry, steps, halted, data), outputs

    def _halts(self, steps: Tensor, last: Tensor, q_halt: Tensor, q_continue: Tensor) -> Tensor:
        halted = last | (q_halt > (0 if self.config.no_ACT_continue else q_continue))
        if self.config.halt_exploration_prob == 0:
            return halted
        explores = torch.rand_like(q_halt) < self.config.halt_exploration_prob
        least = explores * torch.randint_like(steps, low=2, high=self.config.halt_max_steps + 1)
        return halted & (steps >= least)

    def _continue_target(self, carry: InnerCarry, data: Batch, last: Tensor) -> Tensor:
        _, _, (next_halt, next_continue) = self.inner(carry, data)
        return torch.sigmoid(torch.where(last, next_halt, torch.maximum(next_halt, next_continue)))


def _replace_rows(rows: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(rows.view(-1, *([1] * (new.ndim - 1))), new, old)


class Solve(nn.Module):
    """A whole solve: `steps` supervision steps from the initial carry, without halting, as one module.

    ``forward(inputs, puzzle_identifiers=None)`` takes (batch, seq_len) and (batch,) integers, identifiers of zero where
    none are given, and returns the last step's logits (batch, seq_len, vocab_size); with ``halting`` a dict of them and
    of ``q_halt_logits`` (batch,) float32, which are positive where the model takes its answer to be right.

    Args:
        trm: the model. It is shared, not copied.
        steps: supervision steps, at least 1; ``None`` for the model's ``halt_max_steps``.
        halting: also return the last step's halting logits, by which an exported file stops early:
            ``to_onnx(…, halt="q_halt_logits")``.

    Raises:
        OptionError: ``steps`` is not a whole number of at least 1, or ``halting`` is no bool.

    >>> model = TRM(TRMConfig(seq_len=4, vocab_size=5, H_cycles=1, L_cycles=2, hidden_size=16, num_heads=2)).eval()
    >>> tuple(Solve(model, steps=3)(torch.ones(2, 4, dtype=torch.int64)).shape)
    (2, 4, 5)
    """

    def __init__(self, trm: TRM, steps: int | None = None, *, halting: bool = False) -> None:
        super().__init__()
        steps = trm.config.halt_max_steps if steps is None else steps
        if not _is_whole(steps, 1):
            raise OptionError(f"steps is {steps!r}", where="Solve.steps", fix="choose a whole number of at least 1")
        if not isinstance(halting, bool):
            raise OptionError(f"halting is {halting!r}", where="Solve.halting", fix="choose True or False")
        self.trm, self.steps, self.halting = trm, steps, halting

    def forward(self, inputs: Tensor, puzzle_identifiers: Tensor | None = None) -> Any:
        if puzzle_identifiers is None:
            puzzle_identifiers = inputs.new_zeros(inputs.shape[0])
        batch = {"inputs": inputs, "puzzle_identifiers": puzzle_identifiers}
        carry = self.trm.initial_carry(batch).inner_carry
        logits: Tensor
        halt: Tensor
        for _ in range(self.steps):
            carry, logits, (halt, _) = self.trm.inner(carry, batch)
        return {"logits": logits, "q_halt_logits": halt} if self.halting else logits
