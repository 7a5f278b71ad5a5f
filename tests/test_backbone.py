"""The backbone in weights/: small enough, whole, and better than none."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from benchmarks.few_videos import frame_features
from engines.recipe import load_recipe
from models.arguments import ModelSettings
from models.build import build_model
from models.checkpoint import load_checkpoint
from models.checkpoint_file import write_weights
from models.describe import describe_checkpoint

FILE = Path(__file__).parent.parent / "weights" / "nano_photos.safetensors"


def test_the_recipe_starts_from_it_and_it_is_small():
    assert Path(load_recipe("custom/small").flags["finetune"]) == FILE
    assert FILE.stat().st_size < 3e6
    facts = describe_checkpoint(FILE)
    switches = {
        name: facts.config[name] for name in ("bimamba_type", "elemental_residual", "masked_backward", "dt_init")
    }
    assert switches == dict(bimamba_type="v2", elemental_residual=True, masked_backward=True, dt_init="mamba")
    assert facts.is_image_model and (facts.num_classes, facts.config["img_size"]) == (50, 96)


def test_the_video_model_of_the_recipe_takes_all_but_the_head():
    model = build_model(ModelSettings("videomambapro_nano", dict(bimamba_type="v2", num_frames=8, img_size=96)), 7)
    report = load_checkpoint(model, FILE)
    assert set(report.names("initialised")) == {"head.weight", "head.bias"}


@pytest.mark.slow
def test_its_features_tell_more_than_random_ones(tmp_path):
    digits = load_digits()
    images = torch.from_numpy(digits.images[:300] * 15).unsqueeze(1)  # (300, 1, 8, 8)
    images = F.interpolate(images, size=96, mode="nearest").to(torch.uint8)
    clips = images.view(300, 1, 1, 1, 96, 96).expand(-1, -1, 3, -1, -1, -1)
    facts = describe_checkpoint(FILE)
    torch.manual_seed(0)
    random = build_model(ModelSettings("videomambapro_nano", facts.network), 50)
    with open(tmp_path / "random.safetensors", "wb") as file:
        write_weights(file, ".safetensors", random.state_dict(), facts.config, {})
    accuracies = []
    for weights in (FILE, tmp_path / "random.safetensors"):
        features = frame_features(str(weights), clips)
        nearest = KNeighborsClassifier(1, metric="cosine").fit(features[:200], digits.target[:200])
        accuracies.append(np.mean(nearest.predict(features[200:]) == digits.target[200:300]))
    assert accuracies[0] > accuracies[1] + 0.1
