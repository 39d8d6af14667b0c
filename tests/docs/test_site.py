"""The documentation builds strictly, is whole, and fetches nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("mkdocs", reason="the extra docs is not installed")

ROOT = Path(__file__).parents[2]
LOADS = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "object": "data"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


class Loaded(HTMLParser):
    """What a browser fetches with a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get(LOADS.get(tag, ""))
        if address:
            self.addresses.append(address)


def pages(site: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(site.rglob("*.html")):
        yield path.relative_to(site).as_posix(), path.read_text("utf-8")


def is_foreign(address: str) -> bool:
    return bool(re.match(r"(?i)([a-z]+:)?//", address))


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    loaded = {name: Loaded(page).addresses for name, page in pages(site)}
    assert all(loaded.values()), "a page without a style sheet was not read rightly"
    assert not {name: found for name, addresses in loaded.items() if (found := [a for a in addresses if is_foreign(a)])}


def test_the_check_sees_what_would_be_loaded() -> None:
    page = '<link href="//fonts.example/a.css"><img src="a.png"><script src="https://cdn.example/a.js"></script>'
    assert [is_foreign(address) for address in Loaded(page).addresses] == [True, False, True]


def test_no_style_sheet_loads_anything_from_elsewhere(site: Path) -> None:
    sheets = list(site.rglob("*.css"))
    assert sheets
    foreign = re.compile(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//")
    assert not [sheet.name for sheet in sheets if foreign.search(sheet.read_text("utf-8"))]


def test_equations_are_mathml(site: Path) -> None:
    page = (site / "mathematics.html").read_text("utf-8")
    assert page.count("<math ") > 50
    assert "<merror" not in page
    assert not [name for name, text in pages(site) if "arithmatex" in text]


def test_examples_in_docstrings_are_code(site: Path) -> None:
    page = (site / "reference" / "index.html").read_text("utf-8")
    assert '<span class="gp">&gt;&gt;&gt; </span>' in page
    assert not [name for name, text in pages(site) if "<blockquote>" in text]


def test_everything_public_is_in_the_reference(site: Path) -> None:
    import laser_fx

    known = "".join(text for name, text in pages(site) if name.startswith("reference/"))
    modules = [value for name in laser_fx.__all__ if isinstance(value := getattr(laser_fx, name), ModuleType)]
    assert laser_fx.errors in modules
    owners = {laser_fx: set(laser_fx.__all__) - {"__version__"}} | {module: set(module.__all__) for module in modules}
    public = {(owner, name) for owner, names in owners.items() for name in names if owner.__dict__[name] not in modules}
    assert not {
        name for owner, name in public if not any(f'id="{known_as}"' in known for known_as in names_of(owner, name))
    }


def names_of(owner: ModuleType, name: str) -> tuple[str, str]:
    """Where a public name may stand in the reference: under its public place, or where it is defined."""
    return f"{owner.__name__}.{name}", f"{getattr(owner.__dict__[name], '__module__', None)}.{name}"


def test_files_that_pages_name_show_their_names(site: Path) -> None:
    assert '<span class="filename">tiny.py</span>' in (site / "deployment.html").read_text("utf-8")


def test_records_of_benchmarks_are_part_of_the_site(site: Path) -> None:
    page = (site / "training-memory.html").read_text("utf-8")
    assert 'href="benchmarks/results/training_memory.json"' in page
    record = "benchmarks/results/training_memory.json"
    assert (site / record).read_bytes() == (ROOT / record).read_bytes()
