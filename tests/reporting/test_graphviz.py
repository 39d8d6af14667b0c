"""The nest for Graphviz: quoted, nested as the loops are, and laid out where there is a dot."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from laser_fx.errors import MissingDependencyError, OutputPathError
from laser_fx.loops import Loop, LoopNest, Site
from laser_fx.reporting import GraphPicture, PictureNode, Report, SiteReport
from laser_fx.reporting.flow import flows
from laser_fx.reporting.graphviz import MOST_SITES

HOSTILE = 'a"]; node [label="<script>alert(1)</script>\n&lt;\\'
STRING = re.compile(r'"(?:[^"\\]|\\.)*"')


def program(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """A ``dot`` of our own, the only program there is."""
    path = folder / "dot"
    path.write_text(f"#!/bin/sh\n{code}\n", encoding="utf-8")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def hostile_report() -> Report:
    site = SiteReport(Site(HOSTILE, "loop_0", "w", 8, 32, 16, 4, rank=4))
    return Report(HOSTILE, LoopNest((Loop("loop_0", 4, carry=(HOSTILE,), source=HOSTILE),)), (site,))


def test_clusters_nest_as_loops_do(report: Report) -> None:
    depth, found = 0, {}
    for line in report.to_dot().splitlines():
        if cluster := re.search(r'subgraph "cluster_(\w+)" {', line):
            found[cluster[1]] = depth
        depth += line.count("{") - line.count("}")
    assert found == {"loop_0": 1, "loop_0_0": 2, "loop_0_0_0": 3}
    assert depth == 0


def test_a_site_tells_its_rank_and_fidelity(report: Report) -> None:
    (site,) = (s for s in report.sites if s.site.name == "lm_head")
    (line,) = (line for line in report.to_dot().splitlines() if '"loop_0:lm_head" [' in line)
    lowest = f"{int(site.lowest_fidelity * 1e5) / 1e5:.5f}"  # type: ignore[operator]
    assert f"lm_head\\n256 → 10, k {site.site.rank}\\nfidelity {lowest}\\nreset {site.resets}, exact" in line


def test_what_a_model_calls_its_parts_stays_inside_of_strings() -> None:
    text = hostile_report().to_dot()
    bare = STRING.sub("", text)
    assert not set('"<>&\\') & set(bare.replace("->", ""))
    assert "script" not in bare
    assert text.count("{") - text.count("}") == STRING.sub("", text).count("{") - STRING.sub("", text).count("}") == 0
    assert not any("\n" in found for found in STRING.findall(text))
    assert "&lt;" not in text.replace("&amp;lt;", "")


def test_residuals_do_not_hide_the_order() -> None:
    def linear(name: str, *inputs: str) -> PictureNode:
        return PictureNode(name, "linear", inputs=inputs, loop="loop_0", site=f"loop_0:{name}")

    nodes = (
        PictureNode("x", "x", "input"),
        PictureNode("z", "z", "input", ("x",), "loop_0", carried=("sum",)),
        linear("q", "z"),
        linear("k", "z", "x"),
        PictureNode("attend", "matmul", inputs=("q", "k"), loop="loop_0"),
        linear("o", "attend", "z"),
        PictureNode("sum", "add", inputs=("z", "o"), loop="loop_0"),
    )
    onward = [("loop_0", "loop_0:q"), ("loop_0", "loop_0:k"), ("loop_0:q", "loop_0:o"), ("loop_0:k", "loop_0:o")]
    found = flows(GraphPicture(nodes))
    assert sorted(edge[:2] for edge in found if not edge[2]) == sorted(onward)
    assert [edge for edge in found if edge[2]] == [("loop_0:o", "loop_0", True)]


def test_without_a_picture_only_the_carry_goes_back(report: Report) -> None:
    assert report.picture is None
    edges = [line for line in report.to_dot().splitlines() if "->" in line]
    assert len(edges) == 3
    assert all("style=dashed, constraint=false" in line for line in edges)


def test_many_sites_are_counted_and_not_drawn(report: Report) -> None:
    site = next(site for site in report.sites if site.site.loop == "loop_0")
    many = tuple(replace(site, site=replace(site.site, name=f"part{i}")) for i in range(MOST_SITES + 1234))
    text = replace(report, sites=many).to_dot()
    assert text.count('"loop_0:part') == MOST_SITES
    assert "and 1,234 more sites" in text


def test_no_dot_is_said_with_what_to_install(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="Graphviz's program dot is missing") as caught:
        report.to_svg(tmp_path / "nest.svg")
    assert "apt-get install graphviz" in str(caught.value.fix)
    assert not (tmp_path / "nest.svg").exists()


def test_a_dot_that_fails_is_quoted(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, monkeypatch, 'echo "Format: svg not recognized" >&2; exit 1')
    with pytest.raises(MissingDependencyError, match="dot fails: Format: svg not recognized"):
        report.to_svg(tmp_path / "nest.svg")
    assert [path.name for path in tmp_path.iterdir()] == ["dot"]


def test_dot_gets_the_text_and_its_answer_is_the_file(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, monkeypatch, 'echo "$@"; while IFS= read -r line; do printf "%s\\n" "$line"; done')
    path = report.to_svg(tmp_path / "nest.svg")
    assert path.read_text("utf-8") == f"-Tsvg\n{report.to_dot()}"
    with pytest.raises(OutputPathError, match="exists already"):
        report.to_svg(path)
    assert report.to_svg(path, overwrite=True) == path


@pytest.mark.skipif(shutil.which("dot") is None, reason="no Graphviz")
def test_graphviz_draws_hostile_names_as_text(tmp_path: Path) -> None:
    path = hostile_report().to_svg(tmp_path / "nest.svg")
    tree = ElementTree.parse(path)
    assert not [element for element in tree.iter() if element.tag.endswith("script")]
    assert any("<script>alert(1)</script>" in (element.text or "") for element in tree.iter())
