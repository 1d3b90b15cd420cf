"""No two records share a file, on any file system, and a name tells which record it is."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from consumers.json_mirror import filenames
from consumers.json_mirror.filenames import HashedName
from eventbus.events import naming

SAFE = re.compile(r"[a-z0-9_%=,~-][a-zA-F0-9_%=,~.-]*")
WINDOWS = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
scalars = (
    texts
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
    | st.sampled_from(["5", "-5", "05", "-0", "con", "COM1", ".", "..", "=", "a,b", "~", "", "%35", "null", "true"])
)
keys = scalars | st.lists(scalars | st.none(), min_size=1, max_size=4)


def same(left: Any, right: Any) -> bool:
    """Equal as JSON: 1, 1.0 and true are three values."""
    return repr(left) == repr(right)


def fold(name: str) -> str:
    """What a file system that folds case and normalises Unicode makes of it."""
    return unicodedata.normalize("NFC", name).casefold()


@given(keys)
def test_a_file_name_decodes_to_its_key_or_says_that_it_is_a_hash(pk: Any) -> None:
    name = filenames.filename(pk)
    if "~" in name:
        with pytest.raises(HashedName):
            filenames.decode_filename(name)
    else:
        assert same(filenames.decode_filename(name), pk)


@given(keys, keys)
@example("A", "a")
@example(5, "5")
@example(["a"], "a")
@example(["a", "b"], "a,b")
@example(1, True)
@example(1, 1.0)
@example("", [""])
@example("%35", "5")
@example("é", "e\u0301")
@example("x" * 300, "x" * 299 + "y")
@example("con", "%63on")
def test_different_keys_have_different_names_even_where_case_and_unicode_are_folded(left: Any, right: Any) -> None:
    folded = fold(filenames.filename(left)) == fold(filenames.filename(right))
    assert folded == same(left, right)


@given(keys)
@example("../../etc/passwd")
@example("/etc/passwd")
@example("a\0b\n")
@example("\U0001f600" * 70)
@example("-rf")
def test_a_name_is_plain_short_and_never_special(pk: Any) -> None:
    name = filenames.filename(pk)
    assert SAFE.fullmatch(name)
    assert len(name) <= 255
    assert name.removesuffix(".json") not in WINDOWS


@given(texts.filter(bool), texts.filter(bool))
@example("..", ".")
@example("con", "nul")
@example("%63on", "=a")
@example("a/b", "a\\b")
@example("A", "é")
@example("x" * 300, "y")
def test_directories_decode_to_service_and_entity(service: str, entity: str) -> None:
    directory = filenames.directory(service, entity)
    words = directory.split("/")
    assert len(words) == 2
    assert all(SAFE.fullmatch(word) and len(word) <= 255 and word not in WINDOWS for word in words)
    if "~" not in directory:
        assert filenames.decode_directory(directory) == (service, entity)


@given(texts.filter(bool), texts.filter(bool))
@example("a", "=a")
@example("Ä", "ä")
@example("con", "%63on")
def test_different_services_have_different_directories(left: str, right: str) -> None:
    folded = fold(filenames.directory(left, "e")) == fold(filenames.directory(right, "e"))
    assert folded == (left == right)


def test_names_that_are_quoted_already_stay_as_they_are() -> None:
    assert filenames.directory(naming.quote("CRM"), "contact") == "%43%52%4D/contact"
    assert filenames.path("crm", "contact", "ab12") == "crm/contact/ab12.json"
    assert filenames.path("crm", "order_line", [1, "a"]) == "crm/order_line/1,a.json"
    assert filenames.filename((1, "a")) == filenames.filename([1, "a"])


@pytest.mark.parametrize(
    "name",
    ["README.json", "a.b.json", "%41%.json", "%61.json", "=zz.json", "05.json,", "-0.json", "con.json", ",.json"],
)
def test_a_foreign_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        filenames.decode_filename(name)


@pytest.mark.parametrize("directory", ["crm", "../crm", "Crm/contact", "crm/a.b", "con/a"])
def test_a_foreign_directory_is_refused(directory: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        filenames.decode_directory(directory)


def test_a_long_name_is_cut_at_a_whole_escape() -> None:
    for shift in range(3):
        name = filenames.filename("x" * shift + "é" * 100)
        kept = name.partition("~")[0]
        assert re.fullmatch(r"x*(?:%[0-9A-F]{2})*", kept)
        assert len(kept) in (98, 99, 100)


@given(texts)
@example("con")
@example("con-")
@example("lpt1")
@example("5")
@example("-5")
@example("-")
@example("_")
@example("a" * filenames.MAX_NAME)
@example("a" * (filenames.MAX_NAME + 1))
@example("a\n")
def test_the_short_way_of_the_usual_text_key_ends_where_the_long_way_does(text: str) -> None:
    assert filenames.filename(text) == filenames._fit(filenames._part(text)) + filenames.SUFFIX
