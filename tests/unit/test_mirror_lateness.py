"""How late files were, minute by minute, for whoever draws it."""

from __future__ import annotations

from pathlib import Path

from consumers.json_mirror.lateness import Lateness, Minute


def test_each_minute_that_is_over_has_a_line_for_one_hour(tmp_path: Path) -> None:
    now = [600.0]
    lateness = Lateness(tmp_path / "lateness.json", clock=lambda: now[0])
    for age in (0.004, 0.250, 0.005):
        lateness.add(age)
    assert lateness.minutes() == [], "the minute is not over"
    now[0] += 60
    lateness.turn()
    lateness.add(0.001)
    now[0] += 120
    lateness.turn()
    assert lateness.minutes() == [Minute(10, 3, 5, 250), Minute(11, 1, 1, 1)]
    now[0] = 60.0 * 71
    assert Lateness(tmp_path / "lateness.json", clock=lambda: now[0]).minutes() == [Minute(11, 1, 1, 1)]


def test_a_damaged_file_is_begun_anew_and_what_leads_elsewhere_is_left_alone(tmp_path: Path) -> None:
    now, path, other = [0.0], tmp_path / "lateness.json", tmp_path / "other"
    path.write_text('[[1, "x"')
    other.write_text("theirs")
    path.with_suffix(".new").symlink_to(other)
    lateness = Lateness(path, clock=lambda: now[0])
    lateness.add(1)
    now[0] += 60
    lateness.turn()
    assert other.read_text() == "theirs"
    assert lateness.minutes() == []
    path.with_suffix(".new").unlink()
    lateness.add(1)
    now[0] += 60
    lateness.turn()
    assert lateness.minutes() == [Minute(1, 1, 1000, 1000)]
