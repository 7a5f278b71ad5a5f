"""Evaluation: the mean over views, each video once for any number of processes, and invalid input."""

import pickle

import numpy as np
import pytest
import torch
from engine_standins import CLASSES, MemoryVideos, TinyModel, classify, run_processes, test_loader
from torch import nn
from torch.utils.data import DataLoader

from engines.distributed import Context, close_distributed, init_distributed
from engines.evaluate import evaluate


def seeded_model(classes=CLASSES):
    torch.manual_seed(1)
    return TinyModel(classes=classes)


def evaluated(model, loader, context=None, classes=CLASSES, **options):
    return evaluate(classify(model, classes=classes).train(model.training), loader, context or Context(), **options)


def decided(result):
    """Labels, predictions and probabilities."""
    return classify(nn.Identity()).decisions(result)


def test_scores_are_the_mean_probability_over_views_in_float64():
    model, videos = seeded_model().eval(), MemoryVideos(7, views=4)
    result = evaluated(model, test_loader(videos, 3), clips_per_forward=5)
    with torch.no_grad():
        logits = model.double()(videos.clips.double().flatten(0, 1))
    expected = logits.softmax(-1).view(7, 4, CLASSES).mean(1).numpy()
    found_labels, predictions, scores = decided(result)
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    labels = np.array([record.target for record in videos.records])
    assert (found_labels == labels).all() and (predictions == expected.argmax(1)).all()
    assert result.figures["acc1"] == pytest.approx(100 * (expected.argmax(1) == labels).mean())
    assert result.figures["loss"] == pytest.approx(-np.log(expected[np.arange(7), labels]).mean(), rel=1e-5)
    assert result.views == 4 and result.videos == 7


def test_validation_loss_of_one_view_is_the_cross_entropy():
    model, videos = seeded_model().eval(), MemoryVideos(7)
    result = evaluated(model, test_loader(videos, 3))
    with torch.no_grad():
        expected = nn.functional.cross_entropy(model(videos.clips), torch.tensor([r.target for r in videos.records]))
    assert result.figures["loss"] == pytest.approx(expected.item(), rel=1e-5) and result.views == 1


class LargestForward(nn.Module):
    """Returns uniform scores and records the maximum number of clips in a batch."""

    def __init__(self, classes):
        super().__init__()
        self.classes, self.largest = classes, 0

    def forward(self, clips):
        self.largest = max(self.largest, len(clips))
        return torch.arange(self.classes).float().expand(len(clips), -1)


def test_memory_is_bounded_by_clips_per_forward():
    model = LargestForward(CLASSES)
    evaluated(model, test_loader(MemoryVideos(4, views=6), 4), clips_per_forward=5)
    assert model.largest == 5


class ClipsSeen(TinyModel):
    """Counts the clips it computes."""

    seen = 0

    def forward(self, clips):
        self.seen += len(clips)
        return super().forward(clips)


def test_crops_with_the_same_pixels_are_computed_once_and_count_as_often_as_before():
    videos = MemoryVideos(6, views=5)
    videos.clips[:, 2] = videos.clips[:, 0]
    videos.clips[:3, 4] = videos.clips[:3, 3]  # equal in the first batch only
    model = ClipsSeen(classes=CLASSES).eval()
    result = evaluated(model, test_loader(videos, 3))
    assert model.seen == 3 * 3 + 3 * 4 and result.views == 5
    with torch.no_grad():
        expected = model(videos.clips.flatten(0, 1)).double().softmax(-1).view(6, 5, CLASSES).mean(1)
    np.testing.assert_allclose(decided(result)[2], expected, atol=1e-6)


def test_top5_counts_the_five_highest():
    result = evaluated(LargestForward(8), test_loader(MemoryVideos(16, classes=8)), classes=8)
    assert (result.figures["acc1"], result.figures["acc5"]) == (100 / 8, 500 / 8)


def test_top5_with_fewer_than_five_classes():
    result = evaluated(LargestForward(CLASSES), test_loader(MemoryVideos(6)))
    assert result.figures["acc5"] == 100


def test_confusion_matrix_has_true_classes_in_rows():
    result = evaluated(LargestForward(CLASSES), test_loader(MemoryVideos(7)))
    matrix = classify(nn.Identity()).results(result)["confusion_matrix"]
    assert matrix == [[0, 0, 3], [0, 0, 2], [0, 0, 2]]


def test_model_mode_is_put_back():
    model = seeded_model().train()
    evaluated(model, test_loader(MemoryVideos(3)))
    assert model.training


def test_unreadable_videos_are_excluded_and_named_even_a_whole_batch():
    videos = MemoryVideos(7, broken=[1, 4, 5])
    result = evaluated(seeded_model(), test_loader(videos, 2))
    assert result.indices.tolist() == [0, 2, 3, 6]
    assert [(video["path"], video["line"]) for video in result.excluded] == [
        ("videos/1.mp4", 2),
        ("videos/4.mp4", 5),
        ("videos/5.mp4", 6),
    ]
    assert result.excluded[0]["reason"] == "cannot decode"


def test_no_readable_video_is_an_error():
    with pytest.raises(ValueError, match=r"none of the 2 videos .* videos/0\.mp4"):
        evaluated(seeded_model(), test_loader(MemoryVideos(2, broken=[0, 1])))


def test_a_video_that_comes_twice_or_never_is_an_error():
    videos = MemoryVideos(4)
    twice, never = r"videos/1\.mp4 was evaluated twice", r"1 video.*videos/2\.mp4"
    for order, message in (([0, 1, 1, 2, 3], twice), ([0, 1, 3], never)):
        loader = DataLoader(videos, 2, sampler=order, collate_fn=videos.collate)
        with pytest.raises(RuntimeError, match=message):
            evaluated(seeded_model(), loader)


def test_scores_that_are_not_finite_name_the_video():
    videos = MemoryVideos(4)
    videos.clips[2] = float("nan")
    with pytest.raises(RuntimeError, match=r"1 of 4 videos.*videos/2\.mp4"):
        evaluated(seeded_model(), test_loader(videos))


def test_a_label_beyond_the_classes_names_its_line():
    with pytest.raises(ValueError, match=r"line 3: videos/2\.mp4 has label 2"):
        evaluated(LargestForward(2), test_loader(MemoryVideos(3)), classes=2)


def test_a_head_of_another_size_is_refused():
    with pytest.raises(ValueError, match="4 outputs per clip"):
        evaluated(LargestForward(4), test_loader(MemoryVideos(3)))


def _evaluate_rank(rank, folder, world_size):
    context = init_distributed("cpu")
    videos = MemoryVideos(8, views=2, broken=[3, 7])
    result = evaluated(seeded_model(), test_loader(videos, 2, context.rank, context.world_size), context)
    (folder / f"{world_size}-{rank}.pkl").write_bytes(pickle.dumps(result))
    close_distributed()


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_agree_with_one(tmp_path, world_size):
    alone = evaluated(seeded_model(), test_loader(MemoryVideos(8, views=2, broken=[3, 7]), 2))
    run_processes(_evaluate_rank, world_size, tmp_path, world_size)
    for rank in range(world_size):
        shared = pickle.loads((tmp_path / f"{world_size}-{rank}.pkl").read_bytes())
        assert (alone.indices == shared.indices).all() and alone.records == shared.records
        assert (decided(alone)[1] == decided(shared)[1]).all()
        np.testing.assert_allclose(np.exp(alone.outputs), np.exp(shared.outputs), atol=1e-6)
        assert (alone.excluded, alone.views) == (shared.excluded, shared.views)
        assert alone.figures == pytest.approx(shared.figures, rel=1e-6)
