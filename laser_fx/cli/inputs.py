"""``--inputs``: tensors out of a short text, or out of a safetensors file."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from laser_fx.cli.example import GivenInput
from laser_fx.errors import InputError

__all__ = ["TensorSpec", "given_inputs", "parse_spec"]

_DTYPES = {
    **{name: getattr(torch, name) for name in ("float16", "bfloat16", "float32", "float64", "bool")},
    **{name: getattr(torch, name) for name in ("int8", "int16", "int32", "int64", "uint8")},
}
_FORM = re.compile(
    r"(?:(?P<name>[A-Za-z_][\w.]*)=)?(?P<dtype>[A-Za-z]\w*)\[(?P<sizes>[^\]]*)\](?::(?P<low>[^:]*?)\.\.(?P<high>[^:]*))?"
)
_BATCH = "B"
_USUAL_BATCH = 4
_MOST = 2**32
_WRITE_IT = "write float32[4,81,256], tokens=int64[B,36]:0..10, or the name of a safetensors file"


@dataclass(frozen=True)
class TensorSpec:
    """What a text asks for.

    Args:
        name: the argument that it is; None: the next one.
        dtype: of the tensor.
        sizes: of its dimensions; None: the batch.
        bounds: its values are from the first on, and below the second; None: normal values, or a coin's.

    >>> parse_spec("tokens=int64[B,36]:0..10")
    TensorSpec(name='tokens', dtype=torch.int64, sizes=(None, 36), bounds=(0.0, 10.0))
    """

    name: str | None
    dtype: torch.dtype
    sizes: tuple[int | None, ...]
    bounds: tuple[float, float] | None = None

    def make(self, batch: int, generator: torch.Generator) -> Tensor:
        """A tensor of that kind.

        Raises:
            InputError: there is no memory for it.
        """
        shape = tuple(batch if size is None else size for size in self.sizes)
        where = "--inputs " + " × ".join(map(str, shape))
        if math.prod(shape) > _MOST:
            raise InputError("the tensor has more than 2³² elements", where=where, fix="ask for a smaller one")
        try:
            return self._values(shape, generator)
        except (RuntimeError, MemoryError) as error:
            what = "there is no memory for the tensor"
            raise InputError(what, where=where, fix="ask for a smaller one") from error

    def _values(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        if self.dtype is torch.bool:
            return torch.rand(shape, generator=generator) < 0.5
        if self.bounds is None:
            return torch.randn(shape, generator=generator).to(self.dtype)
        low, high = self.bounds
        if self.dtype.is_floating_point:
            return torch.empty(shape).uniform_(low, high, generator=generator).to(self.dtype)
        return torch.randint(int(low), int(high), shape, generator=generator, dtype=self.dtype)


def parse_spec(text: str) -> TensorSpec | None:
    """What a text asks for; None where it does not look like the description of a tensor.

    Raises:
        InputError: it looks like one, and is none.
    """
    found = _FORM.fullmatch(text.strip())
    if found is None:
        return None
    dtype = _DTYPES.get(found["dtype"])
    if dtype is None:
        raise InputError(f"{found['dtype']} is no dtype", where=f"--inputs {text}", fix=f"choose {', '.join(_DTYPES)}")
    bounds = None if found["low"] is None else _bounds(found["low"], found["high"], dtype, text)
    if bounds is None and not dtype.is_floating_point and dtype is not torch.bool:
        fix = f"say which values it has, as a size of a table says: {text}:0..10"
        raise InputError("whole numbers need a range", where=f"--inputs {text}", fix=fix)
    return TensorSpec(found["name"], dtype, _sizes(found["sizes"], text), bounds)


def _sizes(text: str, whole: str) -> tuple[int | None, ...]:
    words = [word.strip() for word in text.split(",")] if text.strip() else []
    for word in words:
        if word != _BATCH and not (word.isdecimal() and word.isascii()):
            fix = f"write whole numbers, or {_BATCH} for --batch; [] is a lone number"
            raise InputError(f"{word!r} is no size", where=f"--inputs {whole}", fix=fix)
    return tuple(None if word == _BATCH else int(word) for word in words)


def _bounds(low: str, high: str, dtype: torch.dtype, whole: str) -> tuple[float, float]:
    fix = "write the first value and the one after the last: int64[4,36]:0..10, or float32[4]:-1..1"
    try:
        found = float(low), float(high)
    except ValueError as error:
        raise InputError(f"{low}..{high} is no range", where=f"--inputs {whole}", fix=fix) from error
    if dtype is torch.bool:
        raise InputError("truth values have no range", where=f"--inputs {whole}", fix="leave it out")
    if not dtype.is_floating_point and not _holds(dtype, *found):
        raise InputError(f"{low}..{high} is no range of {dtype}", where=f"--inputs {whole}", fix=fix)
    if not -3e38 < found[0] < found[1] < 3e38:
        raise InputError(f"{low}..{high} is empty or not finite", where=f"--inputs {whole}", fix=fix)
    return found


def _holds(dtype: torch.dtype, low: float, high: float) -> bool:
    info = torch.iinfo(dtype)
    whole = low.is_integer() and high.is_integer()
    return whole and info.min <= low and high - 1 <= info.max and high < 2**63


def given_inputs(texts: Sequence[str], *, batch: int | None = None, seed: int = 0) -> list[GivenInput]:
    """The tensors that ``--inputs`` asks for, those of a file by their names.

    Args:
        texts: descriptions of tensors, and names of safetensors files.
        batch: the size that is written ``B``; 4 unless given.
        seed: of the values that are made.

    Raises:
        InputError: a text is neither, a file cannot be read, or ``batch`` is used nowhere.

    >>> [given.value.shape for given in given_inputs(["float32[B,3]", "int64[2]:0..5"], batch=7)]
    [torch.Size([7, 3]), torch.Size([2])]
    """
    generator = torch.Generator().manual_seed(seed)
    found = list(_each(texts, _USUAL_BATCH if batch is None else batch, generator))
    if batch is not None and not any(None in spec.sizes for text in texts if (spec := parse_spec(text)) is not None):
        raise InputError(
            "--batch is used nowhere", where="--inputs", fix=f"write {_BATCH} for it, as in float32[{_BATCH},81,256]"
        )
    return found


def _each(texts: Sequence[str], batch: int, generator: torch.Generator) -> Iterator[GivenInput]:
    for text in texts:
        spec = parse_spec(text)
        if spec is not None:
            yield GivenInput(spec.name, spec.make(batch, generator))
        else:
            yield from (GivenInput(name, value) for name, value in sorted(_read(text).items()))


def _read(text: str) -> dict[str, Tensor]:
    where = f"--inputs {text}"
    path = Path(text)
    if path.suffix != ".safetensors" and not path.is_file():
        raise InputError("inputs of an unknown kind", where=where, fix=_WRITE_IT)
    if not path.is_file():
        raise InputError("there is no such file", where=where, fix="check its name")
    try:
        found: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        fix = "write the tensors by safetensors.torch.save_file({'argument': tensor}, path)"
        raise InputError(f"the file is no safetensors file: {error}", where=where, fix=fix) from error
    if not found:
        raise InputError("the file holds no tensor", where=where, fix="write one for each argument")
    return found
