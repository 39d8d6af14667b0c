"""Fetches the libraries of the report's page from npm again: `python -m tests.reporting.renew_vendored`.

Raise a version below, run it, and look at the page. What is vendored is what npm serves, byte for byte, but for
vega-interpreter, which comes as a module alone and is wrapped into a script; manifest.json has the SHA-256 of each.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PAGE", "TESTS", "Package", "main"]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "laser_fx" / "reporting" / "vendor"
TESTS = Path(__file__).with_name("vendor")


@dataclass(frozen=True)
class Package:
    """A package of npm, the one file of it that is used, and what else has to be named with it."""

    name: str
    version: str
    licence: str
    file: str
    into: Path = PAGE


PACKAGES = (
    Package("vega", "6.4.0", "BSD-3-Clause", "build/vega.min.js"),
    Package("vega-lite", "6.5.0", "BSD-3-Clause", "build/vega-lite.min.js"),
    Package("vega-interpreter", "2.3.2", "BSD-3-Clause", "build/vega-interpreter.js"),
    Package("@dagrejs/dagre", "3.1.3", "MIT", "dist/dagre.min.js"),
    Package("axe-core", "4.14.1", "MPL-2.0", "axe.min.js", into=TESTS),
)
"""Vega's bundle holds modules of D3, whose licence is kept beside Vega's."""
D3 = Package("d3", "7.9.0", "ISC", "LICENSE")


def main() -> None:
    """Writes the files, their licences and both manifests."""
    for into in (PAGE, TESTS):
        into.mkdir(exist_ok=True)
        entries = [_vendor(package) for package in PACKAGES if package.into == into]
        (into / "manifest.json").write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


def _vendor(package: Package) -> dict[str, str]:
    short = package.name.split("/")[-1]
    source = _read(package, package.file)
    if package.name == "vega-interpreter":
        source = _as_script(source.decode()).encode()
    licence = _read(package, "LICENSE")
    if package.name == "vega":
        licence += b"\n\nD3, modules of which are part of this file:\n\n" + _read(D3, D3.file)
    name, licence_name = Path(package.file).name, f"LICENSE-{short}.txt"
    (package.into / name).write_bytes(source)
    (package.into / licence_name).write_bytes(licence)
    return {
        "file": name,
        "package": package.name,
        "version": package.version,
        "licence": package.licence,
        "licence_file": licence_name,
        "sha256": hashlib.sha256(source).hexdigest(),
    }


def _read(package: Package, file: str) -> bytes:
    """One file of the package, as npm serves it; npm checks the archive against the registry's own hash."""
    with tempfile.TemporaryDirectory() as folder:
        command = ("npm", "pack", "--silent", f"{package.name}@{package.version}")
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        (archive,) = Path(folder).iterdir()
        with tarfile.open(archive) as packed:
            found = packed.extractfile(f"package/{file}")
            assert found is not None
            return found.read()


def _as_script(module: str) -> str:
    """A module with one import and one export as a script that takes the import from the global ``vega``."""
    head, tail = "import { ", " } from 'vega-util';\n"
    assert module.startswith(head)
    names, _, body = module.removeprefix(head).partition(tail)
    body, _, exported = body.rpartition("export { ")
    local, _, public = exported.partition(" };")[0].partition(" as ")
    assert "import " not in body
    inner = f"const {{ {names} }} = vega;\n{body}\nreturn {{ {public}: {local} }};"
    return f"var vegaInterpreter = (() => {{\n{inner}\n}})();\n"


if __name__ == "__main__":
    main()
