"""Probes: classifiers on a frozen model, a grid of learning rates and weight decays trained on the same features."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

from engines.loss_settings import LossSettings
from engines.objectives.classification import Classification
from models.videomambapro import VideoMambaPro

NORM_EPS = 1e-6  # as in MAE's linear probe


class Probe(Classification):
    """One classifier for each pair of learning rate and weight decay, on the features of a frozen model.

    A linear probe reads the class token through a BatchNorm without affine (as MAE's, arXiv 2111.06377); the probes of
    a model with an attentive pooler have a pooler of their own. After each validation, the best probe becomes the
    model's own head (and pooler), with the BatchNorm folded into it, so checkpoints are those of a classifier.
    Validation clips are given to all probes, the views of a test to that head.

    Args:
        model: what is probed; its head and pooler are the initial values of every probe.
        num_classes: see `Classification`.
        settings: see `Classification`.
        grid: pairs of peak learning rate and weight decay.
        options: further arguments of `Classification`.
    """

    held_out: Tensor
    chosen: Tensor

    def __init__(
        self,
        model: VideoMambaPro,
        num_classes: int,
        settings: LossSettings | None = None,
        *,
        grid: Sequence[tuple[float, float]],
        **options,
    ):
        super().__init__(model, num_classes, settings, **options)
        self.grid = list(grid)
        self._of_all_probes = False
        parts = {"head": model.head, **({"pooler": model.pooler} if model.pooler else {})}
        self.probes = nn.ModuleList(nn.ModuleDict(copy.deepcopy(parts)) for _ in self.grid)
        # The features of a frozen model do not drift, so the statistics are means over all steps.
        norm = nn.BatchNorm1d(model.embed_dim, NORM_EPS, momentum=None, affine=False)
        self.probe_norm: Any = nn.Identity() if model.pooler else norm
        model.requires_grad_(False)
        # In checkpoints, so that a test knows how the head was chosen: accuracy and loss on the held-out videos.
        self.register_buffer("held_out", torch.zeros(len(self.grid), 2))
        self.register_buffer("chosen", torch.tensor(-1))

    def train(self, mode: bool = True) -> "Probe":
        """Set the mode of the probes; the model is always evaluated."""
        super().train(mode)
        self.model.eval()
        return self

    def optimizer_groups(self) -> list[dict[str, Any]]:
        """Return the groups of each probe, with its learning rate and weight decay."""
        groups = []
        for probe, (lr, decay) in zip(self.probes, self.grid, strict=True):
            own = param_groups_weight_decay(probe, decay, no_weight_decay_list=("pooler.query.latent",))
            groups += [group | {"lr": lr} for group in own if group["params"]]
        return groups

    def forward(self, batch: dict) -> dict[str, Tensor]:
        """Compute the sum of the probes' losses, so that each has the gradient of its own, and their mean."""
        losses = torch.stack([self.loss(logits, batch["targets"]) for logits in self._logits(batch["clips"])])
        return {"loss": losses.sum(), "mean_loss": losses.mean().detach()}

    def outputs(self, batch: dict, device: torch.device, *, clips_per_forward: int) -> np.ndarray:
        """Return log-probabilities: of validation clips by all probes (videos, probes, classes), of a test's views by
        the model (videos, classes).
        """
        self._of_all_probes = batch["clips"].dim() == 5
        return np.asarray(super().outputs(batch, device, clips_per_forward=clips_per_forward))

    def predict(self, clips: Tensor) -> Tensor:
        """Return log-probabilities of single views, see `outputs`."""
        if not self._of_all_probes:
            return super().predict(clips)
        return torch.stack([logits.float().log_softmax(-1) for logits in self._logits(clips)], dim=1)

    def figures(self, outputs: np.ndarray, records: Sequence) -> dict[str, float]:
        """Return the figures of the model in a test, and of the best probe in a validation."""
        if outputs.ndim == 2:
            return super().figures(outputs, records)
        labels = self._checked_labels(outputs[:, 0], records)
        correct = 100.0 * (outputs.argmax(-1) == labels[:, None]).mean(0)
        losses = -outputs[np.arange(len(labels)), :, labels].mean(0)
        self.held_out.copy_(torch.from_numpy(np.stack([correct, losses], axis=1)))
        self.chosen.fill_(int(np.lexsort((losses, -correct))[0]))
        return super().figures(outputs[:, int(self.chosen)], records)

    @torch.no_grad()
    def after_validation(self, evaluation) -> dict[str, float]:
        """Copy the best probe into the model."""
        model: Any = self.model
        probe = self.probes[int(self.chosen)]
        for name, part in probe.named_children():
            model.get_submodule(name).load_state_dict(part.state_dict())
        if not model.pooler:
            model.head.weight.div_((self.probe_norm.running_var + NORM_EPS).sqrt())
            model.head.bias.sub_(model.head.weight @ self.probe_norm.running_mean)
        return {}

    def results(self, evaluation) -> dict[str, Any]:
        """Return those of `Classification`, the grid with each probe's figures on held-out videos, and the choice."""
        rows = [
            {"lr": lr, "weight_decay": decay, "held_out_top1": round(top1, 3), "held_out_loss": round(loss, 5)}
            for (lr, decay), (top1, loss) in zip(self.grid, self.held_out.tolist(), strict=True)
        ]
        return super().results(evaluation) | {"probe": rows, "chosen_probe": rows[int(self.chosen)]}

    def _logits(self, clips: Tensor) -> list[Tensor]:
        """Return the logits (n, classes) of every probe for clips (n, C, T, H, W)."""
        model: Any = self.model
        probes: Any = self.probes
        with torch.no_grad():
            tokens = model.forward_tokens(clips)
        if model.pooler:
            return [probe["head"](probe["pooler"](tokens)) for probe in probes]
        features = self._normed(tokens[:, 0].float())
        return [probe["head"](features) for probe in probes]

    def _normed(self, features: Tensor) -> Tensor:
        """Normalise features (n, d); the statistics ignore what is not finite, because its step is skipped."""
        norm: Any = self.probe_norm
        if norm.training and not features.isfinite().all():
            return F.batch_norm(features, None, None, training=True, eps=NORM_EPS)
        return norm(features)
