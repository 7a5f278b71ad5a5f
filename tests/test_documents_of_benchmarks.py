"""Texts that benchmarks write into documents."""

import pytest

from benchmarks.documents import markers_of, mean_and_spread, replace_between

BEGIN, END = markers_of("figures")


def test_only_the_text_between_the_markers_is_replaced(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    replace_between(page, "figures", "| new |")
    assert page.read_text() == f"before\n{BEGIN}\n| new |\n{END}\nafter\n"


@pytest.mark.parametrize("content", ["", f"{BEGIN}\n", f"{END}\n{BEGIN}\n", f"{BEGIN}\n{END}\n{BEGIN}\n{END}\n"])
def test_a_document_without_one_pair_of_markers_stays_as_it_is(tmp_path, content):
    page = tmp_path / "page.md"
    page.write_text(content)
    with pytest.raises(ValueError, match="page.md: must contain"):
        replace_between(page, "figures", "new")
    assert page.read_text() == content


def test_one_value_has_no_spread():
    assert mean_and_spread([30.0, 31.0]) == "30.5 +- 0.7" and mean_and_spread([30.0]) == "30.0"
