"""Write docs/results.md: published runs, reruns by others, and measurements with this repository.

    python -m benchmarks.results_page [--output docs/results.md]

The published figures are `reported` in recipes/, those of other people are in docs/results/reruns.yaml. Each folder in
docs/results/ is a measurement: table.md, as its command wrote it, and the logs of its runs.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from common.files import atomic_write
from common.flag_parser import FlagParser
from engines.recipe import Recipe, load_recipe, read_yaml, recipe_names

ROOT = Path(__file__).resolve().parent.parent
MEASURED = ROOT / "docs" / "results"
FAMILIES = {"videomambapro": "VideoMambaPro (paper)", "videomamba": "VideoMamba (model zoo)"}
HEAD = """# Results

Written by `python -m benchmarks.results_page`.

## Published runs

Top-1 in percent. VideoMamba's figures come from its model zoo, VideoMambaPro's from its paper, as quoted by
others. None of these runs was repeated here, because each takes several GPUs for days. Every row is a recipe, run by
this command (for VideoMamba, add `--model videomamba_tiny`, `_small` or `_middle`):

    torchrun --nproc_per_node 8 SCRIPT --recipe RECIPE --data_path LISTS --data_root DIR --finetune WEIGHTS

SCRIPT is named above each table. docs/data.md describes the lists, `python -m tools.make_lists` writes them.
"""
MEASURED_HEAD = """## Measured here

Everything was measured on CPUs, with the given commands except where a script was not kept; the logs contain seeds and
settings.
"""


def document() -> str:
    """Return the whole page."""
    tables = defaultdict(list)
    reruns = read_yaml(MEASURED / "reruns.yaml")
    for name in recipe_names():
        recipe = load_recipe(name)
        if recipe.reported:
            tables[recipe.script, name.partition("/")[0]].append((recipe, reruns.get(name, {})))
    parts = [HEAD]
    for (script, file), rows in tables.items():
        parts += [f"### {file}\n\nSCRIPT is `{script}`.\n", table_of(rows)]
    parts.append(MEASURED_HEAD)
    for folder in sorted(path for path in MEASURED.iterdir() if (path / "table.md").is_file()):
        parts.append((folder / "table.md").read_text(encoding="utf-8"))
        logs = sorted(file.name for file in folder.iterdir() if file.name != "table.md")
        if logs:
            parts.append(f"Logs: {', '.join(f'[{name}](results/{folder.name}/{name})' for name in logs)}\n")
    return "\n".join(parts)


def table_of(rows: Sequence[tuple[Recipe, dict[str, str]]]) -> str:
    """Return the Markdown table of one file's runs.

    Args:
        rows: Each recipe with its entry in reruns.yaml: `reruns` and `explanation`, both optional.
    """
    families = [family for family in FAMILIES if any(family in recipe.reported for recipe, _ in rows)]
    explained = any(more for _, more in rows)
    columns = ["recipe", *(FAMILIES[family] for family in families)]
    columns += ["other people's runs", "possible explanation"] if explained else []
    lines = ["| " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(families) + " --- | --- |" * explained]
    for recipe, more in rows:
        cells = [f"`{recipe.name}`", *(f"{recipe.reported.get(family, '')}" for family in families)]
        cells += [more.get("reruns", ""), more.get("explanation", "")] if explained else []
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = FlagParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results.md", help="file (%(default)s)")
    with atomic_write(parser.parse_args(arguments).output, "w") as file:
        file.write(document())


if __name__ == "__main__":
    main()
