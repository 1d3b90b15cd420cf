"""The pages: each says what it is for, sentences are short, and the architecture shows every room."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "k8s/README.md", "examples/README.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
LONGEST = 30
"""Words a sentence may have."""
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def units(page: str) -> Iterator[str]:
    """Each paragraph, item of a list and cell of a table; without blocks of code, and links as their text."""
    page = re.sub(r"^( *)```.*?^\1```$", "\n", page, flags=re.DOTALL | re.MULTILINE)
    page = re.sub(r"<[^>\n]+>", "", page)
    page = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", page)
    for block in re.split(r"\n\s*\n|\n(?= *(?:[*-]|\d+\.) )|\n(?=\||#)|(?<=\|)\n", page):
        if block.startswith("|"):
            yield from re.split(r"(?<!\\)\|", block)
        else:
            yield re.sub(r"^ *(?:[*-]|\d+\.|#+) ", "", block)


def sentences(unit: str) -> list[str]:
    """A sentence ends with a stop before a capital letter or code, or with its unit. Semicolons and colons end none."""
    return re.split(r"(?<=[.?!])[)*\"]*\s+(?=[A-Z\"(*`])", " ".join(unit.split()))


def words(sentence: str) -> int:
    """What stands in backticks counts as it is written; signs alone are no words."""
    return sum(bool(re.search(r"\w", word)) for word in sentence.split())


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_no_sentence_is_long(page: Path) -> None:
    found = [each for unit in units(page.read_text()) for each in sentences(unit) if words(each) > LONGEST]
    assert found == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_page_begins_with_what_it_is_for(page: Path) -> None:
    title, beginning, *_ = re.split(r"\n\s*\n", page.read_text())
    assert re.fullmatch(r"# .+", title)
    assert re.match(r"[A-Z`]", beginning), beginning


@pytest.mark.parametrize(
    ("text", "longest"),
    [
        ("One two. Three four five.", 3),
        ("One `two three` four;\nfive: six.", 6),
        ("| one | two three |\n|---|---|\n| four five six. Seven | + |", 3),
        ("* one two\n* three\n\n```console\nnot one word of this counts\n```\n", 2),
        ("One [two three](a/long/way.md#to-go).", 3),
        ("(It ends.) Then **another begins.** And a third.", 3),
    ],
)
def test_words_are_counted_as_people_count_them(text: str, longest: int) -> None:
    assert max(words(each) for unit in units(text) for each in sentences(unit)) == longest


def named_in_the_architecture() -> set[str]:
    return set(re.findall(r"`((?:\w+/)*\w+\.py)`", (ROOT / "docs/architecture.md").read_text()))


def test_every_module_that_the_architecture_names_is_there() -> None:
    modules = [path.as_posix() for top in ("eventbus", "consumers", "tests") for path in (ROOT / top).rglob("*.py")]
    names = named_in_the_architecture()
    assert len(names) > 80
    assert [name for name in names if not any(module.endswith(f"/{name}") for module in modules)] == []


def test_the_architecture_names_every_room() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    rooms = [path.parent for top in ("eventbus", "consumers") for path in (ROOT / top).glob("*/__init__.py")]
    assert len(rooms) > 14
    assert [str(room.relative_to(ROOT)) for room in rooms if str(room.relative_to(ROOT)) not in text] == []
