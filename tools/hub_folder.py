"""Make a folder of a checkpoint, as on the Hugging Face hub (a command of `tools.checkpoint`; see docs/hub.md)."""

import argparse
import json
from pathlib import Path
from typing import Any

from engines.results import RESULTS
from inference import Predictor, load_predictor
from inference.description import describe_reading
from inference.detector import is_detector
from models.describe import describe_checkpoint
from models.hub import plain_state
from models.model_card import LICENSE
from tools.export_checks import check_folder


def write_hub_folder(options: argparse.Namespace) -> str:
    """Write the folder and return a line that says what is in it.

    Raises:
        FileNotFoundError: The checkpoint or the results do not exist.
        CheckpointError: The checkpoint cannot be used.
        ValueError: The folder is not empty, the results are of another test, or the checkpoint is a detector.
    """
    check_folder(options.file, options.target)
    predictor = prepare_predictor(options.file, options.label_names, options.recipe)
    card, origin = prepare_card(options, options.file, predictor)
    predictor.model.save_pretrained(options.target, model_card_kwargs=card)
    return f"{options.target}: {origin}"


def prepare_card(options: argparse.Namespace, checkpoint: Path, predictor: Predictor) -> tuple[dict[str, Any], str]:
    """Return the arguments of `model_card` and a phrase that says where licence and results come from.

    Raises:
        FileNotFoundError: The results do not exist.
        ValueError: They are no JSON, of another task or of another number of classes.
    """
    results, source = read_results(options.results, checkpoint)
    if results.get("task", predictor.task) != predictor.task:
        raise ValueError(
            f"{source} tests --task {results['task']}, the checkpoint is of --task {predictor.task}; see --results"
        )
    classes = len(predictor.label_names)
    tested = results.get("classes") or results.get("num_classes") or len(results.get("target_names") or "") or classes
    if tested != classes:
        noun = "targets" if predictor.task == "regression" else "classes"
        raise ValueError(f"{source} has {tested} {noun}, the checkpoint {classes}; see --results")
    licence = options.license or LICENSE
    card = {"name": options.name, "data": options.data, "license": licence, "results": results}
    return card, f"licence {licence} (--license), results from {source or 'nowhere (--results)'}"


def prepare_predictor(file: Path, label_names: str = "", recipe: str = "", **overrides: Any) -> Predictor:
    """Load a checkpoint whose model knows its task, the names of its classes or targets and how clips are read.

    Raises:
        ValueError: It is a detector, or see `load_predictor`.
    """
    facts = describe_checkpoint(file)
    if is_detector(facts):
        raise ValueError(
            f"{file} is an action detector, whose boxes have no place in a folder: share its checkpoint "
            "(tools.checkpoint convert)"
        )
    predictor = load_predictor(file, device="cpu", label_names=label_names, recipe=recipe, **overrides)
    named = label_names or facts.flags.get("class_names")
    predictor.model.run_flags = facts.flags | ({"class_names": list(predictor.label_names)} if named else {})
    predictor.model.objective_state = plain_state(facts.beside)
    predictor.model.reading = describe_reading(predictor)
    return predictor


def read_results(given: Path | None, checkpoint: Path) -> tuple[dict[str, Any], Path | None]:
    """Return the results of the test of a checkpoint and their file; nothing where there are none beside it."""
    file = given or checkpoint.parent / RESULTS
    if given is None and not file.is_file():
        return {}, None
    if not file.is_file():
        raise FileNotFoundError(f"--results {file} does not exist; the test of a run writes {RESULTS} in its folder")
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    tested = Path(results.get("weights") or "").name
    if given is None and tested != checkpoint.name:
        return {}, None
    return results, file
