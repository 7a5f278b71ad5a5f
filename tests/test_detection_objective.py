"""The objective of action detection: its loss, whatever the boxes are dealt out to, its outputs and its figures."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_standins import make_args, run_processes
from torch import nn

from datasets.detection.annotations import Keyframe
from datasets.detection.label_map import LabelMap
from engines.distributed import close_distributed, init_distributed
from engines.evaluate import evaluate
from engines.logs import RunLog
from engines.objectives.detection import Detection, DetectionTestSettings, class_frequencies
from engines.state import create_training_state
from engines.train import train_one_epoch
from models.detection import ActionDetector
from models.videomambapro import VideoMambaPro

LABEL_MAP = LabelMap("map.pbtxt", (7, 3, 80), ("run", "sit", "wave"))
FRAMES, SIDE = 2, 16
COUNTS = [3, 0, 1, 5, 2, 1, 0, 4]  # boxes of each clip


def detection(**settings):
    torch.manual_seed(0)
    sizes = dict(img_size=SIDE, num_frames=FRAMES, patch_size=8, embed_dim=32, depth=2, num_classes=0)
    model = ActionDetector(VideoMambaPro(**sizes, drop_path_rate=0.0, backend="portable"), len(LABEL_MAP), "concat")
    nn.init.normal_(model.head.weight)
    return Detection(model, LABEL_MAP, DetectionTestSettings(**settings))


def target(generator, count):
    corners = SIDE * torch.rand(count, 2, 2, generator=generator).sort(1).values
    return {
        "boxes": corners.flatten(1),
        "labels": torch.randint(0, 2, (count, len(LABEL_MAP)), generator=generator).float(),
        "scores": torch.rand(count, generator=generator),
        "written": corners.flatten(1).double() / SIDE,
    }


def samples():
    generator = torch.Generator().manual_seed(1)
    clips = torch.randn(len(COUNTS), 3, FRAMES, SIDE, SIDE, generator=generator)
    return clips, [target(generator, count) for count in COUNTS]


def keyframes(targets):
    return [
        Keyframe(f"m{i}.mp4", i + 1, f"m{i}", 900 + i, {"boxes": one["written"].numpy(), "labels": labels_of(one)},
                 one["written"].numpy(), one["scores"].numpy())
        for i, one in enumerate(targets)
    ]  # fmt: skip


def labels_of(one):
    return [tuple(LABEL_MAP.ids[column] for column in row.nonzero().flatten()) for row in one["labels"]]


class Loader:
    """Batches of the places that are given, as the loaders of the data make them."""

    batch_size, num_workers, sampler = 1, 0, None

    def __init__(self, places):
        self.places = places
        self.dataset = type("Data", (), {"records": keyframes(samples()[1])})()

    def __len__(self):
        return len(self.places)

    def __iter__(self):
        clips, targets = samples()
        for places in self.places:
            yield {"clips": clips[places], "targets": [targets[i] for i in places],
                   "indices": torch.tensor(places), "unreadable": []}  # fmt: skip


def test_the_loss_is_the_mean_over_all_boxes_and_classes():
    objective, (clips, targets) = detection(), samples()
    batch = next(iter(Loader([list(range(8))])))
    assert objective.count(batch) == sum(COUNTS)
    loss = objective(objective.prepare(batch, torch.device("cpu")))["loss"]
    by_box = [
        nn.functional.binary_cross_entropy(objective.model(clip[None], [box[None]]).sigmoid()[0], labels)
        for clip, one in zip(clips, targets, strict=True)
        for box, labels in zip(one["boxes"], one["labels"], strict=True)
    ]
    torch.testing.assert_close(loss, torch.stack(by_box).mean())
    empty = next(iter(Loader([[1, 6]])))
    assert objective.count(empty) == 0
    assert objective(objective.prepare(empty, torch.device("cpu")))["loss"].item() == 0


def one_update(loader, *, update_freq, parallel="ddp"):
    args = make_args(
        "--update_freq", str(update_freq), "--parallel", parallel, "--opt", "momentum", "--momentum", "0",
        "--weight_decay", "0", "--layer_decay", "1", "--lr", "0.5", "--lr_base", "1", "--warmup_epochs", "0",
        batch_size=1,
    )  # fmt: skip
    context = init_distributed("cpu")
    args = args.changed(lr=args.lr / update_freq / context.world_size, bf16=False)
    state = create_training_state(detection(), args, context, steps_per_epoch=1)
    train_one_epoch(state, loader, args, context, RunLog("", "", enabled=False))
    return state.state_dict()["model"]


def _dealt_out(rank, folder, parallel):
    # the second process has batches without any box
    places = [[[0, 1, 2, 3], [7]], [[4, 5], [6]]][rank]
    weights = one_update(Loader(places), update_freq=2, parallel=parallel)
    if rank == 0:
        torch.save(weights, folder / f"{parallel}.pth")
    close_distributed()


@pytest.fixture(scope="module")
def at_once():
    return one_update(Loader([list(range(8))]), update_freq=1)


def assert_same_step(weights, expected):
    start = detection().state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    assert any((tensor - start[f"model.{name}"]).abs().max() > 1e-3 for name, tensor in expected.items())


@pytest.mark.parametrize("places", [[[0], [1], [2], [3], [4], [5], [6], [7]], [[0, 1, 2], [6], [3, 4, 5, 7]]])
def test_accumulation_does_not_change_the_step(at_once, places):
    assert_same_step(one_update(Loader(places), update_freq=len(places)), at_once)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_make_the_same_step(at_once, tmp_path, parallel):
    run_processes(_dealt_out, 2, tmp_path, parallel)
    assert_same_step(torch.load(tmp_path / f"{parallel}.pth"), at_once)


@pytest.mark.parametrize("clips_per_forward", [1, 3, 64])
@pytest.mark.parametrize("person_score", ["multiply", "ignore"])
def test_outputs_are_the_scores_of_each_clips_boxes(clips_per_forward, person_score):
    objective, (clips, targets) = detection(person_score=person_score).eval(), samples()
    batch = next(iter(Loader([list(range(8))])))
    with torch.no_grad():
        outputs = objective.outputs(batch, torch.device("cpu"), clips_per_forward=clips_per_forward)
        for clip, one, found in zip(clips, targets, outputs, strict=True):
            expected = objective.model(clip[None], [one["boxes"]]).sigmoid()
            if person_score == "multiply":
                expected = expected * one["scores"][:, None]
            assert found.dtype == np.float32
            torch.testing.assert_close(torch.from_numpy(found), expected)


def test_a_detector_that_is_right_has_all_there_is_and_a_constant_one_has_not():
    objective, (_, targets) = detection(), samples()
    records = keyframes(targets)
    right = [one["labels"].numpy() for one in targets]
    assert objective.figures(right, records) == {"map": 1.0}
    guess = [np.full_like(one, 0.5) for one in right]
    assert 0.2 < objective.figures(guess, records)["map"] < 0.8
    objective.excluded = frozenset({("m3", 903), ("m7", 907)})
    wrong = [1 - one if i in (3, 7) else one for i, one in enumerate(right)]
    assert objective.figures(wrong, records) == {"map": 1.0}, "excluded seconds do not count"
    assert objective.describe({"map": 0.123}) == "mAP 12.30 %"


def test_an_evaluation_gives_results_and_files():
    objective = detection()
    objective.about = {"eval_boxes": "predicted"}
    result = evaluate(objective, Loader([[0, 1, 2], [3, 4], [5, 6, 7]]), init_distributed("cpu"))
    results, lines = objective.results(result), list(objective.files(result)["detections.csv"])
    assert results["map"] == result.figures["map"] and list(results["ap"]) == list(LABEL_MAP.names)
    assert results["eval_boxes"] == "predicted"
    assert len(lines) == sum(COUNTS) * len(LABEL_MAP)
    scores = objective.arrays(result)
    assert scores["boxes"].tolist() == COUNTS and scores["scores"].shape == (sum(COUNTS), len(LABEL_MAP))
    np.testing.assert_allclose([float(line.split(",")[-1]) for line in lines], scores["scores"].ravel(), rtol=1e-6)


def test_frequencies_are_shares_of_boxes():
    records = keyframes(samples()[1])
    found = class_frequencies(records, LABEL_MAP)
    labels = torch.cat([one["labels"] for one in samples()[1]])
    torch.testing.assert_close(found, labels.mean(0), atol=0.04, rtol=0)
    nobody = [replace(records[0], target={"boxes": np.zeros((0, 4)), "labels": []})]
    assert class_frequencies(nobody, LABEL_MAP).tolist() == [0.5] * 3, "nothing is known"
