"""What the site needs beyond Markdown: files from outside of docs/, titles of code, and equations as MathML."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
RECORDS = "benchmarks/results"
TAKEN_ALONG = (f"{RECORDS}/*", "examples/*.py")

_NAMED_FENCE = re.compile(r"^```(\w+) (\S+)$", re.M)
_EQUATION = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.S)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take along what pages link to outside of docs/: pages of the repository, records of benchmarks, examples."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for found in sorted(path for pattern in TAKEN_ALONG for path in ROOT.glob(pattern)):
        files.append(File.generated(config, found.relative_to(ROOT).as_posix(), abs_src_path=str(found)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links that leave docs/ end where `on_files` has put their files; a fence that names a file shows the name."""
    for folder in (RECORDS, "examples"):
        markdown = markdown.replace(f"](../{folder}/", f"]({folder}/")
    for source, page in PAGES.items():
        markdown = markdown.replace(f"](../{source}", f"]({page}")
    return _NAMED_FENCE.sub(r'```\1 title="\2"', markdown)


def on_page_content(html_text: str, **_: Any) -> str:
    """Equations as MathML: browsers draw it themselves, without a script and without a font of its own."""
    return _EQUATION.sub(_mathml, html_text)


def _mathml(found: re.Match[str]) -> str:
    text = html.unescape(found[2]).strip()
    if found[1] == "span":
        return convert(text, display="inline")
    return f'<div class="equation">{convert(text, display="block")}</div>'
