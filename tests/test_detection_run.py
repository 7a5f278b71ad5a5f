"""What a run of action detection leaves, and its checkpoint in use: both tell the same of the same boxes."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from detection_files import IDS, write_lines
from detector_run import EXCLUDED, FPS, SECONDS, train_detector, write_movies
from inference_files import save_checkpoint
from PIL import Image
from test_detection_page import BLOCKS
from video_files import write_folder

import run_inference
from datasets.detection.annotations import FULL
from datasets.readers import VideoFile
from inference.detector import load_detector, sources_of_detection
from models.arguments import ModelSettings
from models.build import build_model
from tools.evaluate_ava import main as evaluate_ava
from tools.report import main as report_tool

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of the movies, with the run's output folder "out" in it."""
    folder = write_movies(tmp_path_factory.mktemp("detection"))
    train_detector(folder)
    return folder


def run(folder, *words):
    """Run inference with the checkpoint of the run."""
    checkpoint = folder / "out" / "checkpoint-best.pth"
    words = [str(word) for word in words]
    return run_inference.main(["--checkpoint", str(checkpoint), "--device", "cpu", "--num_workers", "0", *words])


def rows_of(file):
    """(video, second, box, action) -> score of a file of detections."""
    rows = [line.split(",") for line in file.read_text().splitlines()]
    return {
        (video, int(second), *map(float, box), int(action)): float(score)
        for video, second, *box, action, score in rows
    }


def pictures(page: Path) -> list[Image.Image]:
    found = re.findall(r'src="data:image/webp;base64,([^"]+)"', page.read_text())
    return [Image.open(io.BytesIO(base64.b64decode(content))) for content in found]


def test_results_tell_what_was_tested_and_how(folder):
    results = json.loads((folder / "out" / "results.json").read_text())
    assert (
        results["map"]
        == results["figures"]["map"]
        == pytest.approx(np.mean([ap for ap in results["ap"].values() if ap is not None]))
    )
    assert results["ap"].keys() == {"walk", "hold", "talk"} and results["ap"]["talk"] is None
    assert results["person_boxes"] == str(folder / "val_predicted_boxes.csv") and results["box_threshold"] == 0.8
    assert re.fullmatch("[0-9a-f]{64}", results["person_boxes_sha256"])
    assert (results["iou_threshold"], results["person_score"]) == (0.5, "multiply")


def test_detections_have_every_shown_box_and_class_once(folder):
    lines = (folder / "out" / "detections.csv").read_text().splitlines()
    shown = [line.split(",") for line in (folder / "val_predicted_boxes.csv").read_text().splitlines()]
    expected = {
        (video, int(second), *map(float, box), action)
        for video, second, *box, _, score in shown
        for action in IDS
        if float(score) >= 0.8 and (video, int(second)) != EXCLUDED
    }
    assert rows_of(folder / "out" / "detections.csv").keys() == expected and len(lines) == len(expected)


def test_the_tool_judges_the_file_as_the_run_did(folder, capsys):
    files = {
        "--ground_truth": folder / "val.csv",
        "--detections": folder / "out" / "detections.csv",
        "--label_map": folder / "label_map.pbtxt",
        "--exclusions": folder / "exclusions.csv",
    }
    assert evaluate_ava([*(str(word) for pair in files.items() for word in pair), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    results = json.loads((folder / "out" / "results.json").read_text())
    assert (printed["map"], printed["ap"]) == (results["map"], results["ap"]) and 0 < printed["map"] < 1


def test_the_report_shows_classes_and_key_frames_with_boxes(folder):
    page = folder / "out" / "report.html"
    text, results = page.read_text(), json.loads((folder / "out" / "results.json").read_text())
    assert f"<b>{100 * results['map']:.1f} %</b>mAP at IoU 0.5" in text and "mean of\n    2 of 3 classes" in text
    assert len(pictures(page)) == len(results["examples"]) > 4 and "no picture" not in text
    assert re.search(r"<h3>walk, AP [\d.]+ %</h3>", text) and "<h3>talk" not in text
    assert str(folder / "val_predicted_boxes.csv") in text


def test_the_report_is_made_again_without_a_model_and_without_movies(folder, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(folder / "out", copy)
    (copy / "report.html").unlink()
    assert report_tool([str(copy)]) == 0
    assert "test map 0." in capsys.readouterr().out
    count = len(pictures(copy / "report.html"))
    settings = json.loads((copy / "args.json").read_text())
    (copy / "args.json").write_text(json.dumps(settings | {"data_root": str(tmp_path)}))
    assert report_tool([str(copy)]) == 0
    assert "without sample frames" in capsys.readouterr().err
    assert count > 4 and not pictures(copy / "report.html")


@pytest.fixture(scope="module")
def used(folder):
    """The outputs of inference on the movies: csv, JSON lines, and annotated copies in a folder."""
    words = ["--boxes", folder / "val_predicted_boxes.csv", "--annotate", folder / "annotated"]
    assert run(folder, folder / "movies", *words, "--csv", folder / "used.csv", "--json", folder / "used.jsonl") == 0
    return folder


def test_inference_gives_the_scores_of_the_evaluation(used):
    tested, written = rows_of(used / "out" / "detections.csv"), rows_of(used / "used.csv")
    assert set(written) - set(tested) == {row for row in written if row[:2] == EXCLUDED} and set(tested) <= set(
        written
    )
    assert [written[row] for row in tested] == pytest.approx(list(tested.values()), abs=1e-6)
    assert len(set(tested.values())) > len(tested) / 2, "scores differ"


def test_json_lines_and_csv_tell_the_same(used):
    records = [json.loads(line) for line in (used / "used.jsonl").read_text().splitlines()]
    assert [Path(record["path"]).stem for record in records] == ["first", "second", "third"]
    names = dict(zip(IDS, ("walk", "hold", "talk"), strict=True))
    found = {}
    for record in records:
        for second in record["seconds"]:
            for person in second["persons"]:
                assert 0.8 <= person["person_score"] <= 1
                scores = [action["score"] for action in person["actions"]]
                assert scores == sorted(scores, reverse=True)
                for action in person["actions"]:
                    assert action["name"] == names[action["label"]]
                    row = (Path(record["path"]).stem, second["second"], *person["box"], action["label"])
                    found[row] = action["score"]
    assert found == pytest.approx(rows_of(used / "used.csv"), abs=1e-6)


def test_the_annotated_copy_shows_boxes_around_their_second_alone(used):
    with av.open(str(used / "annotated" / "first.mp4")) as container:
        assert container.streams.video[0].average_rate == FPS
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    assert len(frames) == SECONDS * FPS
    plain = VideoFile(str(used / "movies" / "first.mp4")).read(range(len(frames)))
    height, width = frames[0].shape[:2]
    changed = []
    for frame, before in zip(frames, plain, strict=True):
        resized = np.asarray(Image.fromarray(before).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
        changed.append(np.abs(frame - resized).max(-1) > 80)
    drawn = [mask.mean() > 0.002 for mask in changed]
    assert drawn == [0.5 <= number / FPS <= 3.5 for number in range(len(frames))], "persons are in seconds 1, 2 and 3"
    (x1, y1, x2, y2), *_ = {row[2:6] for row in rows_of(used / "used.csv") if row[:2] == ("first", 2)}
    edge = changed[2 * FPS][round(y1 * height) : round(y2 * height), round(x1 * width)]
    assert edge.mean() > 0.5 and not changed[2 * FPS][:, : round(x1 * width) - 4].any()


def test_a_box_of_the_whole_picture_needs_no_person_detector(folder, capsys):
    assert run(folder, folder / "movies" / "third.mp4", "--boxes", FULL, "--min_score", "0") == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.endswith("third.mp4 (4 seconds, 4 boxes)")
    assert [row.split()[:5] for row in rows] == [
        [str(second), "0.000", "0.000", "1.000", "1.000"] for second in range(4)
    ]
    assert all(row.count(",") == 2 for row in rows), "three actions each"


def test_the_order_of_classes_and_seconds_is_of_the_file_whatever_batch_or_start(folder, tmp_path):
    """Frames of a folder, which begin at second 900 as AVA's, one key frame a batch."""
    frames = VideoFile(str(folder / "movies" / "first.mp4")).read(range(SECONDS * FPS))
    source = write_folder(tmp_path / "first", frames, "first_{:06}.png")
    boxes = (folder / "val_predicted_boxes.csv").read_text()
    moved = write_lines(tmp_path / "boxes.csv", *re.sub(r",000(\d),", r",090\1,", boxes).splitlines())
    words = ["--boxes", moved, "--start_second", "900", "--batch_size", "1", "--csv", tmp_path / "found.csv"]
    assert run(folder, source, *words) == 0
    found = rows_of(tmp_path / "found.csv")
    tested = {row: score for row, score in rows_of(folder / "out" / "detections.csv").items() if row[0] == "first"}
    assert found.keys() == {(row[0], row[1] + 900, *row[2:]) for row in tested}
    assert [found[row[0], row[1] + 900, *row[2:]] for row in tested] == pytest.approx(list(tested.values()), abs=1e-6)


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        ([], "is an action detector and needs the boxes of the persons: give --boxes FILE"),
        (["--boxes", "absent.csv"], "absent.csv does not exist"),
        (["--boxes", FULL, "--heatmap", "x.png", "--quick"], "which has no --heatmap, --quick"),
        (["--boxes", FULL, "--json", "d.csv", "--csv", "./d.csv"], "--json and --csv would both write d.csv"),
    ],
)
def test_what_a_detector_cannot_use_ends_before_anything_is_done(folder, capsys, words, fragment):
    with pytest.raises(SystemExit) as stopped:
        run(folder, folder / "movies" / "first.mp4", *words)
    assert stopped.value.code == 2 and fragment in capsys.readouterr().err


@pytest.mark.parametrize(
    ("network", "frames", "fragment"),
    [
        (dict(time_pool="concat"), 8, r"contradicts the flags: --num_frames 8, the file has 4, .*--time_pool concat"),
        (dict(tubelet_size=2), 5, "--num_frames 5 must be a multiple of its tubelet_size 2"),
    ],
)
def test_frames_that_the_detector_does_not_take_are_refused_as_it_is_loaded(tmp_path, network, frames, fragment):
    settings = dict(num_frames=4, embed_dim=32, depth=1, time_pool="mean") | network
    model = build_model(ModelSettings("videomambapro_nano", settings), len(IDS))
    file, flags = tmp_path / "detector.pth", dict(class_ids=list(IDS), num_frames=4)
    torch.save(dict(model=model.state_dict(), model_config=model.config.values(), args=flags), file)
    with pytest.raises(ValueError, match=fragment):
        load_detector(file, device="cpu", num_frames=frames)
    assert load_detector(file, device="cpu").settings.num_frames == 4


def test_a_comma_in_the_name_of_a_video_is_refused_where_it_separates_columns(folder, tmp_path, capsys):
    movie, output = tmp_path / "a,b.mp4", tmp_path / "found.csv"
    shutil.copy(folder / "movies" / "third.mp4", movie)
    assert run(folder, movie, "--boxes", FULL, "--json", tmp_path / "found.jsonl") == 0
    output.write_text("kept")
    with pytest.raises(SystemExit):
        run(folder, movie, "--boxes", FULL, "--csv", output)
    assert f"{movie} has a comma in its name" in capsys.readouterr().err
    assert output.read_text() == "kept"


def test_a_picture_beside_videos_does_not_hide_them(tmp_path):
    for name in ("any name.jpg", "other.png"):
        (tmp_path / name).touch()
    assert sources_of_detection([str(tmp_path)], "", "") == [str(tmp_path)]
    for name in ("a.mp4", "b.MKV"):
        (tmp_path / name).touch()
    assert sources_of_detection([str(tmp_path)], "", "") == [str(tmp_path / name) for name in ("a.mp4", "b.MKV")]


def test_a_faulty_file_of_boxes_is_reported_with_its_line(folder, tmp_path, capsys):
    boxes = write_lines(tmp_path / "boxes.csv", "first,0001,0.1,0.1,0.5,0.5,,0.9", "first,0002,12,30,200,310,,0.9")
    with pytest.raises(SystemExit):
        run(folder, folder / "movies" / "first.mp4", "--boxes", boxes)
    message = capsys.readouterr().err
    assert f"{boxes}: 1 faulty line(s)" in message and "line 2: x1 = 12 is outside the frame" in message
    code = "import sys; sys.modules['torch'] = None; import runpy; runpy.run_path('run_inference.py', {}, '__main__')"
    words = ["--checkpoint", str(folder / "out" / "checkpoint-best.pth"), "video.mp4", "--boxes", str(boxes)]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and "line 2: x1 = 12" in done.stderr, "before PyTorch is imported"


def test_a_classifier_has_no_use_for_boxes(folder, tmp_path, capsys):
    checkpoint = save_checkpoint(tmp_path / "c.pth")
    with pytest.raises(SystemExit):
        run_inference.main(["--checkpoint", str(checkpoint), str(folder / "movies" / "first.mp4"), "--boxes", FULL])
    assert "is a classifier of clips, which has no --boxes" in capsys.readouterr().err
    with pytest.raises(ValueError, match="is a classifier of clips, not an action detector"):
        load_detector(checkpoint)


def test_what_cannot_be_read_is_named_once_and_stops_nothing(folder, tmp_path, capsys, caplog):
    shutil.copytree(folder / "movies", tmp_path / "movies")
    (tmp_path / "movies" / "second.mp4").write_bytes(b"no video")
    shutil.copy(tmp_path / "movies" / "first.mp4", tmp_path / "movies" / "unknown.mp4")
    boxes = tmp_path / "boxes.csv"
    boxes.write_text((folder / "val_predicted_boxes.csv").read_text() + "third,0999,0.1,0.1,0.5,0.5,,0.9\n")
    assert run(folder, tmp_path / "movies", "--boxes", boxes, "--json", tmp_path / "out.jsonl") == 1
    records = {
        Path(record["path"]).stem: record
        for record in map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    }
    assert len(records["first"]["seconds"]) == 3 and not records["first"]["unreadable"]
    assert (
        "not a video" in records["second"]["error"] and "has no box for video unknown" in records["unknown"]["error"]
    )
    assert [entry["second"] for entry in records["third"]["unreadable"]] == [999] and records["third"]["seconds"]
    printed = capsys.readouterr().err
    assert "3 of 4 could not be read or predicted" in printed and printed.count("cannot read second 999 of") == 1
    assert not [record.message for record in caplog.records if record.name == "datasets.loader"]


def test_the_example_of_the_page_runs(folder, tmp_path, monkeypatch, capsys):
    shutil.copy(folder / "out" / "checkpoint-best.pth", tmp_path)
    shutil.copy(folder / "movies" / "first.mp4", tmp_path / "video.mp4")
    boxes = (folder / "val_predicted_boxes.csv").read_text().replace("first,", "video,")
    (tmp_path / "boxes.csv").write_text(boxes)
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[1], "docs/detection.md", "exec"), {})
    printed = capsys.readouterr().out
    assert [line.split()[:2] for line in printed.splitlines() if line.startswith("video")] == [
        ["video.mp4", str(second)] for second in (1, 2, 3)
    ]
