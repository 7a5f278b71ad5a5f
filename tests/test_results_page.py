"""docs/results.md against the recipes: every reported figure is in it, and nothing that no recipe knows."""

from pathlib import Path

import pytest
import yaml

from benchmarks import results_page
from engines.recipe import load_recipe, recipe_names

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "results.md").read_text()
RERUNS = yaml.safe_load((ROOT / "docs" / "results" / "reruns.yaml").read_text())


@pytest.mark.parametrize("name", [name for name in recipe_names() if load_recipe(name).reported])
def test_every_reported_figure_has_its_row(name):
    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert [float(cell) for cell in cells[1:3] if cell.replace(".", "").isdigit()] == [
        load_recipe(name).reported[family]
        for family in ("videomambapro", "videomamba")
        if family in load_recipe(name).reported
    ]


def test_what_others_got_is_told_of_runs_that_there_are():
    assert RERUNS.keys() <= set(recipe_names())
    for words in ("61.0 to 63.2", "64.98", "64.65", "85.9"):
        assert words in PAGE


def test_the_page_is_what_the_command_writes(tmp_path):
    results_page.main(["--output", str(tmp_path / "results.md")])
    assert (tmp_path / "results.md").read_text() == PAGE, "run python -m benchmarks.results_page"


def test_a_measurement_is_taken_in_with_its_logs(tmp_path, monkeypatch):
    monkeypatch.setattr(results_page, "MEASURED", tmp_path)
    (tmp_path / "reruns.yaml").write_text("k400/tiny_f8_res224: {reruns: 'theirs: 12.3'}\n")
    folder = tmp_path / "few"
    folder.mkdir()
    (folder / "table.md").write_text("### Few\n\n| 1 |\n")
    (folder / "log.txt").write_text("{}")
    text = results_page.document()
    assert "### Few" in text and "[log.txt](results/few/log.txt)" in text and "theirs: 12.3" in text
