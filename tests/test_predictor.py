"""`load_predictor`: the test's own probabilities, from a checkpoint alone, for every form of input."""

import numpy as np
import pytest
import torch
from inference_files import CLASSES, FLAGS, moving_frames, save_checkpoint, write_moving_video
from video_files import write_folder

import run_class_finetuning
from common.settings import from_flags
from datasets.arguments import DataSettings
from datasets.build import build_dataset, build_loader
from datasets.readers import UnreadableVideoError, VideoFile
from engines.configuration import parse_arguments
from engines.distributed import Context
from engines.evaluate import evaluate
from engines.objectives.classification import Classification
from inference import load_predictor
from inference.defaults import QUICK
from models.arguments import ModelSettings, WeightSettings
from models.build import build_model, load_finetune_checkpoint
from models.checkpoint import CheckpointError
from models.videomambapro import NANO, VideoMambaPro


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    sizes = [{}, {"height": 64, "width": 48}, {"count": 5}]
    return [write_moving_video(folder / f"{i}.mp4", seed=i, **size) for i, size in enumerate(sizes)]


def evaluated(checkpoint, videos, folder, *words):
    """The scores of `--eval`, (videos, classes)."""
    (folder / "test.csv").write_text("".join(f"{path} 0\n" for path in videos))
    words = ["--eval", "--finetune", str(checkpoint), "--data_path", str(folder), "--num_workers", "0", *words]
    args = parse_arguments(run_class_finetuning.get_parser(), words, script=run_class_finetuning.SCRIPT)
    settings = DataSettings.from_flags(args)
    dataset = build_dataset("test", settings)
    model = build_model(ModelSettings.from_flags(args), dataset.num_classes)
    load_finetune_checkpoint(model, from_flags(WeightSettings, args))
    loader = build_loader(dataset, "test", settings)
    return np.exp(evaluate(Classification(model, dataset.num_classes), loader, Context()).outputs)


def test_probabilities_are_those_of_the_evaluation(tmp_path, checkpoint, predictor, videos):
    words = ["--sampling_rate", "2", "--test_num_segment", "2", "--test_num_crop", "3"]
    expected = evaluated(checkpoint, videos, tmp_path, *words)
    assert np.abs(expected[0] - expected[1]).max() > 0.01, "the videos must differ for this to show anything"
    predictions = [predictor.predict(path) for path in videos]
    assert {prediction.views for prediction in predictions} == {6}
    for prediction, row in zip(predictions, expected, strict=True):
        np.testing.assert_allclose(prediction.probabilities, row, atol=1e-5)
    many = list(predictor.predict_many([str(path) for path in videos], batch_size=2))
    assert [path for path, _ in many] == [str(path) for path in videos]
    np.testing.assert_allclose([prediction.probabilities for _, prediction in many], expected, atol=1e-5)


def test_a_single_view_is_that_of_an_evaluation_with_one(tmp_path, checkpoint, videos):
    words = ["--sampling_rate", "2", "--test_num_segment", "1", "--test_num_crop", "1"]
    expected = evaluated(checkpoint, videos[:1], tmp_path, *words)
    prediction = load_predictor(checkpoint, device="cpu", **QUICK).predict(videos[0])
    assert prediction.views == 1
    np.testing.assert_allclose(prediction.probabilities, expected[0], atol=1e-5)


def test_frames_and_clips_in_memory_give_what_the_file_gives(predictor, videos):
    frames = VideoFile(str(videos[0])).read(range(24))
    expected = predictor.predict(videos[0]).probabilities
    for source in (frames, torch.from_numpy(frames)):
        np.testing.assert_allclose(predictor.predict(source).probabilities, expected, atol=1e-6)
    clip = torch.randn(3, 4, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        by_hand = predictor.model(clip[None]).double().softmax(-1)[0]
    np.testing.assert_allclose(predictor.predict(clip).probabilities, by_hand, atol=1e-5)
    with pytest.raises(ValueError, match=r"uint8 \(N, H, W, 3\), not float64"):
        predictor.predict(np.zeros((4, 8, 8, 3)))


def test_folders_of_frames_are_videos(tmp_path, predictor):
    frames = moving_frames(24)
    folder = write_folder(tmp_path / "clip", frames, "img_{:05}.png")
    named = load_predictor_with(predictor, filename_tmpl="img_{:05}.png")
    np.testing.assert_allclose(named.predict(folder).probabilities, predictor.predict(frames).probabilities, atol=1e-6)
    with pytest.raises(UnreadableVideoError, match="has no frames named img_"):
        predictor.predict(folder)


def load_predictor_with(predictor, **changes):
    return type(predictor)(**(vars(predictor) | changes))


def test_top_classes_come_with_their_names_best_first(checkpoint, videos):
    names = [f"name {label}" for label in range(CLASSES)]
    prediction = load_predictor(checkpoint, device="cpu", label_names=names, **QUICK).predict(videos[0])
    top = prediction.top(3)
    assert [score.probability for score in top] == sorted(prediction.probabilities.tolist(), reverse=True)[:3]
    assert all(score.name == names[score.label] for score in top)
    assert top[0].label == prediction.probabilities.argmax()
    assert len(prediction.top(20)) == CLASSES


def test_names_come_from_the_checkpoint_or_a_file_and_must_fit(tmp_path, checkpoint):
    names = [f"name {label}" for label in range(CLASSES)]
    saved = save_checkpoint(tmp_path / "named.pth", class_names=names)
    assert load_predictor(saved, device="cpu").label_names == tuple(names)
    (tmp_path / "names.txt").write_text("".join(f"{name}\n" for name in names))
    assert load_predictor(checkpoint, device="cpu", label_names=tmp_path / "names.txt").label_names == tuple(names)
    assert load_predictor(checkpoint, device="cpu").label_names[2] == "class 2"
    with pytest.raises(ValueError, match="2 names.* 7 classes"):
        load_predictor(checkpoint, device="cpu", label_names=["a", "b"])


def test_published_weights_are_read_as_the_recipe_of_their_data_set(tmp_path, caplog):
    model = VideoMambaPro(img_size=32, num_frames=4, num_classes=174, **NANO)
    torch.save(model.state_dict(), tmp_path / "published.pth")
    predictor = load_predictor(tmp_path / "published.pth", device="cpu")
    assert "does not record how its frames were sampled" in caplog.text
    assert "the sampling of recipe ssv2" in caplog.text
    assert (predictor.plan.segments, predictor.plan.crops) == (2, 3)
    # uniform sampling: the middles of four quarters of a video
    assert predictor.plan.sample(40, mode="test").tolist() == [5, 15, 25, 35]
    dense = load_predictor(tmp_path / "published.pth", device="cpu", recipe="hmdb51", sampling_rate=3)
    assert dense.plan.sample(40, mode="test").tolist() == [14, 17, 20, 23]


def test_image_models_predict_images(tmp_path):
    torch.manual_seed(0)
    model = VideoMambaPro(img_size=32, num_frames=1, num_classes=5, **NANO)
    torch.save({"model": model.state_dict()}, tmp_path / "image.pth")
    folder = write_folder(tmp_path / "pictures", moving_frames(3))
    predictor = load_predictor(tmp_path / "image.pth", device="cpu")
    assert predictor.views == 1 and predictor.crop_share < 1
    assert predictor.predict(folder / "img_00001.jpg").probabilities.sum() == pytest.approx(1, abs=1e-5)


def test_what_cannot_be_loaded_is_told(tmp_path, checkpoint):
    state = VideoMambaPro(img_size=32, num_frames=4, num_classes=0, **NANO).state_dict()
    torch.save(state, tmp_path / "headless.pth")
    with pytest.raises(CheckpointError, match="headless.pth has no head"):
        load_predictor(tmp_path / "headless.pth")
    with pytest.raises(ValueError, match="sampling_rat is not a flag.*did you mean sampling_rate"):
        load_predictor(checkpoint, sampling_rat=3)
    with pytest.raises(UnreadableVideoError, match="absent.mp4"):
        load_predictor(checkpoint, device="cpu").predict("absent.mp4")


def test_switches_and_views_come_from_the_run_that_wrote_the_file(tmp_path):
    saved = save_checkpoint(tmp_path / "c.pth", masked_backward=False, scan_input="raw", backend="no such backend")
    predictor = load_predictor(saved, device="cpu")
    mixer = predictor.model.layers[0].mixer
    assert (mixer.masked_backward, mixer.scan_input) == (False, "raw")
    assert predictor.views == FLAGS["test_num_segment"] * FLAGS["test_num_crop"]
    assert predictor.span == FLAGS["num_frames"] * FLAGS["sampling_rate"]
