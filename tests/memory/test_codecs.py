"""What codecs promise: the form back exactly, the error within its bound, the bytes as they say, the original free."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from laser_fx import subspace
from laser_fx.errors import OptionError, PassError
from laser_fx.memory import few_bits
from laser_fx.memory.codecs import Codec, LowRank
from laser_fx.memory.few_bits import Int4, Int8
from laser_fx.memory.joint import Form, form_of

COMMON = settings(max_examples=60)
SEEDS = st.integers(0, 2**31)
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
QUANTISERS = ((Int8, 127), (Int4, 7))
FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.transpose(1, 2),
    "permuted": lambda x: x.permute(2, 0, 1),
    "sliced": lambda x: x[:, ::2, 1:],
    "expanded": lambda x: x[:, :1].expand(-1, 5, -1),
    "one expanded": lambda x: x[:1, :1, :1].expand(3, 4, 5),
    "windows": lambda x: x.flatten().unfold(0, 8, 3),
    "flat": lambda x: x.flatten(),
    "one number": lambda x: x[0, 0, 0],
    "empty": lambda x: x[:, :0],
    "dimensions of one": lambda x: x[:1, None, :, :1],
}


def numbers(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def form(value: Tensor) -> Form:
    made = form_of(value, False)
    assert isinstance(made, Form)
    return made


def there_and_back(codec: Codec, value: Tensor) -> Tensor:
    return codec.decode(codec.encode(value), form(value))


def size(parts: tuple[Tensor, ...]) -> int:
    return sum(part.untyped_storage().nbytes() for part in parts)


def check_form(decoded: Tensor, value: Tensor) -> None:
    assert (decoded.shape, decoded.stride()) == (value.shape, value.stride())
    assert (decoded.dtype, decoded.device) == (value.dtype, value.device)
    assert not decoded.requires_grad


def all_codecs(features: int) -> list[Codec]:
    q = subspace.orthonormalise(subspace.sketch(features, max(features - 1, 1), 0))
    mean = torch.linspace(-1, 1, features)
    return [Int8(), Int4(), LowRank(q), LowRank(q, mean), LowRank(q, mean, Int8())]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form_name", FORMS)
@pytest.mark.parametrize(("codec", "levels"), QUANTISERS)
def test_any_form_comes_back_within_the_bound(codec: Any, levels: int, form_name: str, dtype: torch.dtype) -> None:
    value = FORMS[form_name](numbers(3, 10, 40).to(dtype))
    decoded = there_and_back(codec(), value)
    check_form(decoded, value)
    if value.numel():
        # Half a step, and the rounding of the scale and of the dtype.
        bound = value.double().abs().max() * (0.5 / levels * (1 + 2**-8) + torch.finfo(dtype).eps)
        assert (decoded.double() - value.double()).abs().max() <= bound


@pytest.mark.parametrize("form_name", [name for name in FORMS if name != "one number"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_low_rank_gives_any_form_back(form_name: str, dtype: torch.dtype) -> None:
    value = FORMS[form_name](numbers(3, 10, 40).to(dtype))
    q = torch.eye(value.shape[-1])
    for codec, error in ((LowRank(q), 0.02), (LowRank(q, q[0]), 0.02), (LowRank(q, q[0], Int8()), 0.05)):
        decoded = there_and_back(codec, value)
        check_form(decoded, value)
        assert not value.numel() or (decoded - value).abs().max() <= error * value.abs().max()


@COMMON
@given(
    st.integers(1, 400), st.integers(1, 70), st.sampled_from(QUANTISERS), st.sampled_from(DTYPES), SEEDS,
    st.integers(-60, 60),
)  # fmt: skip
@example(33, 32, QUANTISERS[1], torch.float16, 0, 4)
def test_each_number_is_within_its_groups_bound(
    count: int, group: int, quantiser: Any, dtype: torch.dtype, seed: int, exponent: int
) -> None:
    kind, levels = quantiser
    value = numbers(count, seed=seed, scale=2.0**exponent).to(dtype)
    codec = kind(group)
    parts = codec.encode(value)
    assert size(parts) == codec.bytes(form(value))
    error = (codec.decode(parts, form(value)).double() - value.double()).abs()
    for values, errors in zip(value.double().split(group), error.split(group), strict=True):
        if values.isfinite().all():
            least = max(torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps, 2.0**-126)
            assert errors.max() <= values.abs().max() * (1 / levels + torch.finfo(dtype).eps) + least


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("codec", "levels"), QUANTISERS)
def test_the_largest_and_the_least_numbers_of_a_dtype_stay_finite(codec: Any, levels: int, dtype: torch.dtype) -> None:
    about = torch.finfo(dtype)
    for edge in (about.max, about.max * 0.995, about.max / 2, about.tiny, about.smallest_normal * about.eps, 0.0):
        value = torch.tensor([edge, -edge, edge / 3, 0.0], dtype=dtype)
        decoded = there_and_back(codec(), value)
        assert decoded.isfinite().all()
        least = max(about.smallest_normal * about.eps, 2.0**-126)
        assert (decoded.double() - value.double()).abs().max() <= edge * (1 / levels + about.eps) + least


@COMMON
@given(st.integers(1, 200), st.data(), st.sampled_from(DTYPES), st.sampled_from([Int8, Int4]))
def test_what_is_not_finite_spoils_its_group_and_no_other(
    count: int, data: st.DataObject, dtype: torch.dtype, kind: Any
) -> None:
    value = numbers(count).to(dtype)
    place = data.draw(st.integers(0, count - 1))
    value[place] = data.draw(st.sampled_from([float("nan"), float("inf"), float("-inf")]))
    decoded = there_and_back(kind(16), value)
    for group, values in enumerate(decoded.split(16)):
        assert values.isnan().all() if group == place // 16 else values.isfinite().all()


@pytest.mark.parametrize("inner", [None, Int8()])
def test_a_nan_comes_through_low_rank(inner: Codec | None) -> None:
    value = numbers(4, 6)
    value[2, 3] = torch.nan
    assert there_and_back(LowRank(torch.eye(6), None, inner), value)[2].isnan().all()


@pytest.mark.parametrize(("codec", "most"), [(Int8(), 0.27), (Int4(), 0.145)])
def test_bytes_of_float32_are_a_quarter_and_an_eighth(codec: Codec, most: float) -> None:
    value = numbers(324, 192)
    assert codec.bytes(form(value)) <= most * value.nbytes


@pytest.mark.parametrize("form_name", FORMS)
@pytest.mark.parametrize("codec", [Int8(), Int4(), Int8(7), Int4(7), Int4(1)], ids=str)
def test_bytes_are_those_of_what_is_encoded(codec: Codec, form_name: str) -> None:
    value = FORMS[form_name](numbers(3, 10, 40))
    assert size(codec.encode(value)) == codec.bytes(form(value))


@pytest.mark.parametrize("inner", [None, Int8(), Int4()])
def test_bytes_of_low_rank_are_those_of_the_coefficients(inner: Codec | None) -> None:
    value, q, mean = numbers(3, 10, 40).bfloat16(), torch.eye(40)[:, :7], torch.zeros(40)
    for codec in (LowRank(q, None, inner), LowRank(q, mean, inner)):
        parts = codec.encode(value)
        shared = [part for part in parts if part is q or part is mean]
        own = tuple(part for part in parts if part is not q and part is not mean)
        assert len(shared) == (1 if codec.mean is None else 2)
        assert size(own) == codec.bytes(form(value))
    assert LowRank(q).bytes(form(value)) == 30 * 7 * 2


@pytest.mark.parametrize("form_name", [name for name in FORMS if name not in ("one number", "empty")])
def test_nothing_that_is_kept_holds_the_original(form_name: str) -> None:
    for place in range(5):
        value = FORMS[form_name](numbers(3, 10, 40)).requires_grad_()
        codec = all_codecs(value.shape[-1])[place]
        storage = StorageWeakRef(value.untyped_storage())
        parts = codec.encode(value)
        assert not any(part.requires_grad for part in parts)
        del value
        assert storage.expired()
        assert parts


@pytest.mark.parametrize("place", range(5))
def test_encoding_is_deterministic_and_writes_into_nothing(place: int) -> None:
    codec, value = all_codecs(40)[place], numbers(3, 10, 40)
    before = value.clone()
    first, second = codec.encode(value), copy.deepcopy(codec).encode(value)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    kept = [part.clone() for part in first]
    assert torch.equal(codec.decode(first, form(value)), codec.decode(first, form(value)))
    assert all(torch.equal(a, b) for a, b in zip(first, kept, strict=True))
    assert torch.equal(value, before)


@pytest.mark.parametrize("codec", [Int8(), Int4()], ids=str)
def test_how_much_is_worked_on_at_a_time_changes_nothing(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    value = numbers(1000)
    whole = codec.encode(value)
    monkeypatch.setitem(few_bits._CHUNK, "cpu", 100)
    parts = codec.encode(value)
    assert all(torch.equal(a, b) for a, b in zip(parts, whole, strict=True))
    decoded = codec.decode(parts, form(value))
    monkeypatch.undo()
    assert torch.equal(decoded, codec.decode(whole, form(value)))


@pytest.mark.parametrize("codec", [Int8(), Int4()], ids=str)
def test_what_was_decoded_is_encoded_as_itself(codec: Codec) -> None:
    once = there_and_back(codec, numbers(64, 32))
    torch.testing.assert_close(there_and_back(codec, once), once, rtol=2**-7, atol=0)


def test_a_basis_that_holds_the_value_loses_nothing() -> None:
    mean, q = numbers(12, seed=1), subspace.orthonormalise(numbers(12, 3, seed=2))
    value = (numbers(5, 4, 3) @ q.mT + mean).contiguous()
    torch.testing.assert_close(there_and_back(LowRank(q, mean), value), value, atol=1e-5, rtol=0)
    assert (there_and_back(LowRank(q), value) - value).norm() > 0.1 * value.norm()


def test_names() -> None:
    q = torch.eye(2)
    assert [c.name for c in (Int8(), Int4(), LowRank(q), LowRank(q, None, Int8()))] == [
        "int8", "int4", "lowrank", "lowrank_int8",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [Int8, Int4])
def test_bad_arguments_are_refused(kind: Any) -> None:
    with pytest.raises(OptionError, match="group is 0"):
        kind(0)
    with pytest.raises(PassError, match="int64"):
        kind().encode(torch.arange(3))
