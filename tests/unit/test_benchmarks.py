"""The numbers and plots of the pages are those of benchmarks/results.json, and nothing else counts as measured."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from benchmarks import figures, plots, tables
from benchmarks.__main__ import NEEDS, PARTS, QUICK
from benchmarks.figures import Figure
from benchmarks.goals import Goal
from benchmarks.plots.charts import logarithmic, powers, round_up
from benchmarks.results import FILE, Results

ROOT = Path(__file__).parents[2]
MEASURED = re.compile(r"\d[\d.,]*\s*(?:µs|ms\b|MiB|%|times\b|rows/s|(?:\w+ )?a second)")
"""A number with a unit of something that is measured."""


def test_the_results_are_there() -> None:
    assert FILE.exists()
    assert set(Results.load().parts) <= set(PARTS)


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda page: page.name)
def test_numbers_of_the_pages_are_those_of_the_results(page: Path) -> None:
    """Mend it with `python -m benchmarks --render`."""
    text = page.read_text()
    assert "<!-- end -->" in text
    assert tables.filled(text, Results.load(), tables.images(page)) == text


@pytest.mark.parametrize("page", ["README.md", "docs/benchmarks.md"])
def test_no_number_that_looks_measured_stands_outside_the_markers(page: str) -> None:
    assert MEASURED.findall(tables.without_figures((ROOT / page).read_text())) == []


def test_plots_are_those_of_the_results() -> None:
    made = dict(plots.drawn(Results.load()))
    assert made
    assert {name: (plots.FOLDER / name).read_text() for name in made} == made


def test_pages_show_every_plot_in_light_and_dark() -> None:
    text = "".join((ROOT / page).read_text() for page in ("README.md", "docs/benchmarks.md"))
    assert [path.name for path in plots.FOLDER.glob("bench-*.svg") if path.name not in text] == []


def test_every_part_is_a_command_that_is_there() -> None:
    assert [name for name, (module, *_) in PARTS.items() if importlib.util.find_spec(module) is None] == []
    assert set(QUICK) | set(NEEDS) <= set(PARTS)


def results(**values: float) -> Results:
    found = Results({"cores": 2}, {})
    found.put("part", {name: Figure(value, "ratio", value / 2, value * 2, 3) for name, value in values.items()})
    return found


def test_a_page_is_filled_and_filled_again() -> None:
    page = "It is <!-- figure one -->9<!-- end --> of <!-- figure two --><!-- end -->."
    filled = tables.filled(page, results(one=1.234, two=1234))
    assert filled == "It is <!-- figure one -->1.23<!-- end --> of <!-- figure two -->1,234<!-- end -->."
    assert tables.filled(filled, results(one=1.234, two=1234)) == filled
    assert tables.without_figures(filled) == "It is  of ."


def test_a_picture_that_cannot_be_drawn_is_not_shown() -> None:
    assert tables.filled("<!-- picture latency: it --><!-- end -->", results(one=1)) == (
        "<!-- picture latency: it -->\n<!-- end -->"
    )


def test_a_figure_that_was_not_measured_is_an_error() -> None:
    with pytest.raises(KeyError, match="three"):
        tables.filled("<!-- figure three --><!-- end -->", results(one=1))


def test_results_are_kept_and_a_part_replaces_its_elder(tmp_path: Path) -> None:
    found = results(one=1)
    found.put("part", {"two": Figure(2, "ms")}, is_complete=False)
    found.save(tmp_path / "results.json")
    again = Results.load(tmp_path / "results.json")
    assert again["two"] == Figure(2, "ms")
    assert again.get("one") is None
    assert not again.has("part")
    assert list(again.under("tw")) == ["two"]


def test_what_a_benchmark_notes_is_gathered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(figures.VARIABLE, str(tmp_path / "figures"))
    figures.note_ratio("ratio", [2, 3, 9], [1, 2, 3])
    figures.note("one", 123456, "ms")
    assert figures.read(tmp_path / "figures") == {
        "ratio": Figure(2, "ratio", 1.5, 3, 3),
        "one": Figure(123500, "ms"),
    }


def test_a_goal_is_a_limit_or_a_least() -> None:
    assert Goal("", "", 1.1).is_met(1.1)
    assert not Goal("", "", 1.1).is_met(1.11)
    assert Goal("", "", 1000, "rows/s", least=True).is_met(1000)
    assert not Goal("", "", 1000, least=True).is_met(999)


def test_a_logarithmic_axis_has_equal_steps_for_equal_ratios() -> None:
    scale = logarithmic(1, 100, 0, 200)
    assert [scale(1), scale(10), scale(100)] == pytest.approx([0, 100, 200])
    assert powers(1, 30, (1, 3)) == pytest.approx([1, 3, 10, 30])
    assert [round_up(each) for each in (1, 1.2, 3, 70)] == pytest.approx([1, 2, 5, 100])
