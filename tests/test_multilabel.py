"""Several labels per clip: loss, mixing, figures by hand and by scikit-learn, the threshold of the validation."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from engine_standins import TinyModel
from sklearn.metrics import f1_score
from video_files import numbered_frames, write_video

from datasets.arguments import DataSettings
from datasets.build import build_dataset
from engines.evaluate import Evaluation
from engines.loss_settings import PLAIN_LOSS, LossSettings
from engines.objectives.mixing import create_mixup
from engines.objectives.multilabel import Multilabel, multi_hot
from engines.objectives.multilabel_statistics import best_threshold

CPU = torch.device("cpu")
TARGETS = [(0, 2), (), (1,), (0, 1, 2), (2,), (), (0,)]


def records(targets=TARGETS):
    return [SimpleNamespace(path=f"{i}.mp4", target=target, line=i + 1) for i, target in enumerate(targets)]


def evaluation(scores, targets=TARGETS, **figures):
    read = records(targets)
    return Evaluation(figures, np.asarray(scores, np.float32), read, np.arange(len(read)), 1, [])


def random_scores(targets=TARGETS, classes=3):
    return np.random.default_rng(0).random((len(targets), classes)).astype(np.float32)


def objective(**settings):
    torch.manual_seed(0)
    return Multilabel(TinyModel(dropout=0), 3, LossSettings(**(vars(PLAIN_LOSS) | settings)))


def test_the_loss_is_the_mean_binary_cross_entropy_of_smoothed_labels():
    task, clips = objective(smoothing=0.3), torch.randn(2, 3, 2, 8, 8)
    found = task(task.train().prepare({"clips": clips, "targets": [(0, 2), ()]}, CPU))["loss"]
    wanted = torch.tensor([[0.8, 0.1, 0.8], [0.1, 0.1, 0.1]])
    torch.testing.assert_close(found, F.binary_cross_entropy_with_logits(task.model(clips), wanted))


def test_the_asymmetric_loss_by_its_formula():
    task, clips = objective(multilabel_loss="asymmetric"), torch.randn(2, 3, 2, 8, 8)
    found = task(task.train().prepare({"clips": clips, "targets": [(0, 2), ()]}, CPU))["loss"]
    p, y = task.model(clips).sigmoid(), multi_hot([(0, 2), ()], 3)
    shifted = (p - 0.05).clamp(min=0)  # gammas 1 and 4 and the margin of the paper's multi-label experiments
    by_hand = -(y * (1 - p) * p.log() + (1 - y) * shifted**4 * (1 - shifted).log()).mean()
    torch.testing.assert_close(found, by_hand, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_labels_are_mixed_in_the_shares_of_their_clips(mode):
    np.random.seed(0)
    mixup = create_mixup(LossSettings(mixup=0.8, smoothing=0, mixup_mode=mode), 3)
    labels = multi_hot([(0, 2), (), (1,), (1, 2)], 3)
    own = torch.eye(4).view(4, 4, 1, 1, 1).expand(4, 4, 2, 8, 8)  # channel i is bright in clip i only
    for _ in range(6):
        mixed, targets = mixup.mix_rows(own.clone(), labels)
        shares = mixed.mean((2, 3, 4))  # of each clip in each mixture
        torch.testing.assert_close(targets, shares @ labels)
        assert not torch.equal(targets, labels)


def test_clips_with_one_label_are_mixed_and_smoothed_as_in_classification():
    settings = LossSettings(mixup=0.8, cutmix=1, smoothing=0.1)
    clips = torch.randn(4, 3, 2, 8, 8)
    np.random.seed(3)
    wanted_clips, wanted = create_mixup(settings, 3)(clips.clone(), torch.tensor([0, 2, 1, 1]))
    np.random.seed(3)
    task = Multilabel(TinyModel(), 3, settings).train()
    found = task.prepare({"clips": clips.clone(), "targets": [(0,), (2,), (1,), (1,)]}, CPU)
    torch.testing.assert_close(found["clips"], wanted_clips)
    torch.testing.assert_close(found["targets"], wanted)


def test_nothing_is_mixed_in_an_evaluation():
    task = Multilabel(TinyModel(), 3, LossSettings()).eval()
    found = task.prepare({"clips": torch.ones(2, 3, 2, 8, 8), "targets": [(0,), (1, 2)]}, CPU)
    assert found["targets"].tolist() == [[1, 0, 0], [0, 1, 1]]


def test_the_mean_average_precision_by_hand():
    # Class 0, ranked b a c: hits at ranks 2 and 3. Class 1, ranked a c b: a hit at rank 1. Class 2 has no positives.
    scores = [[0.5, 0.9, 0.1], [0.8, 0.1, 0.9], [0.2, 0.4, 0.3]]
    figures = objective().figures(np.array(scores, np.float32), records([(0, 1), (), (0,)]))
    assert figures["mean_ap"] == pytest.approx(((1 / 2 + 2 / 3) / 2 + 1) / 2)


def test_a_list_without_any_label_has_no_average_precision():
    with pytest.raises(ValueError, match="no clip of this list has a label"):
        objective().figures(np.zeros((2, 3), np.float32), records([(), ()]))


def test_a_list_without_any_label_is_refused_before_training(tmp_path):
    write_video(tmp_path / "a.mp4", numbered_frames(4, 16, 16))
    (tmp_path / "val.csv").write_text("a.mp4\n")
    settings = DataSettings(data_path=str(tmp_path), data_root=str(tmp_path), task="multilabel", nb_classes=3)
    with pytest.raises(ValueError, match="val.csv: no clip has a label"):
        build_dataset("validation", settings)


def test_views_are_merged_by_mean_or_maximum():
    outputs = torch.tensor([[[0.2, 0.9], [0.6, 0.1]]])
    merged = {way: Multilabel(TinyModel(), 2, view_merge=way).merge_views(outputs) for way in ("mean", "max")}
    torch.testing.assert_close(merged["mean"], torch.tensor([[0.4, 0.5]]))
    torch.testing.assert_close(merged["max"], torch.tensor([[0.6, 0.9]]))


def test_the_threshold_has_the_highest_f1_of_all():
    labels, scores = multi_hot(TARGETS, 3).numpy().astype(bool), random_scores()
    chosen = best_threshold(labels, scores)
    all_of_them = [f1_score(labels.ravel(), (scores >= one).ravel()) for one in np.unique(scores)]
    assert f1_score(labels.ravel(), (scores >= np.float32(chosen)).ravel()) == max(all_of_them)


def test_a_test_uses_the_threshold_of_the_validation():
    task, scores = objective(), random_scores()
    assert task.results(evaluation(scores, mean_ap=0.5))["threshold_from"] == "default"
    task.after_validation(evaluation(scores))
    chosen = task.threshold
    other = 1 - scores
    figures = task.figures(other, records())
    labels = multi_hot(TARGETS, 3).numpy()
    assert figures["micro_f1"] == pytest.approx(f1_score(labels.ravel(), (other >= chosen).ravel()))
    assert task.threshold == chosen, "a test chooses nothing"
    results = task.results(evaluation(other, mean_ap=0.5))
    assert results["threshold"] == chosen and results["threshold_from"] == "validation"


def test_the_results_per_class_and_per_video():
    task, targets = objective(), [(0, 2), (), (0,)]
    results = task.results(evaluation([[0.9, 0.1, 0.6], [0.7, 0.2, 0.1], [0.2, 0.1, 0.3]], targets, mean_ap=0.5))
    first, second, third = results["per_class"]
    assert (first["positives"], first["predicted"], first["precision"], first["recall"]) == (2, 2, 0.5, 0.5)
    assert (second["positives"], second["ap"], second["precision"], second["recall"]) == (0, None, None, None)
    assert (third["share"], third["ap"], third["f1"]) == (pytest.approx(1 / 3), 1.0, 1.0)
    assert results["without_positives"] == [1] and results["prior"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert [row["predicted"] for row in results["predictions"]] == [[0, 2], [0], []]
    wrong = {(row["line"], row["label"], row["positive"]) for row in results["worst_mistakes"]}
    assert wrong == {(2, 0, False), (3, 0, True)}
    json.dumps(results, allow_nan=False)


def test_a_new_head_starts_from_the_shares_of_the_classes():
    task = objective()
    torch.nn.init.zeros_(task.model.head.bias)
    task.expect([(0, 2)] * 3 + [()])
    torch.testing.assert_close(task.model.head.bias.sigmoid(), torch.tensor([3.5, 0.5, 3.5]) / 5)
    kept = task.model.head.bias.clone()
    task.expect([(1,)])
    assert torch.equal(task.model.head.bias, kept), "a head that was loaded knows more"
