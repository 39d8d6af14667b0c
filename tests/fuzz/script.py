"""A failing case as a script that needs nothing but PyTorch and laser-fx."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path

from laser_fx.files import write_text
from tests.fuzz import tamper
from tests.fuzz.build import INPUTS, ROWS, SHAPES
from tests.fuzz.program import Case
from tests.fuzz.source import PRELUDE, program_source

__all__ = ["FOLDER", "model_source", "save_script", "script"]

FOLDER = Path(".fuzz")

_MODEL = """
import warnings
from operator import getitem

import torch
from torch import nn

import laser_fx
from laser_fx.errors import LaserError, NoLoopWarning

aten = torch.ops.aten
warnings.simplefilter("ignore", NoLoopWarning)


def gradients(on):
    return torch.set_grad_enabled(on and torch.is_grad_enabled())

{prelude}

{program}


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        for name, shape in {weights}.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape)))
        if {tied}:
            self.w2 = self.w0

    def forward(self, x, y, xs):
        return program(self, x, y, xs)
"""

_MEASURE = '''
SHAPES = {inputs}
TRAINING = {training}


def same(a, b):
    if a is None or b is None:
        return a is b
    return a.dtype == b.dtype and torch.equal(bits(a), bits(b))


def bits(value):
    return value.detach().reshape(-1).view(torch.uint8)


def measured(run, model, inputs):
    leaves = [value.clone().requires_grad_(TRAINING) for value in inputs]
    model.zero_grad()
    torch.manual_seed(11)
    with torch.set_grad_enabled(TRAINING):
        outputs = run(*leaves)
    found = {{f"output {{k}}": value for k, value in enumerate(outputs)}}
    trained = [value.square().sum() for value in outputs if value.requires_grad]
    if trained:
        torch.stack(trained).sum().backward()
        named = [*model.named_parameters(), *((f"input {{k}}", leaf) for k, leaf in enumerate(leaves))]
        found |= {{f"the gradient of {{name}}": p.grad for name, p in named}}
    return found


def defects():
    """Names of what differs between the compiled model and the model itself."""
    torch.manual_seed(0)
    model = Model().train(TRAINING)
    compiled = laser_fx.compile(model, options=laser_fx.Options.exact())
    for rows in ({rows}, {rows} + 2):
        inputs = [torch.randn(rows, *shape[1:]) for shape in SHAPES]
        wanted, made = (measured(run, model, inputs) for run in (model, compiled))
        yield from (f"{{name}}, {{rows}} rows" for name in wanted if not same(wanted[name], made[name]))
    wanted_trips = {trips}
    if wanted_trips is not None and compiled.loops.trips() != wanted_trips:
        yield f"the nest: found {{compiled.loops.trips()}}, written {{wanted_trips}}"
{tampered}
'''

_TAMPERED = """    rolled = copy.deepcopy(compiled.program.rolled)
    what = tamper(rolled, *{choices})
    door = _door(model, compiled.program.capture)
    certify(compiled.program.captured, rolled, door.identities, door.parameters, door.grad_enabled)
    yield f"the certificate accepts a graph with a defect: {{what}}"
"""

_MAIN = """
if __name__ == "__main__":
    try:
        found = list(defects())
    except LaserError as error:
        found = [] if {refused} else [str(error)]
    print("\\n".join(found) or "no defect")
    raise SystemExit(1 if found else 0)
"""


def model_source(case: Case) -> str:
    """The text of a module: ``Model`` runs the case, ``defects()`` compares it with what laser-fx makes of it."""
    return _model(case) + _measure(case)


def script(case: Case, title: str, *, nest: bool = False, choices: tuple[int, int] | None = None) -> str:
    """A script that exits with 1 as long as the defect is there.

    Args:
        case: what fails.
        title: what is wrong with it, one line.
        nest: whether the loops that are found must be those that were written.
        choices: what `tamper` was called with, where the certificate is in question.
    """
    parts = [f'"""{title}"""\n', _model(case), _measure(case, nest, choices), _MAIN.format(refused=choices is not None)]
    if choices is not None:
        own = inspect.getsource(tamper).partition('"""\n')[2].replace("from __future__ import annotations\n", "")
        parts.insert(1, "from __future__ import annotations\n\nimport copy\n" + own)
        parts.insert(2, "from laser_fx.passes.certificate import certify\nfrom laser_fx.passes.pipeline import _door\n")
    return "\n".join(parts)


def save_script(text: str, folder: Path = FOLDER) -> Path:
    """Write a script; its name is that of its content, so that one defect is one file."""
    folder.mkdir(exist_ok=True)
    path = folder / f"case_{hashlib.sha256(text.encode()).hexdigest()[:10]}.py"
    write_text(path, text, overwrite=True)
    return path


def _model(case: Case) -> str:
    weights = {name: shape for name, shape in SHAPES.items() if name not in INPUTS}
    return _MODEL.format(prelude=PRELUDE, program=program_source(case), weights=weights, tied=case.tied)


def _measure(case: Case, nest: bool = False, choices: tuple[int, int] | None = None) -> str:
    return _MEASURE.format(
        inputs=[SHAPES[name] for name in INPUTS],
        training=case.training,
        rows=ROWS,
        trips=case.trips() if nest else None,
        tampered="" if choices is None else _TAMPERED.format(choices=choices),
    )
