"""The wheel holds laser_fx alone, and works away from the checkout."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytest.importorskip("build")
pytest.importorskip("hatchling")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT), cwd=ROOT)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment with the wheel; torch and the rest come from the one that runs the tests."""
    home = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", "--without-pip", str(home), cwd=home)
    python = home / "bin" / "python"
    run(
        sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel), cwd=home
    )
    site_packages = run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home)
    # A plain path: the .pth in it of the editable install, which leads to the checkout, is not followed.
    Path(site_packages, "borrowed.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return python


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def files(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def test_the_wheel_holds_laser_fx_alone(wheel: Path) -> None:
    assert {name.split("/")[0] for name in files(wheel)} == {"laser_fx"}


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    there = [path for path in (ROOT / "laser_fx").rglob("*") if path.is_file() and path.parent.name != "__pycache__"]
    data = {path.relative_to(ROOT).as_posix() for path in there}
    assert {"laser_fx/py.typed", "laser_fx/reporting/vendor/vega.min.js"} <= data
    assert data <= files(wheel)


def test_the_wheel_is_imported_from_its_own_place(elsewhere: Path) -> None:
    found = run(str(elsewhere), "-c", "import laser_fx; print(laser_fx.__file__)", cwd=elsewhere.parent)
    assert Path(found).is_relative_to(elsewhere.parents[1])
    assert not Path(found).is_relative_to(ROOT)


def test_the_command_is_installed(elsewhere: Path) -> None:
    assert "inspect" in run(str(elsewhere.parent / "laser-fx"), "--help", cwd=elsewhere.parent)


BACKEND = """
import torch
linear = torch.nn.Linear(4, 4)
twice = torch.compile(lambda x: linear(linear(x)), backend="laser_fx", options={"forward": "exact", "memory": None})
with torch.no_grad():
    print(torch.equal(twice(torch.ones(2, 4)), linear(linear(torch.ones(2, 4)))))
"""


PLACE = """
from importlib.metadata import distribution
found = distribution("laser-fx")
print(found.locate_file(""), *(point.name for point in found.entry_points.select(group="torch_dynamo_backends")))
"""


def test_torch_finds_the_backend(elsewhere: Path) -> None:
    place, *names = run(str(elsewhere), "-c", PLACE, cwd=elsewhere.parent).split()
    assert Path(place).is_relative_to(elsewhere.parents[1])
    assert names == ["laser_fx"]
    assert run(str(elsewhere), "-c", BACKEND, cwd=elsewhere.parent) == "True"
