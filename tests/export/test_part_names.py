"""Exports that share a folder share no file beside them, whatever their names end in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from laser_fx.export import OnnxModel, to_onnx
from laser_fx.export.part_names import part_name
from tests.export.registry_cache import parse_functions_once

parse_functions_once()
CLASHING = ("m", "m.onnx", "m.model", "m.model.onnx")


def test_no_two_main_files_name_one_part() -> None:
    names = {part_name(Path(main), role, "ab" * 32) for main in CLASHING for role in ("start", "step", "weights")}
    assert len(names) == 3 * len(CLASHING)


def test_an_export_leaves_its_neighbours_whole(make: Callable[..., Any], tmp_path: Path) -> None:
    program = make("one_loop")
    for name in CLASHING:
        to_onnx(program, tmp_path / name, form="step", external_data=True, verify=False)
    for name in CLASHING[1:]:
        to_onnx(program, tmp_path / name, overwrite=True, verify=False)
    torch.testing.assert_close(answers(tmp_path / CLASHING[0], program), answers(tmp_path / CLASHING[1], program))


def test_a_copy_is_not_robbed_of_its_parts(make: Callable[..., Any], tmp_path: Path) -> None:
    """Exporting over a copy leaves the parts alone that it shares with the file that it is a copy of."""
    program = make("one_loop")
    to_onnx(program, tmp_path / "m.onnx", form="step", external_data=True, verify=False)
    (tmp_path / "m.copy").write_bytes((tmp_path / "m.onnx").read_bytes())
    to_onnx(program, tmp_path / "m.copy", overwrite=True, verify=False)
    torch.testing.assert_close(answers(tmp_path / "m.onnx", program), answers(tmp_path / "m.copy", program))


def answers(path: Path, program: Any) -> list[torch.Tensor]:
    return list(OnnxModel(path)(*program.example_inputs).values())
