"""`run_inference.py`: terminal, JSON lines, pictures and annotated videos of real files, and what cannot be read."""

import html
import json
import os
import re
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from inference_files import save_checkpoint, write_moving_video
from PIL import Image
from video_files import numbered_frames, write_folder

import run_inference
from common.figures import svg
from datasets.readers import VideoFile
from inference.annotate import STRIP_HEIGHT
from inference.batch import output_paths
from inference.defaults import QUICK
from inference.drawing import caption, draw_strip, spread_apart
from inference.predictor import ScoresNotFiniteError, load_predictor
from inference.sources import expand_sources
from inference.timeline import follow
from inference.windows import Curve


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    names = ["walking", "running", "a name that is longer than any picture is wide", "$x^2$", "плавание", "_", "jump"]
    return save_checkpoint(tmp_path_factory.mktemp("weights") / "c.pth", class_names=names)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    (folder / "sub").mkdir()
    write_moving_video(folder / "a.mp4", 30)
    write_moving_video(folder / "sub" / "b.mp4", 9, seed=1)
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def run(checkpoint, *words, timeout=0):
    """Without the process that guards against hanging decoders, which takes longer to start than to do this."""
    here = ["--checkpoint", checkpoint, "--device", "cpu", "--num_workers", 0, "--read_timeout", timeout]
    return run_inference.main([str(word) for word in (*here, *words)])


def lines_of(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_scores_of_a_list_have_its_lines_and_labels(checkpoint, folder, tmp_path, capsys):
    videos = [folder / "sub" / "b.mp4", folder / "broken.mp4", folder / "a.mp4"]
    (tmp_path / "list.csv").write_text("".join(f"{path} {label}\n" for label, path in enumerate(videos)))
    assert run(checkpoint, tmp_path / "list.csv", "--scores", tmp_path / "out" / "scores.npz") == 1
    with np.load(tmp_path / "out" / "scores.npz") as file:
        assert file["lines"].tolist() == [1, 3] and file["labels"].tolist() == [0, 2]
        assert file["paths"].tolist() == [str(videos[0]), str(videos[2])]
        predictor = load_predictor(checkpoint, device="cpu", read_timeout=0)
        expected = [predictor.predict(videos[i]).probabilities for i in (0, 2)]
        np.testing.assert_allclose(file["scores"], expected, atol=1e-6)
    with pytest.raises(SystemExit):
        run(checkpoint, videos[0], "--scores", tmp_path / "scores.csv")
    assert "should end in .npz" in capsys.readouterr().err


def test_top_five_are_printed_with_names(checkpoint, folder, capsys):
    assert run(checkpoint, folder / "a.mp4") == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head == f"{folder / 'a.mp4'} (6 views)"
    shares = [float(row.split("%")[0]) for row in rows]
    assert len(rows) == 5 and shares == sorted(shares, reverse=True)


def test_unreadable_files_are_named_and_counted_and_stop_nothing(checkpoint, folder, tmp_path, capsys):
    report = tmp_path / "new folder" / "out.jsonl"
    assert run(checkpoint, folder, tmp_path / "absent.mp4", "--quick", "--json", report, timeout=60) == 1
    records = lines_of(report)
    assert [Path(record["path"]).name for record in records] == ["a.mp4", "broken.mp4", "b.mp4", "absent.mp4"]
    assert ["error" in record for record in records] == [False, True, False, True]
    assert all(len(record["top"]) == 5 for record in records if "top" in record)
    errors = capsys.readouterr().err
    assert f"cannot read {folder / 'broken.mp4'}" in errors and "2 of 4 could not be read" in errors


def test_a_file_costs_itself_alone_whatever_its_name_or_link(checkpoint, tmp_path, capsys):
    names = ["a.mp4", "b\x1b]0;title\x07\n.mp4", "c\udce9.mp4", "d.mp4", "e.mp4"]
    write_moving_video(tmp_path / "a.mp4", 4)
    for name in names[1:]:
        shutil.copy(tmp_path / "a.mp4", tmp_path / name)
    (tmp_path / "c_loop.mp4").symlink_to("c_loop.mp4")
    report, pictures = tmp_path / "out.jsonl", tmp_path / "pictures"
    run(checkpoint, tmp_path, "--quick", "--json", report, "--curve", pictures)
    records = {record["path"]: record for record in lines_of(report)}
    assert sorted(Path(path).name for path in records) == sorted([*names, "c_loop.mp4"])
    assert all(os.path.lexists(path) for path in records)
    for name in names:
        assert records[str(tmp_path / name)]["views"] == 1
        assert (pictures / name).with_suffix(".png").is_file()
    assert "error" in records[str(tmp_path / "c_loop.mp4")]
    reported = capsys.readouterr()
    lines = (reported.out + reported.err).splitlines()
    assert all(line.isprintable() for line in lines)
    assert f"{tmp_path}/b\\u001b]0;title\\u0007\\n.mp4 (1 views)" in lines
    assert report.read_bytes().decode("utf-8").replace("\n", "").isprintable()


def test_class_names_of_a_checkpoint_are_escaped(tmp_path, capsys):
    names = [f"{label}\x1b[31m\udcff" for label in range(7)]
    checkpoint = save_checkpoint(tmp_path / "c.pth", class_names=names)
    video = write_moving_video(tmp_path / "video.mp4", 2)
    pictures = ["--curve", tmp_path / "curve.png", "--heatmap", tmp_path / "heat.png"]
    assert run(checkpoint, video, "--quick", *pictures, "--annotate", tmp_path / "annotated.mp4") == 0
    assert run(checkpoint, video, "--quick", "--json", "-") == 0
    reported = capsys.readouterr().out.splitlines()
    assert reported[1].endswith("\\u001b[31m\\udcff") and all(line.isprintable() for line in reported)
    assert json.loads(reported[-1])["top"][0]["name"] in names


def test_scores_that_are_no_numbers_are_an_error(checkpoint, folder, tmp_path, capsys):
    saved = torch.load(checkpoint, weights_only=True)
    saved["model"]["head.weight"][0, 0] = float("nan")
    torch.save(saved, tmp_path / "c.pth")
    report = tmp_path / "out.jsonl"
    videos = [folder / "a.mp4", folder / "sub" / "b.mp4"]
    assert run(tmp_path / "c.pth", *videos, "--json", report, "--stride", 2, "--curve", tmp_path / "curves") == 1
    assert [set(record) for record in lines_of(report)] == [{"path", "error"}] * 2
    reported = capsys.readouterr()
    assert reported.out == "" and reported.err.count("not finite") == 2 and "2 of 2 could not be" in reported.err
    predictor = load_predictor(tmp_path / "c.pth", device="cpu", read_timeout=0, **QUICK)
    for look in (predictor.predict, lambda path: follow(predictor, predictor.open(path))):
        with pytest.raises(ScoresNotFiniteError):
            look(str(folder / "a.mp4"))


def test_json_on_the_terminal_is_all_that_is_on_it(checkpoint, folder, capsys):
    assert run(checkpoint, folder / "a.mp4", "--quick", "--json", "-", "--stride", 4, "--window", 10) == 0
    (record,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert record["frames"] == 30 and record["views"] == 1
    ranges = [(window["first_frame"], window["last_frame"]) for window in record["windows"]]
    assert ranges == [(start, start + 9) for start in (0, 4, 8, 12, 16, 20)]


def test_annotated_video_has_the_frames_of_the_input_and_a_cursor_that_runs(checkpoint, folder, tmp_path):
    source, target = folder / "a.mp4", tmp_path / "annotated.mp4"
    assert run(checkpoint, source, "--quick", "--annotate", target, "--curve", tmp_path / "curve.png") == 0
    with av.open(str(target)) as container:
        assert container.streams.video[0].average_rate == 25
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == len(VideoFile(str(source))) == 30
    height, width = 360, 480
    assert frames[0].shape == (height + STRIP_HEIGHT, width, 3)
    strips = np.stack([frame[height:] for frame in frames]).astype(int)
    # what differs from most frames is the cursor
    columns = np.abs(strips - np.median(strips, axis=0)).sum(axis=(1, 3)).argmax(1)
    assert (np.diff(columns) >= 0).all() and columns[-1] - columns[0] > 250
    assert np.asarray(Image.open(tmp_path / "curve.png")).std() > 5


def test_several_videos_write_into_a_folder(checkpoint, folder, tmp_path):
    sources = [folder / "a.mp4", folder / "sub" / "b.mp4"]
    assert run(checkpoint, *sources, "--quick", "--annotate", tmp_path / "out") == 0
    for source, name in zip(sources, ("a.mp4", "sub/b.mp4"), strict=True):
        with av.open(str(tmp_path / "out" / name)) as container:
            assert sum(1 for _ in container.decode(video=0)) == len(VideoFile(str(source)))


def test_targets_that_cannot_be_meant_are_refused(folder, tmp_path):
    a, b = str(folder / "a.mp4"), str(folder / "sub" / "b.mp4")
    with pytest.raises(ValueError, match="one file, but there are 2 videos"):
        output_paths("x.png", [a, b], ".png")
    for name, suffix in (("plot.jpg", ".png"), ("copy.MKV", ".mp4"), ("a.png", ".mp4")):
        with pytest.raises(ValueError, match=f"{name} should end in {suffix}, or be a folder"):
            output_paths(name, [a], suffix)
    (tmp_path / "plots.jpg").mkdir()
    assert output_paths(str(tmp_path / "plots.jpg"), [a], ".png") == {a: tmp_path / "plots.jpg" / "a.png"}
    with pytest.raises(ValueError, match="both be written to"):
        output_paths("out", [a, str(folder / "a.avi")], ".png")


def test_a_faulty_command_line_ends_before_anything_is_done(checkpoint, folder, tmp_path, capsys):
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "lost.csv").write_text("a.mp4 0\nsub/b.mp4 1\n")
    (tmp_path / "file").touch()
    for words, reported in [
        (["--annotate", folder / "a.mp4"], "would overwrite"),
        (["--curve", tmp_path / "out", "--heatmap", tmp_path / "out"], "--curve and --heatmap would both write"),
        (["--scores", tmp_path / "folder.npz"], "folder.npz is a folder; name a file"),
        (["--json", tmp_path / "file" / "out.jsonl"], f"{tmp_path / 'file'} is not a folder"),
        (["--live", "-", "--json", tmp_path], "is a folder; name a file"),
        (["--label_names", tmp_path / "absent.txt"], "absent.txt"),
        (["--stride", "0"], "of 1 or more"),
        (
            [tmp_path / "lost.csv"],
            "none of its files exists; line 1: a.mp4 does not exist; paths are relative",
        ),
    ]:
        with pytest.raises(SystemExit) as stopped:
            run(checkpoint, *([] if "--live" in words else [folder / "a.mp4"]), *words)
        assert stopped.value.code == 2 and reported in capsys.readouterr().err


def test_files_folders_and_lists_become_sources(folder, tmp_path):
    frames = write_folder(tmp_path / "data" / "clip", numbered_frames(3))
    write_moving_video(tmp_path / "data" / "two words.mp4", 3)
    assert expand_sources([str(tmp_path / "data")]) == [str(tmp_path / "data" / "two words.mp4"), str(frames)]
    (tmp_path / "bare.txt").write_text("two words.mp4\nother.avi\n")
    (tmp_path / "labelled.csv").write_text("two words.mp4 3\nother.avi 1\n")
    for name in ("bare.txt", "labelled.csv"):
        got = expand_sources([str(tmp_path / name)], data_root="/root")
        assert got == ["/root/two words.mp4", "/root/other.avi"]
    assert expand_sources(["x.mp4", "x.mp4"]) == ["x.mp4"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="contains no video"):
        expand_sources([str(tmp_path / "empty")])
    with pytest.raises(FileNotFoundError, match="absent.csv"):
        expand_sources(["absent.csv"])


def test_links_to_folders_are_followed_once_and_not_in_circles(tmp_path):
    given, beside = tmp_path / "given", tmp_path / "beside"
    for video in (given / "sub" / "a.mp4", beside / "b.mp4", tmp_path / "outside.mp4"):
        video.parent.mkdir(parents=True, exist_ok=True)
        video.write_bytes(b"")
    (given / "link").symlink_to(beside)
    (given / "link_again").symlink_to(beside)
    (given / "sub" / "here").symlink_to(".")
    (given / "sub" / "up").symlink_to(given)
    (given / "sub" / "out").symlink_to(tmp_path)
    (beside / "back").symlink_to(given / "sub")
    (given / "nowhere").symlink_to("nowhere")
    found = [os.path.realpath(path) for path in expand_sources([str(given)])]
    assert sorted(found) == sorted([str(given / "sub" / "a.mp4"), str(beside / "b.mp4")])


def curve_of(rows, rate=None, names=("walk", "$run$ & <jump>")):
    rows = np.array(rows, dtype=np.float32)
    return Curve(30, 10, np.linspace(0, 20, len(rows)), rows, names, rate)


def texts_of(strip):
    return [html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg(strip.figure).decode())]


@pytest.mark.parametrize("dark", [False, True])
def test_a_curve_tells_seconds_and_names_its_lines(dark):
    texts = texts_of(draw_strip(curve_of([[0.9, 0.1], [0.2, 0.8]], rate=25), 480, 160, dark=dark))
    assert {"seconds", "walk", "$run$ & <jump>", "unsure below"} <= set(texts) and "frame" not in texts
    assert "frame" in texts_of(draw_strip(curve_of([[0.9, 0.1]]), 480, 160)), "a folder of frames has no seconds"


def test_the_axis_of_a_curve_ends_where_the_values_do():
    low = draw_strip(curve_of([[0.21, 0.1, 0.1]] * 2, names="abc"), 480, 160)
    assert 0.21 < low.highest < 0.35 and low.row(0) == low.bottom and low.row(low.highest) == pytest.approx(low.top)
    assert "unsure below" not in texts_of(low)
    assert draw_strip(curve_of([[0.99, 0.01]]), 480, 160).highest >= 1


def test_unsure_predictions_look_unsure():
    assert caption("people", 0.32) == "people? 32 %" and caption("people", 0.98) == "people 98 %"

    def ink(probability):
        rest = (1 - probability) / 2
        return np.count_nonzero(draw_strip(curve_of([[probability, rest, rest]], names="abc"), 480, 160).picture < 128)

    assert ink(0.9) > ink(0.45)


def test_names_at_lines_do_not_overlap():
    moved = spread_apart(np.array([3.0, 1.0, 1.0, 99.0, 98.0]), 5, 100)
    assert moved.argsort(kind="stable").tolist() == [1, 2, 0, 4, 3]
    assert np.diff(np.sort(moved)).min() >= 5 and moved.max() <= 100
    assert spread_apart(np.array([10.0, 50.0]), 5, 100).tolist() == [10, 50]


def test_the_cursor_spans_the_time_axis():
    curve = Curve(11, 4, np.array([0, 7]), np.array([[1, 0], [0, 1]], dtype=np.float32), ("a", "b"))
    strip = draw_strip(curve, 480, 160)
    assert strip.picture.shape == (160, 480, 3)
    assert strip.cursor(0) == round(strip.left) and strip.cursor(10) == round(strip.right)
    assert strip.cursor(5) == round((strip.left + strip.right) / 2)
