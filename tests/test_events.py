"""The logger: silent until it is asked, and every record has a name and fields."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import laser_fx
from laser_fx import Options
from laser_fx.cli.told import told
from laser_fx.events import EVENTS, LOGGER, is_told, tell
from tests.pages import page
from tests.small import WIDTH, looped

ROOT = Path(__file__).parents[1]


def calls_of_tell() -> Iterator[tuple[Path, ast.Call]]:
    for path in sorted((ROOT / "laser_fx").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "tell":
                yield path, node


def test_nothing_is_printed_where_nobody_configured_logging(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest's own
    logging.getLogger("unheard_of").error("what Python prints where there is no handler at all")
    for event, fields in EVENTS.items():
        tell(logging.ERROR, event, "heard", **dict.fromkeys(fields))
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)


def test_every_event_is_told_of_somewhere_and_no_other() -> None:
    spoken = {node.args[1].value for _, node in calls_of_tell() if isinstance(node.args[1], ast.Constant)}
    assert spoken == set(EVENTS)


def test_the_page_lists_every_event_with_its_fields() -> None:
    rows = re.findall(r"^\| `(\w+)` \| \w+ \| (.*?) \|", page("tools.md").read_text("utf-8"), re.M)
    assert [(event, tuple(re.findall(r"`(\w+)`", fields))) for event, fields in rows] == list(EVENTS.items())


def test_nobody_logs_past_the_events() -> None:
    own = {"events.py"}
    for path in (ROOT / "laser_fx").rglob("*.py"):
        assert path.name in own or "getLogger" not in path.read_text(encoding="utf-8"), path


def test_the_command_line_shows_warnings_and_no_more(capsys: pytest.CaptureFixture[str]) -> None:
    with told():
        tell(logging.WARNING, "size_fixed", "the size %r stays", "length", size="length")
        tell(logging.INFO, "exact_forward", "gradients are on")
    assert capsys.readouterr().err == "warning: the size 'length' stays\n"
    tell(logging.WARNING, "size_fixed", "afterwards", size="length")
    assert "afterwards" not in capsys.readouterr().err


def test_a_field_too_many_or_too_few_is_refused() -> None:
    with pytest.raises(ValueError, match="the fields of size_fixed are size"):
        tell(logging.INFO, "size_fixed", "the size stays")
    with pytest.raises(ValueError, match="the fields of size_fixed are size"):
        tell(logging.INFO, "size_fixed", "the size stays", size="length", other=1)


def test_a_record_points_at_the_code_that_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, LOGGER):
        tell(logging.INFO, "size_fixed", "the size stays", size="length")
    (record,) = caplog.records
    assert record.funcName == "test_a_record_points_at_the_code_that_told"


def test_no_field_hides_one_of_loggings_own() -> None:
    own = logging.makeLogRecord({}).__dict__.keys() | {"message", "asctime"}
    assert not own & {"event", *(field for fields in EVENTS.values() for field in fields)}


def test_compiling_and_exporting_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, LOGGER):
        compiled = laser_fx.compile(looped(), (torch.ones(4, WIDTH),), options=Options.exact())
        file = compiled.to_onnx(tmp_path / "looped.onnx", verify=False)
    made, written = (record for record in caplog.records if record.name == LOGGER)
    assert (made.event, made.model, made.trips) == ("compiled", "looped", compiled.loops.trips())
    assert made.rolled < made.captured
    assert (written.event, written.path, written.bytes, written.verified) == ("exported", file.path, file.bytes, False)


def test_what_only_the_log_wants_is_not_computed_unasked(caplog: pytest.LogCaptureFixture) -> None:
    assert not is_told(logging.INFO)
    with caplog.at_level(logging.INFO, LOGGER):
        assert is_told(logging.INFO)
