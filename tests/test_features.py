"""Features: what the head reads, the same however they are computed, and the files of `tools.features`."""

import json

import numpy as np
import pytest
import torch
from inference_files import moving_frames, write_moving_video
from video_files import write_folder

from datasets.clip_dataset import read_clips
from inference import load_predictor
from inference.defaults import QUICK
from inference.sources import FramesInMemory
from models.videomambapro import PLAIN_VIDEOMAMBA, PUBLISHED_SIZES, VideoMambaPro
from tools.features import main


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Five videos, two of the same name in different folders."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "sub").mkdir()
    names = ["a.mp4", "b.mp4", "c.mp4", "sub/a.mp4", "sub/d.mp4"]
    for seed, name in enumerate(names):
        write_moving_video(folder / name, 10 + 3 * seed, seed=seed)
    return [str(folder / name) for name in names]


def run(checkpoint, output, *words):
    """Without the process that guards against hanging decoders, which takes longer to start than most tests here."""
    given = [str(checkpoint), "--output", str(output), "--device", "cpu", "--num_workers", "0", "--read_timeout", "0"]
    return main([*given, *map(str, words)])


def rows_of(output):
    with np.load(output / "features.npz") as file:
        return dict(zip(file["paths"].tolist(), file["features"], strict=True))


def logits(predictor, features):
    head = predictor.model.head
    return features @ head.weight.detach().numpy().T + head.bias.detach().numpy()


def test_the_head_maps_features_to_the_logits_of_each_view(predictor, videos):
    frames = FramesInMemory(moving_frames(24))
    features = predictor.features(frames)
    assert features.shape == (6, 96) and features.dtype == np.float32
    clips = read_clips(frames, predictor.plan, np.random.default_rng(0))
    with torch.no_grad():
        expected = np.concatenate([predictor.model(clip[None]).numpy() for clip in clips])
    assert np.abs(expected - expected[0]).max() > 0.01, "the views must differ for this to show anything"
    np.testing.assert_allclose(logits(predictor, features), expected, atol=1e-5)
    shares = torch.from_numpy(logits(predictor, predictor.features(videos[0]))).softmax(-1).mean(0)
    by_test = predictor.predict(videos[0]).probabilities
    assert shares.argmax() == by_test.argmax()


def test_pools_are_means_of_the_tokens(predictor, videos):
    tokens = predictor.features(videos[0], "tokens")
    times, patches = 4, (32 // 16) ** 2
    assert tokens.shape == (6, 1 + times * patches, 96)
    np.testing.assert_allclose(predictor.features(videos[0]), tokens[:, 0], atol=1e-6)
    frames = tokens[:, 1:].reshape(6, times, patches, 96).mean(2)
    np.testing.assert_allclose(predictor.features(videos[0], "frames"), frames, atol=1e-5)
    np.testing.assert_allclose(predictor.features(videos[0], "mean"), frames.mean(1), atol=1e-5)
    with pytest.raises(ValueError, match="'cls' is none of class, mean, frames, tokens"):
        predictor.features(videos[0], "cls")


@pytest.mark.parametrize(("batch_size", "workers", "timeout"), [(1, 2, 60), (6, 0, 60), (18, 2, 0)])
def test_rows_do_not_depend_on_batches_and_workers(
    tmp_path, checkpoint, predictor, videos, batch_size, workers, timeout
):
    loading = ("--batch_size", batch_size, "--num_workers", workers, "--read_timeout", timeout)
    assert run(checkpoint, tmp_path, *videos, *loading) == 0
    rows = rows_of(tmp_path)
    assert list(rows) == videos
    for path, row in rows.items():
        np.testing.assert_allclose(row, predictor.features(path).mean(0), atol=1e-5)


def test_windows_are_the_video_cut_out(tmp_path, checkpoint, videos):
    assert run(checkpoint, tmp_path, *videos, "--window", 8, "--stride", 3, "--half") == 0
    about = json.loads((tmp_path / "features.json").read_text())
    assert (about["window"], about["stride"]) == (8, 3)
    assert list(about["videos"]) == videos
    assert {video["file"] for video in about["videos"].values()} >= {"a.npy", "sub/a.npy"}
    video = about["videos"][videos[3]]
    assert (video["frames"], video["fps"], video["first_frames"]) == (19, 25.0, [0, 3, 6, 9])
    rows = np.load(tmp_path / video["file"])
    assert rows.shape == (4, 96) and rows.dtype == np.float16
    one_clip = load_predictor(checkpoint, device="cpu", test_num_segment=1, read_timeout=0)
    frames = one_clip.open(videos[3]).read(range(19))
    for start, row in zip(video["first_frames"], rows, strict=True):
        np.testing.assert_allclose(row, one_clip.features(frames[start : start + 8]).mean(0), atol=5e-3)
    assert np.abs(rows[0] - rows[-1]).max() > 0.02, "the windows must differ for this to show anything"


def test_a_video_shorter_than_the_window_is_one_window(tmp_path, checkpoint, videos):
    assert run(checkpoint, tmp_path, videos[0], "--window", 16, "--stride", 4, "--read_timeout", 60) == 0
    assert json.loads((tmp_path / "features.json").read_text())["videos"][videos[0]]["first_frames"] == [0]
    whole = load_predictor(checkpoint, device="cpu", test_num_segment=1, read_timeout=0).features(videos[0])
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), whole.mean(0, keepdims=True), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("windows", [(), ("--window", 8, "--stride", 4)])
def test_an_interrupted_run_continues_and_shards_add_up(tmp_path, checkpoint, videos, monkeypatch, windows):
    whole, parts, interrupted = (tmp_path / name for name in ("whole", "parts", "interrupted"))
    assert run(checkpoint, whole, *videos, *windows) == 0
    for shard in ("2/2", "1/2"):
        assert run(checkpoint, parts, *videos, *windows, "--shard", shard) == 0
    stop_after_two(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint, interrupted, *videos, *windows, "--batch_size", 6)
    monkeypatch.undo()
    first = interrupted / ("a.npy" if windows else "records/a.npy")
    before = first.stat().st_mtime_ns
    for folder in (parts, interrupted):
        assert run(checkpoint, folder, *videos, *windows) == 0
        assert_same_features(folder, whole)
    assert first.stat().st_mtime_ns == before, "a finished video is not computed again"


def stop_after_two(monkeypatch):
    """Let the third array fail to be written, in the middle of its file."""
    save, count = np.save, iter(range(3))

    def failing(file, array):
        if next(count) == 2:
            file.write(b"half an array")
            raise KeyboardInterrupt
        save(file, array)

    monkeypatch.setattr(np, "save", failing)


def assert_same_features(folder, whole):
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert (folder / "features.json").read_text() == (whole / "features.json").read_text()
    for name in files:
        if name.suffix == ".npy":
            np.testing.assert_allclose(np.load(folder / name), np.load(whole / name), atol=1e-5)
    if (whole / "features.npz").exists():
        ours, theirs = rows_of(folder), rows_of(whole)
        assert list(ours) == list(theirs)
        np.testing.assert_allclose(np.stack(list(ours.values())), np.stack(list(theirs.values())), atol=1e-5)


@pytest.mark.parametrize("windows", [(), ("--window", 8)])
def test_unreadable_videos_are_named_and_read_once_they_are_mended(tmp_path, checkpoint, capsys, windows):
    broken = tmp_path / "b.mp4"
    broken.write_bytes(b"no video")
    write_moving_video(tmp_path / "a.mp4", 12)
    write_folder(tmp_path / "frames", moving_frames(9))
    output = tmp_path / "out"
    assert run(checkpoint, tmp_path / "none", broken, *windows) == 1
    assert f"{tmp_path / 'none' / 'features.json'}: 0 videos" in capsys.readouterr().out, "the file that there is"
    words = [tmp_path / "a.mp4", broken, tmp_path / "frames", *windows]
    assert run(checkpoint, output, *words) == 1
    assert str(broken) in capsys.readouterr().err
    about = json.loads((output / "features.json").read_text())
    assert list(about["failed"]) == [str(broken)]
    write_moving_video(broken, 12, seed=1)
    assert run(checkpoint, output, *words) == 0
    about = json.loads((output / "features.json").read_text())
    assert "failed" not in about
    assert list(about["videos"] if windows else rows_of(output)) == list(map(str, words[:3]))
    if windows:
        assert about["videos"][str(tmp_path / "frames")]["fps"] is None


def test_rows_of_a_list_have_its_lines_and_labels(tmp_path, checkpoint, predictor, videos):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    listed = [(videos[2], 4), (str(broken), 1), (videos[0], 0), (videos[2], 4)]
    (tmp_path / "train.csv").write_text("\n" + "".join(f"{path} {label}\n" for path, label in listed))
    (tmp_path / "paths.txt").write_text(f"{videos[1]}\n\n{videos[0]}\n")
    assert run(checkpoint, tmp_path / "out", tmp_path / "train.csv") == 1
    with np.load(tmp_path / "out" / "features.npz") as file:
        assert file["lines"].tolist() == [2, 4, 5] and file["labels"].tolist() == [4, 0, 4]
        assert file["paths"].tolist() == [videos[2], videos[0], videos[2]]
        np.testing.assert_allclose(file["features"][1], predictor.features(videos[0]).mean(0), atol=1e-5)
        assert np.array_equal(file["features"][0], file["features"][2])
    for given, lines in (([tmp_path / "paths.txt"], [1, 3]), ([tmp_path / "paths.txt", videos[2]], None)):
        output = tmp_path / f"{len(given)}"
        assert run(checkpoint, output, *given) == 0
        with np.load(output / "features.npz") as file:
            assert "labels" not in file and (file["lines"].tolist() if "lines" in file else None) == lines


def test_a_list_of_segments_is_refused_before_anything_is_read(tmp_path, checkpoint, videos, capsys):
    (tmp_path / "parts.csv").write_text(f"path,start,end,label\n{videos[0]},0,0.2,1\n")
    with pytest.raises(SystemExit):
        run(checkpoint, tmp_path / "out", tmp_path / "parts.csv")
    assert "parts.csv, line 2 is a segment of" in " ".join(capsys.readouterr().err.split())


def test_views_and_logits_are_what_the_head_makes_of_each_view(tmp_path, checkpoint, predictor, videos):
    assert run(checkpoint, tmp_path / "features", *videos[:2], "--views") == 0
    assert run(checkpoint, tmp_path / "logits", *videos[:2], "--views", "--pool", "logits") == 0
    with np.load(tmp_path / "logits" / "features.npz") as file:
        assert set(file) == {"paths", "logits"} and file["logits"].shape == (2, 6, 7)
        found = file["logits"]
    for row, features in zip(found, rows_of(tmp_path / "features").values(), strict=True):
        assert features.shape == (6, 96)
        np.testing.assert_allclose(row, logits(predictor, features), atol=1e-4)
    probabilities = torch.from_numpy(found).softmax(-1).mean(1)
    np.testing.assert_allclose(probabilities[0], predictor.predict(videos[0]).probabilities, atol=1e-5)


def test_other_settings_and_impossible_flags_are_refused(tmp_path, checkpoint, videos, capsys):
    output = tmp_path / "out"
    assert run(checkpoint, output, videos[0]) == 0
    for words, message in [
        (["--pool", "mean"], "features of other settings (pool class, now mean)"),
        (["--views"], "features of other settings (views None, now each)"),
        (["--window", "8", "--views"], "windows have none"),
        (["--stride", "4"], "give --window as well"),
        (["--shard", "3/2"], "I from 1 to N"),
    ]:
        with pytest.raises(SystemExit) as stopped:
            run(checkpoint, output, videos[0], *words)
        assert stopped.value.code == 2
        assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("windows", [(), ("--window", 8)])
def test_features_of_another_video_of_that_name_are_neither_kept_nor_replaced(
    tmp_path, checkpoint, videos, capsys, windows
):
    assert run(checkpoint, tmp_path, videos[0], *windows) == 0
    array = tmp_path / ("a.npy" if windows else "records/a.npy")
    before = array.read_bytes()
    with pytest.raises(SystemExit):
        run(checkpoint, tmp_path, videos[3], *windows)
    assert f"has features of {videos[0]}, not of {videos[3]}" in " ".join(capsys.readouterr().err.split())
    assert array.read_bytes() == before


def test_weights_without_a_head_have_features_but_predict_nothing(tmp_path):
    torch.manual_seed(0)
    size = PUBLISHED_SIZES["tiny"] | PLAIN_VIDEOMAMBA
    model = VideoMambaPro(img_size=32, num_frames=4, num_classes=0, **size).eval()
    state = {name.replace("norm_f.", "norm."): tensor for name, tensor in model.state_dict().items()}
    torch.save({"model": state | {"clip_decoder.0.head.weight": torch.zeros(512, 192)}}, tmp_path / "masked.pth")
    predictor = load_predictor(tmp_path / "masked.pth", device="cpu", head=False, **QUICK)
    clip = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        np.testing.assert_allclose(predictor.features(clip), model.forward_features(clip).numpy(), atol=1e-5)
    with pytest.raises(ValueError, match="without a head"):
        predictor.predict(clip)
