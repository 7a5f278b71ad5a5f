"""The documentation as a site: every document is a page, and every link leads somewhere."""

import re
import tomllib

import pytest

from tools import site

PLACES = {"README.md": "index.md", "docs/data.md": "data.md", "docs/images/page.webp": "images/page.webp"}


@pytest.mark.parametrize(
    ("document", "text", "expected"),
    [
        ("README.md", "see [docs/data.md](docs/data.md#decoding)", "see [docs/data.md](data.md#decoding)"),
        ("docs/data.md", "see [the start](../README.md)", "see [the start](index.md)"),
        ("docs/data.md", "![a page](images/page.webp)", "![a page](images/page.webp)"),
        ("README.md", '<img src="docs/images/page.webp" alt="x">', '<img src="images/page.webp" alt="x">'),
        (
            "docs/data.md",
            "([`presets`](../datasets/presets.py))",
            "([`presets`](https://x.org/main/datasets/presets.py))",
        ),
        ("docs/data.md", "[here](#decoding), [there](https://x.org)", "[here](#decoding), [there](https://x.org)"),
        ("README.md", "1. a\n\n   b", "1. a\n\n    b"),
    ],
)
def test_links_lead_to_pages_or_to_the_repository(document, text, expected):
    assert site.page_of(text, document, PLACES, "https://x.org/main") == expected


def test_links_to_files_are_text_where_the_repository_has_no_address():
    assert site.page_of("([presets](../datasets/presets.py))", "docs/data.md", PLACES, "") == "(presets)"


def test_a_link_to_nothing_is_told():
    with pytest.raises(FileNotFoundError, match=r"docs/data.md links to ../nothing.py"):
        site.page_of("[x](../nothing.py)", "docs/data.md", PLACES, "")


def test_every_document_is_in_the_navigation(tmp_path):
    site.write_pages(tmp_path)
    nav = tomllib.loads((site.ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]
    entries = [
        entry
        for section in nav
        for value in section.values()
        for entry in ([value] if isinstance(value, str) else value)
    ]
    written = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.md")]
    assert sorted(entries) == sorted(written)


@pytest.mark.processes
def test_the_site_builds_and_a_broken_link_stops_it(monkeypatch, capfd):
    pytest.importorskip("zensical")
    pytest.importorskip("mkdocstrings_handlers.python")
    assert site.main([]) == 0
    assert (site.SITE / "index.html").is_file()
    assert "load_predictor" in (site.SITE / "api" / "prediction.html").read_text(encoding="utf-8")
    page_of = site.page_of
    monkeypatch.setattr(site, "page_of", lambda *args: page_of(*args) + "\n[nowhere](method.md#nowhere)\n")
    # Docstrings take seconds.
    monkeypatch.setattr(site, "api_page", lambda title, _: f"# {title}\n")
    capfd.readouterr()
    assert site.main([]) != 0
    told = "".join(capfd.readouterr())
    assert re.findall(r"(\d+) issues? found", told) == [str(len(site.documents()))], "that link in each, nothing else"
