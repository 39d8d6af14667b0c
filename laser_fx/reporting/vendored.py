"""The files that a page is put together of: libraries with their licences, scripts, the style."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib.resources import files

__all__ = ["SCRIPTS", "hash_of", "libraries", "script", "style"]

SCRIPTS = tuple(
    "dom data selection tabs tables files charts heat spectra dynamics costs nest picture start".split()  # noqa: SIM905
)
"""The page's own scripts, in the order in which they are put together."""


@cache
def libraries() -> tuple[str, ...]:
    """The vendored libraries as scripts, each headed by its licence.

    >>> [source.split(maxsplit=3)[1:3] for source in libraries()][0]
    ['vega', '6.4.0']
    """
    vendor = files("laser_fx.reporting") / "vendor"
    return tuple(_headed(entry) for entry in json.loads((vendor / "manifest.json").read_text("utf-8")))


def _headed(entry: dict[str, str]) -> str:
    vendor = files("laser_fx.reporting") / "vendor"
    licence = (vendor / entry["licence_file"]).read_text("utf-8").replace("*/", "* /").strip()
    source = (vendor / entry["file"]).read_text("utf-8").partition("//# sourceMappingURL")[0]
    return f"/*! {entry['package']} {entry['version']}\n\n{licence}\n*/\n{source}"


@cache
def script() -> str:
    """The page's own scripts as one, their names hidden from the libraries."""
    page = files("laser_fx.reporting") / "page"
    parts = ((page / f"{name}.js").read_text("utf-8") for name in SCRIPTS)
    return '(() => {\n"use strict";\n' + "\n".join(parts) + "\n})();\n"


@cache
def style() -> str:
    """The page's style sheet."""
    return (files("laser_fx.reporting") / "page" / "page.css").read_text("utf-8")


def hash_of(source: str) -> str:
    """What a content security policy calls a script, by which the browser runs it and no other.

    >>> hash_of("")
    "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
    """
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
