"""results.json: what was tested, how, and how well."""

import platform
import shlex
import sys
from pathlib import Path

import numpy as np
import timm
import torch

from engines.evaluate import Evaluation
from engines.files import write_json


def write_results(output_dir: str, result: Evaluation, args, *, num_classes: int, weights: str) -> Path:
    """Write output_dir/results.json, whole or not at all, and return its path.

    Args:
        output_dir: folder, made where it is not there.
        result: of the test.
        args: model, and test_num_segment x test_num_crop, which make up the views; one view is one of each.
        num_classes: size of the confusion matrix, whose row is the true class and whose column the predicted one.
        weights: which weights were tested, in words.
    """
    segments, crops = (1, 1) if result.views == 1 else (args.test_num_segment, args.test_num_crop)
    record = {
        "top1": result.acc1,
        "top5": result.acc5,
        "loss": result.loss,
        "videos": result.videos,
        "excluded": result.excluded,
        "views": result.views,
        "segments": segments,
        "crops": crops,
        "model": getattr(args, "model", None),
        "weights": weights,
        "classes": num_classes,
        "label_names": getattr(args, "class_names", None),
        "confusion_matrix": result.confusion_matrix(num_classes).tolist(),
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": timm.__version__,
            "numpy": np.__version__,
        },
    }
    path = Path(output_dir) / "results.json"
    write_json(path, record)
    return path
