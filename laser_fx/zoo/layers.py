"""Layers of the Tiny Recursive Model (arXiv 2510.04871), with the published parameter names and shapes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "Attention",
    "CastedEmbedding",
    "CastedLinear",
    "CosSin",
    "RotaryEmbedding",
    "RotaryEmbedding2D",
    "SwiGLU",
    "cast",
    "rms_norm",
    "truncated_normal_",
]

CosSin = tuple[Tensor, Tensor]


def truncated_normal_(tensor: Tensor, std: float) -> Tensor:
    """Fill with a normal cut at two deviations, rescaled so that ``std`` is the true deviation."""
    # A unit normal cut at ±2 has this deviation.
    cut_deviation = 0.8796256610342398
    scale = std / cut_deviation
    return nn.init.trunc_normal_(tensor, std=scale, a=-2.0 * scale, b=2.0 * scale)


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """`tensor` in `dtype`, leaving no node in a captured graph where it already is."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def rms_norm(x: Tensor, eps: float) -> Tensor:
    """``x / sqrt(mean(x²) + eps)`` over the last dimension, computed in float32, without a gain."""
    wide = cast(x, torch.float32)
    scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return cast(scaled, x.dtype)


class CastedLinear(nn.Module):
    """A linear layer whose float32 weight is cast to the input's dtype. Input (..., in), output (..., out)."""

    def __init__(self, in_features: int, out_features: int, bias: bool = False) -> None:
        super().__init__()
        weight = truncated_normal_(torch.empty(out_features, in_features), std=in_features**-0.5)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def reset_parameters(self) -> None:
        """Draw the weight anew, as the constructor does."""
        truncated_normal_(self.weight, std=self.weight.shape[1] ** -0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else cast(self.bias, x.dtype)
        return F.linear(x, cast(self.weight, x.dtype), bias)


class CastedEmbedding(nn.Module):
    """An embedding table in float32, read in `dtype`. Input (...) of integers, output (..., features)."""

    def __init__(self, count: int, features: int, std: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.std = dtype, std
        self.embedding_weight = nn.Parameter(truncated_normal_(torch.empty(count, features), std=std))

    def reset_parameters(self) -> None:
        """Draw the table anew, as the constructor does."""
        truncated_normal_(self.embedding_weight, std=self.std)

    def table(self) -> Tensor:
        """The whole table, (count, features), in `dtype`."""
        return cast(self.embedding_weight, self.dtype)

    def forward(self, index: Tensor) -> Tensor:
        return F.embedding(index, self.table())


class RotaryEmbedding(nn.Module):
    """Cosines and sines of the rotary angles of a sequence, each (length, head_dim), kept out of the state_dict."""

    cos_cached: Tensor
    sin_cached: Tensor

    def __init__(self, head_dim: int, length: int, base: float) -> None:
        super().__init__()
        angles = torch.outer(torch.arange(length, dtype=torch.float32), _frequencies(head_dim, base))
        self._keep(angles)

    def _keep(self, angles: Tensor) -> None:
        twice = torch.cat((angles, angles), dim=-1)
        self.register_buffer("cos_cached", twice.cos(), persistent=False)
        self.register_buffer("sin_cached", twice.sin(), persistent=False)

    def forward(self) -> CosSin:
        return self.cos_cached, self.sin_cached


class RotaryEmbedding2D(RotaryEmbedding):
    """Rotary angles of a square grid: half of the frequencies turn with the row, half with the column.

    An extension of this package, not part of the published model. The ``prefix`` tokens before the grid are
    not rotated; rows and columns count from 1.
    """

    def __init__(self, head_dim: int, length: int, base: float, prefix: int) -> None:
        nn.Module.__init__(self)
        side = math.isqrt(length - prefix)
        frequencies = _frequencies(head_dim // 2, base)
        along = torch.outer(torch.arange(1, side + 1, dtype=torch.float32), frequencies)
        rows, columns = along.repeat_interleave(side, dim=0), along.repeat(side, 1)
        unturned = torch.zeros(prefix, 2 * frequencies.numel())
        self._keep(torch.cat((unturned, torch.cat((rows, columns), dim=-1))))


def _frequencies(dim: int, base: float) -> Tensor:
    return 1.0 / (base ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate (batch, length, heads, head_dim) by angles (length, head_dim)."""
    wide = cast(x, cos.dtype)
    first, second = wide.chunk(2, dim=-1)
    turned = wide * cos.unsqueeze(-2) + torch.cat((-second, first), dim=-1) * sin.unsqueeze(-2)
    return cast(turned, x.dtype)


class Attention(nn.Module):
    """Full (not causal) self-attention. Input and output (batch, length, hidden_size)."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, hidden_size // num_heads
        self.qkv_proj = CastedLinear(hidden_size, 3 * hidden_size)
        self.o_proj = CastedLinear(hidden_size, hidden_size)

    def forward(self, x: Tensor, cos_sin: CosSin | None) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv_proj(x).view(batch, length, 3 * self.num_heads, self.head_dim)
        query, key, value = qkv.split(self.num_heads, dim=2)
        if cos_sin is not None:
            query, key = _rotate(query, *cos_sin), _rotate(key, *cos_sin)
        mixed = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, length, width))
        return out


class SwiGLU(nn.Module):
    """``down(silu(gate) * up)`` over the last dimension, the inner width a multiple of 256 as published."""

    def __init__(self, width: int, expansion: float) -> None:
        super().__init__()
        inner = -(-round(expansion * width * 2 / 3) // 256) * 256
        self.gate_up_proj = CastedLinear(width, 2 * inner)
        self.down_proj = CastedLinear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        out: Tensor = self.down_proj(F.silu(gate) * up)
        return out
