"""report.html: a self-contained page made from the files of a run.

The evaluation is in `results.json`, the training in `log.txt`, and the settings in `args.json`; one of the first two
is enough. Pictures are data URIs, and a content security policy blocks all other addresses.
"""

import csv
import io
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from matplotlib.figure import Figure

from common.figures import png, svg
from common.files import atomic_write
from common.palette import theme
from reports import figures, numbers, several_labels
from reports.class_names import class_names
from reports.detection import detection_section
from reports.media import Pictures, data_uri
from reports.temporal_controls import temporal_controls
from reports.verdict import judge

_logger = logging.getLogger(__name__)


class _Report(NamedTuple):
    """What a task other than classification adds to the page, from results, names and pictures."""

    section: Callable[[dict, Sequence[str], Pictures], dict]
    tables: Callable[[dict, Sequence[str]], dict[str, list[dict]]]
    mistakes: str


_OTHER_TASKS = {
    "multilabel": _Report(several_labels.section, several_labels.tables, "worst_mistakes"),
    "regression": _Report(numbers.section, numbers.tables, "worst_misses"),
}

REPORT = "report.html"
TRAINING_PICTURE = "training_curve.png"
CONFUSION_PICTURE = "confusion_matrix.png"

SHOWN_PAIRS, SAMPLES_OF_PAIR, SHOWN_MISTAKES, SHOWN_EXCLUDED = 10, 3, 12, 200


def write_report(
    output_dir: str | Path, dataset=None, *, label_names: Sequence[str] | None = None, no_pictures: str | None = None
) -> Path:
    """Write report.html and its figures as PNG files to `output_dir`, and return the path of the page.

    Args:
        output_dir: Contains results.json, log.txt, or both.
        dataset: The tested data set, for frames of its videos; None omits them.
        label_names: Names of the classes by label; None uses those in results.json, or else the labels.
        no_pictures: Why there is no `dataset`, shown on the page.

    Raises:
        FileNotFoundError: There is neither results.json nor log.txt.
        ValueError: Results.json is too old and has no predictions, or the number of names is not that of the classes.
    """
    folder = Path(output_dir)
    epochs = read_log(folder / "log.txt")
    results = _read_json(folder / "results.json")
    if results is None and not epochs:
        raise FileNotFoundError(f"{folder} has neither results.json nor log.txt; it is not the --output_dir of a run")
    settings = _read_json(folder / "args.json") or {}
    sections = {"theme": theme(), "settings": settings, "about": _about(folder, settings, results), "tables": {}}
    if epochs:
        chance = 100 / results["classes"] if results and "classes" in results else None
        sections["training"] = _training(folder, epochs, chance)
        sections["tables"]["epochs"] = epochs
    if results is not None:
        if not {"figures", "predictions"} & results.keys():
            raise ValueError(f"{folder / 'results.json'} is of an older version without predictions; test again")
        root = settings.get("data_root") or ""
        problem = no_pictures or "the videos were not opened for this report"
        excluded = [file | {"path": _below(file["path"], root)} for file in results["excluded"]]
        sections["evaluation"] = results | {"excluded": excluded, "excluded_shown": excluded[:SHOWN_EXCLUDED]}
        sections["tables"]["excluded"] = excluded
        if "classes" in results:
            pictures = Pictures(dataset, problem)
            names = class_names(results, label_names)
            results["worst_mistakes"] = [
                row | {"path": _below(row["path"], root)} for row in results["worst_mistakes"]
            ]
            sections["evaluation"] |= _classification(folder, results, names, pictures)
            sections["tables"] |= _tables_by_class(results, names)
            if "temporal_controls" in results:
                sections["evaluation"]["controls"] = temporal_controls(results, names)
                sections["tables"]["temporal_controls"] = sections["evaluation"]["controls"].table()
        elif results.get("task") in _OTHER_TASKS:
            report = _OTHER_TASKS[results["task"]]
            names = class_names(results, label_names)
            for row in results[report.mistakes]:
                row["path"] = _below(row["path"], root)
            sections["evaluation"] |= report.section(results, names, Pictures(dataset, problem))
            sections["tables"] |= report.tables(results, names)
        elif "ap" in results:
            sections["evaluation"] |= detection_section(results, dataset, problem)
            sections["tables"]["classes"] = sections["evaluation"]["classes_by_ap"]
    page = _template().render(sections)
    with atomic_write(folder / REPORT, "w") as file:
        file.write(page)
    return folder / REPORT


def read_log(path: Path) -> list[dict]:
    """Read the records of log.txt by epoch, the last one if an epoch occurs twice; [] if there is no file.

    A line that is not JSON, which a killed run can leave, is skipped with a warning.
    """
    if not path.is_file():
        return []
    records = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            records[record["epoch"]] = record
        except (json.JSONDecodeError, KeyError, TypeError):
            _logger.warning("%s, line %d is not a record of an epoch and is ignored", path, number)
    return [records[epoch] for epoch in sorted(records)]


def score_name(epochs: Sequence[dict]) -> str | None:
    """Return the name of the figure that selects the best checkpoint; None if there is none."""
    return next((key.removeprefix("best_") for key in epochs[-1] if key.startswith("best_")), None)


def _about(folder: Path, settings: dict, results: dict | None) -> dict:
    """Return the title of the page and the facts below it."""
    results = results or {}
    data_set = settings.get("data_set", "")
    lists = settings.get("data_path", "")
    of_test = (results.get("list") or {}).get("file") or ""
    model = results.get("model") or settings.get("model")
    name = Path(lists or of_test).name if data_set in ("", "custom") else data_set
    written = datetime.fromtimestamp((folder / ("results.json" if results else "log.txt")).stat().st_mtime)
    facts = {
        "date": f"{written:%Y-%m-%d %H:%M}",
        "data set": f"{data_set} ({lists})" if lists else data_set,
        "test list": of_test and f"{_below(of_test, lists)}, {results['list']['records']} videos",
        "views": results and f"{results['segments']} segments × {results['crops']} crops",
        "checkpoint": results and _below(results["weights"], str(folder)),
        "initial weights": settings.get("finetune"),
        "recipe": settings.get("recipe"),
        "run": folder.resolve().name,
    }
    title = " on ".join(filter(None, [model, name])) or folder.resolve().name
    return {"title": title, "facts": {key: value for key, value in facts.items() if value}}


def _below(path: str, root: str) -> str:
    """Return a path relative to `root` if it is below it, else unchanged."""
    inside = root and os.path.abspath(path).startswith(os.path.join(os.path.abspath(root), ""))
    return os.path.relpath(path, root) if inside else path


def _training(folder: Path, epochs: list[dict], chance: float | None) -> dict:
    score = score_name(epochs)
    if score != "acc1":
        chance = None
    _write_picture(folder / TRAINING_PICTURE, png(figures.training_curves(epochs, score, chance)))
    rates = [record["train_clips_per_second"] for record in epochs if record.get("train_clips_per_second")]
    return {
        "pictures": [_shown(figures.panel(draw)) for draw in figures.training_panels(epochs, score, chance)],
        "epochs": len(epochs),
        "last": epochs[-1],
        "score": figures.SCORES.get(score, figures.Scale(score)) if score else None,
        "best": epochs[-1][f"best_{score}"] if score else None,
        "hours": sum(record.get("seconds", 0) for record in epochs) / 3600,
        "clips_per_second": float(np.median(rates)) if rates else None,
    }


def _classification(folder: Path, results: dict, names: list[str], pictures: Pictures) -> dict:
    """Prepare the sections of a classification test."""
    counts = np.array(results["confusion_matrix"])
    confusion = figures.confusion_matrix(counts, names)
    _write_picture(folder / CONFUSION_PICTURE, png(confusion))
    return {
        "names": names,
        "verdict": judge(counts, names),
        "confusion_picture": _shown(confusion),
        "reliability_picture": _shown(figures.reliability_diagram(results["calibration"])),
        "taken_for": _taken_for(counts),
        "pairs": [
            pair | {"samples": _samples(results["predictions"], pair, pictures)}
            for pair in results["most_confused"][:SHOWN_PAIRS]
        ],
        "mistakes": [
            mistake | {"clip": pictures.clip(mistake["line"])}
            for mistake in results["worst_mistakes"][:SHOWN_MISTAKES]
        ],
    }


def _tables_by_class(results: dict, names: list[str]) -> dict[str, list[dict]]:
    """Return the rows of the tables for download, with the names of the classes."""
    counts = np.array(results["confusion_matrix"])
    cells = [
        {"label": row, "prediction": column, "videos": counts[row, column]} for row, column in np.argwhere(counts)
    ]
    tables = {
        "confusion_matrix": cells,
        "classes": results["per_class"],
        "confused_pairs": results["most_confused"],
        "mistakes": results["worst_mistakes"],
        "calibration": results["calibration"]["bins"],
    }
    return {
        table: [
            {key: names[value] if key in ("label", "prediction") else value for key, value in row.items()}
            for row in rows
        ]
        for table, rows in tables.items()
    }


def _samples(predictions: list[dict], pair: dict, pictures: Pictures) -> list[dict]:
    """Return videos of a confused pair, most confident first."""
    found = [row for row in predictions if (row["label"], row["prediction"]) == (pair["label"], pair["prediction"])]
    found.sort(key=lambda row: -row["confidence"])
    return [row | {"still": pictures.still(row["line"])} for row in found[:SAMPLES_OF_PAIR]]


def _taken_for(counts: np.ndarray) -> list[int | None]:
    """Return for every class the most frequent wrong prediction; None if there was none."""
    mistakes = counts - np.diag(counts.diagonal())
    return [int(row.argmax()) if row.any() else None for row in mistakes]


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["percent"] = lambda share: "–" if share is None else f"{100 * share:.1f}"
    environment.filters["csv"] = _csv
    environment.filters["stretch"] = _stretch
    return environment.get_template("template.html")


def _stretch(row: Mapping[str, Any]) -> str:
    """Return start and end of a video's segment, to follow its path; empty for a whole video."""
    return f", {row['start']:g} to {row['end']:g} {row['unit']}" if "unit" in row else ""


def _csv(rows: Sequence[dict]) -> str:
    """Return rows as a CSV file in a data URI."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    return data_uri(buffer.getvalue().encode(), "text/csv")


def _shown(figure: Figure) -> str:
    return data_uri(svg(figure), "image/svg+xml")


def _read_json(path: Path) -> dict | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _write_picture(path: Path, content: bytes) -> None:
    with atomic_write(path) as file:
        file.write(content)
