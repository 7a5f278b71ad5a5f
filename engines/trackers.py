"""Experiment trackers beside TensorBoard: trackio, wandb or MLflow, each imported only when it is asked for.

A resumed run continues its record, whose name is kept in `tracker.json`. Where the records go is the tracker's
business: trackio writes locally, and all three read their own environment variables (TRACKIO_SPACE_ID, WANDB_MODE,
MLFLOW_TRACKING_URI).
"""

import importlib
import importlib.util
import json
import logging
import math
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.files import write_json

TRACKERS = ("trackio", "wandb", "mlflow")
PROJECT = "videomambapro"
RECORD = "tracker.json"

_logger = logging.getLogger(__name__)


def require_tracker(name: str) -> None:
    """Raise a ValueError that names the remedy unless a tracker is known and installed."""
    if name and name not in TRACKERS:
        raise ValueError(f"--track {name}: choose from {', '.join(TRACKERS)}")
    if name and importlib.util.find_spec(name) is None:
        raise ValueError(f"--track {name} needs {name}: pip install {name}")


class Tracker:
    """Writer of scalars to a tracker; after an error of the tracker, the run continues without it.

    Args:
        name: One of `TRACKERS`.
        output_dir: Folder of the run, which keeps the name of its record; empty for none.
        flags: Of the run, kept with the record.
    """

    def __init__(self, name: str, output_dir: str, flags: Mapping[str, Any]):
        self.name = name
        self._module: Any = None
        self._guarded(self._open, output_dir, flags)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record finite values at an optimizer step."""
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        if self._module is not None:
            write = self._module.log_metrics if self.name == "mlflow" else self._module.log
            self._guarded(write, finite, step=step)

    def close(self) -> None:
        """Finish the record."""
        if self._module is not None:
            self._guarded(self._module.end_run if self.name == "mlflow" else self._module.finish)

    def _open(self, output_dir: str, flags: Mapping[str, Any]) -> None:
        module: Any = importlib.import_module(self.name)
        file = Path(output_dir) / RECORD if output_dir else None
        known = json.loads(file.read_text(encoding="utf-8")) if file and file.is_file() else {}
        record = known.get(self.name)
        name = record or f"{Path(output_dir).name or 'run'}-{uuid.uuid4().hex[:8]}"
        plain = json.loads(json.dumps(dict(flags), default=str))
        if self.name == "mlflow":
            module.set_experiment(PROJECT)
            name = module.start_run(run_id=record, run_name=None if record else name).info.run_id
            module.log_dict(plain, "args.json")
        else:
            identity = {"id": name} if self.name == "wandb" else {}
            module.init(project=PROJECT, name=name, config=plain, resume="allow", **identity)
        self._module = module
        if file:
            write_json(file, known | {self.name: name})

    def _guarded(self, call: Any, *arguments: Any, **keywords: Any) -> None:
        try:
            call(*arguments, **keywords)
        except Exception as error:  # noqa: BLE001 - a tracker may raise anything, and must not end a run
            _logger.warning("%s failed (%s): the run continues without it", self.name, error)
            self._module = None
