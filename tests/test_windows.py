"""Windows over long videos: the rule, the frames, and every window once in training and evaluation."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_standins import CLASSES, TinyModel, classify, run_processes
from inference_files import save_checkpoint
from video_files import frame_numbers, numbered_frames, write_video

from datasets.annotations import VideoRecord
from datasets.arguments import DataSettings
from datasets.build import build_dataset, build_loader
from datasets.readers import VideoFile
from datasets.readers.header import read_header
from datasets.segments import Segment
from datasets.windows import cut, cut_records
from engines.distributed import Context, close_distributed, init_distributed
from engines.evaluate import evaluate
from engines.results import AboutTest, write_results
from inference import load_predictor
from tools.checkpoint import main as checkpoint
from tools.features import main as features


@pytest.mark.parametrize(
    ("duration", "windows"),
    [
        (0.5, [(0, 0.5)]),
        (29, [(0, 29)]),
        (30, [(0, 30)]),
        (59.9, [(0, 59.9)]),
        (60, [(0, 60), (16, 60)]),
        (61, [(0, 60), (16, 61)]),
        (75.9, [(0, 60), (16, 75.9), (32, 75.9)]),
        (76, [(0, 60), (16, 76), (32, 76)]),
        (106, [(0, 60), (16, 76), (32, 92), (48, 106), (64, 106)]),
    ],
)
def test_the_rule(duration, windows):
    assert cut(duration, 60, 16) == windows


def test_whole_videos_and_short_windows():
    assert cut(106.5, 0, 16) == [(0, 106.5)]
    assert cut(0.9, 0.5, 1) == [(0, 0.5)]
    with pytest.raises(ValueError, match="cannot cut 10 into windows of 5, 0 apart"):
        cut(10, 5, 0)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Films of 8, 3 and 5 seconds at 10 frames a second."""
    folder = tmp_path_factory.mktemp("films")
    for name, count in (("a.mp4", 80), ("b.mp4", 30), ("c.mkv", 50)):
        write_video(folder / name, numbered_frames(count, 16, 16), rate=10)
    (folder / "list.csv").write_text("a.mp4 0\nb.mp4 1\nc.mkv 2\n")
    return folder


def test_windows_of_videos_and_of_segments(films):
    paths = [str(films / name) for name in ("a.mp4", "c.mkv", "b.mp4", "gone.mp4")]
    records = [
        VideoRecord(paths[0], 1, 1),
        VideoRecord(paths[0], 2, 2, Segment(1, 6.5)),
        VideoRecord(paths[0], 2, 3, Segment(10, 65, "frames")),
        *(VideoRecord(path, 0, line) for line, path in enumerate(paths[1:], 4)),
    ]
    found = [(piece.line, piece.segment and str(piece.segment)) for piece in cut_records(records, 4, 2)]
    of_line = {line: [times for number, times in found if number == line] for line in range(1, 7)}
    assert of_line == {
        1: ["0 to 4 s", "2 to 6 s", "4 to 8 s", "6 to 8 s"],
        2: ["1 to 5 s", "3 to 6.5 s"],
        3: ["10 to 50 (frames)", "30 to 65 (frames)"],
        4: ["0 to 4 s", "2 to 5 s"],
        5: [None],
        6: [None],
    }


def test_a_single_window_is_not_the_whole_video(films):
    pieces = cut_records([VideoRecord(str(films / "a.mp4"), 0, 1)], 5, 7)
    assert [str(piece.segment) for piece in pieces] == ["0 to 5 s"]


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_windows_end_with_the_pictures_where_the_sound_is_longer(tmp_path, name):
    path = write_video(tmp_path / name, numbered_frames(80, 16, 16), rate=10, silence=12)
    assert read_header(str(path)).seconds == pytest.approx(8)
    assert str(cut_records([VideoRecord(str(path), 0, 1)], 4, 4)[-1].segment) == "4 to 8 s"


def settings_of(films, **more):
    lists = {f"{name}_list": str(films / "list.csv") for name in ("train", "val", "test")}
    shape = {"num_frames": 2, "input_size": 16, "batch_size": 3, "num_workers": 0, "sampling": "sparse"}
    views = {"test_num_segment": 2, "test_num_crop": 1, "read_timeout": 0, "nb_classes": CLASSES}
    windows = {"window_seconds": 4, "window_stride": 2}
    return DataSettings(data_root=str(films), **(windows | lists | shape | views | more))


def test_frames_are_read_inside_the_windows_only(films):
    dataset = build_dataset("train", settings_of(films))
    assert [(record.line, len(dataset.open_record(record))) for record in dataset.records] == [
        *((1, 40), (1, 40), (1, 40), (1, 20)),
        (2, 30),
        *((3, 40), (3, 30)),
    ]
    reader = dataset.open_record(dataset.records[1])
    assert frame_numbers(reader.read([0, 39])) == [20, 59]


def test_each_window_is_a_sample_of_an_epoch(films):
    dataset = build_dataset("train", settings_of(films))
    loader = build_loader(dataset, "train", settings_of(films))
    assert len(loader.sampler) == len(dataset) == 7


def evaluate_films(films, context=None):
    torch.manual_seed(0)
    objective = classify(TinyModel())
    dataset = build_dataset("test", settings_of(films))
    rank, size = (context.rank, context.world_size) if context else (0, 1)
    loader = build_loader(dataset, "test", settings_of(films), rank=rank, world_size=size)
    return evaluate(objective, loader, context or Context()), dataset, objective


def test_all_windows_and_views_of_a_film_are_averaged(films):
    found, dataset, objective = evaluate_films(films)
    assert found.videos == 3 and [record.line for record in found.records] == [1, 2, 3]
    probabilities = {1: [], 2: [], 3: []}
    with torch.no_grad():
        for index, record in enumerate(dataset.records):
            views = objective.model.eval()(dataset[index].clips).softmax(-1)
            probabilities[record.line] += list(views.numpy())
    assert [len(views) for views in probabilities.values()] == [8, 2, 4]
    expected = np.log([np.mean(views, axis=0) for views in probabilities.values()])
    np.testing.assert_allclose(found.outputs, expected, atol=1e-6)


def evaluate_rank(rank, films, folder):
    found, _, _ = evaluate_films(films, init_distributed("cpu"))
    np.save(folder / f"{rank}.npy", found.outputs)
    close_distributed()


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_the_windows(films, processes):
    dataset = build_dataset("test", settings_of(films))
    shares = [
        list(build_loader(dataset, "test", settings_of(films), rank=rank, world_size=processes).sampler)
        for rank in range(processes)
    ]
    assert sorted(index for share in shares for index in share) == list(range(len(dataset)))


def test_windows_of_one_film_on_two_processes_are_averaged(films, tmp_path):
    expected = evaluate_films(films)[0].outputs
    run_processes(evaluate_rank, 2, films, tmp_path)
    for rank in range(2):
        np.testing.assert_allclose(np.load(tmp_path / f"{rank}.npy"), expected, atol=1e-6)


def test_a_film_with_an_unreadable_window_is_left_out(films, tmp_path):
    (tmp_path / "list.csv").write_text(f"path,start,end,label\n{films / 'a.mp4'},0,20,0\n{films / 'c.mkv'},0,5,2\n")
    settings = replace(settings_of(films), test_list=str(tmp_path / "list.csv"))
    dataset = build_dataset("test", settings)
    found = evaluate(classify(TinyModel()), build_loader(dataset, "test", settings), Context())
    assert [record.line for record in found.records] == [3]
    assert [file["line"] for file in found.excluded] == [2] and "ends after the video" in found.excluded[0]["reason"]
    results = write_results(str(tmp_path), found, classify(TinyModel()), dataset, AboutTest("tiny", "none"))
    content = json.loads(results.read_text())
    assert (
        content["predictions"][0] | {"start": 0, "end": 5, "unit": "seconds", "line": 3} == content["predictions"][0]
    )
    assert content["excluded"][0]["end"] == 20
    assert (content["list"]["records"], content["list"]["windows"]) == (2, 12)


def test_inference_averages_the_windows_of_the_run(films, tmp_path):
    path = save_checkpoint(tmp_path / "checkpoint.pth", window_seconds=4, window_stride=2)
    predictor = load_predictor(path, device="cpu", read_timeout=0)
    frames = VideoFile(str(films / "c.mkv")).read(range(50))
    windows = [predictor.predict(frames[:40]), predictor.predict(frames[20:])]
    expected = np.mean([window.probabilities for window in windows], axis=0)
    found = predictor.predict(str(films / "c.mkv"))
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)
    assert found.views == 2 * predictor.views
    paths = [str(films / name) for name in ("c.mkv", "gone.mp4", "b.mp4")]
    many = dict(predictor.predict_many(paths, batch_size=2))
    np.testing.assert_allclose(many[paths[0]].probabilities, expected, atol=1e-6)
    assert "no such file" in str(many[paths[1]]) and many[paths[2]].views == predictor.views
    assert len(predictor.features(paths[0])) == found.views
    assert checkpoint(["hub", str(path), str(tmp_path / "hub")]) == 0
    of_folder = load_predictor(tmp_path / "hub", device="cpu", read_timeout=0).predict(paths[0])
    np.testing.assert_allclose(of_folder.probabilities, expected, atol=1e-6)
    whole = load_predictor(path, device="cpu", read_timeout=0, window_seconds=0).predict(paths[0])
    assert whole.views == predictor.views and np.abs(whole.probabilities - expected).max() > 1e-3


def test_stored_features_average_the_windows_and_keep_the_views(films, tmp_path):
    path = save_checkpoint(tmp_path / "checkpoint.pth", window_seconds=4, window_stride=2)
    predictor = load_predictor(path, device="cpu", read_timeout=0)
    videos = [str(films / name) for name in ("c.mkv", "b.mp4")]
    rows = predictor.features(videos[0]).reshape(2, predictor.views, -1)  # (windows, views, d)
    for words, expected in (([], rows.mean((0, 1))), (["--views"], rows.mean(0))):
        output = tmp_path / f"features{len(words)}"
        loading = ["--device", "cpu", "--num_workers", "0", "--read_timeout", "0", "--output", str(output)]
        assert features([str(path), *videos, *loading, *words]) == 0
        with np.load(output / "features.npz") as file:
            assert file["features"].shape == (2, *expected.shape)
            np.testing.assert_allclose(file["features"][0], expected, atol=1e-5)
        about = json.loads((output / "features.json").read_text())
        assert (about["window_seconds"], about["window_stride"]) == (4, 2)


def test_windows_with_gaps_are_told(films, caplog):
    build_dataset("train", settings_of(films))
    assert "left out" not in caplog.text
    build_dataset("train", settings_of(films, window_stride=5))
    assert "windows of 4 s begin every 5 s, and what lies between them is left out; see --window_stride" in caplog.text
