"""report.html: one file with everything in it, made from what a run left in its folder.

`results.json` gives the evaluation, `log.txt` the training, `args.json` the settings; either of the first two is
enough. Nothing is fetched from anywhere: pictures are data URIs, and the page forbids itself any other address.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import jinja2
import numpy as np

from common.files import atomic_write
from reports import figures
from reports.media import Pictures, data_uri

_logger = logging.getLogger(__name__)

REPORT = "report.html"
TRAINING_PICTURE = "training_curve.png"
CONFUSION_PICTURE = "confusion_matrix.png"

SHOWN_PAIRS, SAMPLES_OF_PAIR, SHOWN_MISTAKES, SHOWN_EXCLUDED = 10, 3, 12, 200


def write_report(
    output_dir: str | Path, dataset=None, *, label_names: Sequence[str] | None = None, no_pictures: str | None = None
) -> Path:
    """Write report.html and its figures as PNG files to `output_dir`, and return the page's path.

    Args:
        output_dir: has results.json, log.txt, or both.
        dataset: that was tested, for frames of its videos; None leaves them out.
        label_names: of the classes, in the order of the labels; None takes those of results.json, else the numbers.
        no_pictures: why there is no `dataset`, to be told on the page.
    Raises:
        FileNotFoundError: there is neither results.json nor log.txt.
        ValueError: results.json was written before reports were, or the names are not as many as the classes.
    """
    folder = Path(output_dir)
    epochs = read_log(folder / "log.txt")
    results = _read_json(folder / "results.json")
    if results is None and not epochs:
        raise FileNotFoundError(f"{folder} has neither results.json nor log.txt; it is no --output_dir of a run")
    sections = {"title": folder.resolve().name, "settings": _read_json(folder / "args.json")}
    if epochs:
        sections["training"] = _training(folder, epochs)
    if results is not None:
        if not {"figures", "predictions"} & results.keys():
            raise ValueError(f"{folder / 'results.json'} is of an older version without predictions; test again")
        sections["evaluation"] = results | {"excluded_shown": results["excluded"][:SHOWN_EXCLUDED]}
        if "classes" in results:
            pictures = Pictures(dataset, no_pictures or "the videos were not opened for this report")
            names = class_names(results, label_names)
            sections["evaluation"] |= _classification(folder, results, names, pictures)
    page = _template().render(sections)
    with atomic_write(folder / REPORT, "w") as file:
        file.write(page)
    return folder / REPORT


def read_log(path: Path) -> list[dict]:
    """The records of a log.txt in the order of their epochs; of one that was trained again, the last. [] without file.

    A line that is not JSON, as a killed run leaves, is left out with a warning.
    """
    if not path.is_file():
        return []
    records = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            records[record["epoch"]] = record
        except (json.JSONDecodeError, KeyError, TypeError):
            _logger.warning("%s, line %d is no record of an epoch and is left out", path, number)
    return [records[epoch] for epoch in sorted(records)]


def score_name(epochs: Sequence[dict]) -> str | None:
    """The name of the figure that chose the best checkpoint, as the objective calls it; None where none did."""
    return next((key.removeprefix("best_") for key in epochs[-1] if key.startswith("best_")), None)


def class_names(results: dict, label_names: Sequence[str] | None = None) -> list[str]:
    """A name for each class: those given, else those of results.json, else the labels.

    Raises:
        ValueError: they are not as many as the classes.
    """
    names = label_names or results.get("label_names") or [str(label) for label in range(results["classes"])]
    if len(names) != results["classes"]:
        raise ValueError(f"there are {len(names)} label names and {results['classes']} classes; give a name a line")
    return list(names)


def _training(folder: Path, epochs: list[dict]) -> dict:
    score = score_name(epochs)
    picture = figures.png(figures.training_curves(epochs, score))
    _write_picture(folder / TRAINING_PICTURE, picture)
    rates = [record["train_clips_per_second"] for record in epochs if record.get("train_clips_per_second")]
    return {
        "picture": data_uri(picture, "image/png"),
        "epochs": len(epochs),
        "last": epochs[-1],
        "score": figures.SCORES.get(score, figures.Scale(score)) if score else None,
        "best": epochs[-1][f"best_{score}"] if score else None,
        "hours": sum(record.get("seconds", 0) for record in epochs) / 3600,
        "clips_per_second": float(np.median(rates)) if rates else None,
    }


def _classification(folder: Path, results: dict, names: list[str], pictures: Pictures) -> dict:
    """What the page shows of a test by class and by video."""
    counts = np.array(results["confusion_matrix"])
    confusion = figures.png(figures.confusion_matrix(counts, names))
    _write_picture(folder / CONFUSION_PICTURE, confusion)
    return {
        "names": names,
        "chance": 100 / results["classes"],
        "confusion_picture": data_uri(confusion, "image/png"),
        "reliability_picture": data_uri(figures.png(figures.reliability_diagram(results["calibration"])), "image/png"),
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


def _samples(predictions: list[dict], pair: dict, pictures: Pictures) -> list[dict]:
    """Videos of a confused pair, the surest mistakes first."""
    found = [row for row in predictions if (row["label"], row["prediction"]) == (pair["label"], pair["prediction"])]
    found.sort(key=lambda row: -row["confidence"])
    return [row | {"still": pictures.still(row["line"])} for row in found[:SAMPLES_OF_PAIR]]


def _taken_for(counts: np.ndarray) -> list[int | None]:
    """For every class the wrong class that its videos were taken for most often; None where there was none."""
    mistakes = counts - np.diag(counts.diagonal())
    return [int(row.argmax()) if row.any() else None for row in mistakes]


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["percent"] = lambda share: "–" if share is None else f"{100 * share:.1f}"
    return environment.get_template("template.html")


def _read_json(path: Path) -> dict | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _write_picture(path: Path, content: bytes) -> None:
    with atomic_write(path) as file:
        file.write(content)
