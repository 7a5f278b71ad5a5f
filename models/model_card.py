"""README.md of a hub folder: YAML that the hub and its library read, and what a user has to know."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from models.config import ModelConfig

LICENSE = "apache-2.0"  # of this repository
TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
_METRICS = {
    "acc1": ("accuracy", "top-1 accuracy, %"),
    "acc5": ("accuracy", "top-5 accuracy, %"),
    "mean_ap": ("mean_average_precision", "mAP"),
    "micro_f1": ("f1", "F1 over all decisions"),
    "macro_f1": ("f1", "F1, mean of the classes"),
    "error": ("normalized_mse", "squared error / variance of the training targets"),
    "mae": ("mae", "MAE"),
    "mse": ("mse", "MSE"),
    "r2": ("r_squared", "R²"),
    "pearson": ("pearsonr", "Pearson's r"),
    "spearman": ("spearmanr", "Spearman's rho"),
}
"""Figure of results.json -> the hub's identifier of the metric, its name in the card."""
_LOSS = "loss"


def model_card(
    config: ModelConfig,
    label_names: Sequence[str],
    reading: Mapping[str, Any],
    outputs: Mapping[str, Any],
    *,
    name: str = "",
    results: Mapping[str, Any] | None = None,
    data: str = "",
    license: str = LICENSE,
    library: str = "timm",
    more_usage: str = "",
) -> ModelCard:
    """Write the card of a model.

    Args:
        config: Of the network.
        label_names: Names of the classes, or empty.
        reading: How clips are read (see `inference.description`), or empty.
        outputs: The `task`, how views are merged (`view_merge`), and what turns outputs into predictions (see
            `models.hub.HubFolder`).
        name: Of the model; the registered name by default.
        results: Content of results.json, whose figures the card repeats.
        data: What the results were measured on; by default the name of the list in `results`.
        license: Identifier of the weights' licence, as on the hub.
        library: Which loads the folder, by the hub's name.
        more_usage: Instructions, in Markdown, instead of those for timm and this repository.
    """
    task = "image-classification" if config.num_frames == 1 else "video-classification"
    results = results or {}
    figures = {key: value for key, value in results.get("figures", {}).items() if key != _LOSS}
    measured_on = data or Path(results.get("list", {}).get("file", "") or "test").stem
    name = name or config.name or "VideoMambaPro"
    card = ModelCardData(
        license=license,
        pipeline_tag=task,
        library_name=library,
        tags=["mamba", "state-space-model", "arxiv:2406.19006", "pytorch_model_hub_mixin", "model_hub_mixin"],
        metrics=sorted({_metric(key)[0] for key in figures}) or None,
        model_name=name,
        eval_results=[
            EvalResult(
                task_type=task,
                dataset_type=measured_on,
                dataset_name=measured_on,
                metric_type=_metric(key)[0],
                metric_name=_metric(key)[1],
                metric_value=value,
            )
            for key, value in figures.items()
        ]
        or None,
    )
    return ModelCard.from_template(
        card,
        template_path=str(TEMPLATE),
        name=name,
        config=config.values(),
        label_names=label_names,
        reading=reading,
        outputs=outputs,
        library=library,
        results=results,
        figures={_metric(key)[1]: value for key, value in figures.items()},
        measured_on=measured_on,
        more_usage=more_usage,
    )


def _metric(figure: str) -> tuple[str, str]:
    """Return identifier and name of a figure; those of several targets end in the name of the target."""
    known, _, target = figure.partition("_") if figure not in _METRICS else (figure, "", "")
    metric, name = _METRICS.get(known, (figure, figure))
    return metric, f"{name} of {target}" if target and known in _METRICS else name
