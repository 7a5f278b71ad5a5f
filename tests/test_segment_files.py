"""Files of segments: each format read back, training from the list, and pictures beside the labelled ones."""

import csv
import html
import json
from fractions import Fraction

import av
import numpy as np
import pytest
from inference_files import moving_frames
from PIL import Image
from video_files import numbered_frames, write_folder, write_video

import run_inference
from datasets.annotations import read_list
from datasets.labelled_segments import LabelledSegment, read_segments
from datasets.preparation.segment_exports.timeline import read
from datasets.readers import UnreadableVideoError, VideoFile
from datasets.readers.part import frame_range
from inference.batch import Result
from inference.drawing import class_colours, draw_strip
from inference.segment_files import check_segment_file, segment_file
from inference.windows import Curve

NAMES = ("walk, slowly", "a < b & c", "плавание")
SEGMENTS = [LabelledSegment(0.04, 1.5, 1, 0.914), LabelledSegment(1.5, 3725.25, 2, 0.5)]


def result(path="a b.mp4", segments=SEGMENTS, rate=Fraction(25)):
    curve = Curve(93200, 8, np.array([0]), np.full((1, 3), 1 / 3, dtype=np.float32), NAMES, rate)
    return Result(path, None, curve, segments)


def written(tmp_path, suffix, *results):
    path = tmp_path / "new" / f"out{suffix}"
    with segment_file(str(path), [result.path for result in results]) as write:
        for one in results:
            write(one)
    return path


def test_csv_is_a_list_for_training(tmp_path):
    path = written(tmp_path, ".csv", result(), result("x.mp4", []), result("b.mp4", SEGMENTS[:1]))
    records, kind = read_list(path)
    assert kind == "video"
    assert [(one.path, one.segment.start, one.segment.end, one.target) for one in records] == [
        ("a b.mp4", 0.04, 1.5, 1),
        ("a b.mp4", 1.5, 3725.25, 2),
        ("b.mp4", 0.04, 1.5, 1),
    ]
    with open(path, newline="", encoding="utf-8") as file:
        first = next(csv.DictReader(file))
    assert (first["name"], first["confidence"]) == ("a < b & c", "0.9140")


def test_json_holds_every_video_also_without_segments_or_unreadable(tmp_path):
    broken = Result("broken.mp4", error=UnreadableVideoError("broken.mp4", "no video"))
    path = written(tmp_path, ".json", result(), broken, result("x.mp4", []))
    first, second, third = json.loads(path.read_text(encoding="utf-8"))
    assert first["segments"][1] == {"start": 1.5, "end": 3725.25, "label": 2, "confidence": 0.5, "name": "плавание"}
    assert (first["unit"], second, third["segments"]) == (
        "seconds",
        {"path": "broken.mp4", "error": "no video"},
        [],
    )
    back = [(stretch.video, stretch.label, stretch.segment.start, stretch.segment.end) for stretch in read(path)]
    assert back == [("a b.mp4", NAMES[one.label], one.start, one.end) for one in SEGMENTS], "tools.make_lists reads it"


@pytest.mark.parametrize("suffix", [".srt", ".vtt"])
def test_subtitles_are_read_by_ffmpeg(tmp_path, suffix):
    path = written(tmp_path, suffix, result())
    cues = []
    with av.open(str(path)) as container:
        for packet in container.demux(subtitles=0):
            for shown in packet.decode():
                text = shown.ass.decode().split(",", 8)[-1]
                cues.append((float(packet.pts * packet.time_base), float(packet.duration * packet.time_base), text))
    assert [html.unescape(text) for *_, text in cues] == ["a < b & c 91 %", "плавание 50 %"]
    np.testing.assert_allclose([cue[:2] for cue in cues], [(0.04, 1.46), (1.5, 3723.75)], atol=1e-3)


def test_a_folder_of_frames_has_a_list_in_frames(tmp_path):
    folder = write_folder(tmp_path / "frames", numbered_frames(3))
    path = written(tmp_path, ".csv", result(str(folder), [LabelledSegment(0, 12, 1)], rate=None))
    ((record,), kind) = read_list(path)
    assert kind == "frames" and (record.total_frames, record.segment.unit, record.segment.end) == (93200, "frames", 12)


def test_without_a_frame_rate_there_are_no_seconds(tmp_path):
    with pytest.raises(UnreadableVideoError, match="its frame rate is unknown"):
        written(tmp_path, ".csv", result(rate=None))


@pytest.mark.parametrize(
    ("path", "sources", "said"),
    [
        ("out.txt", ["a.mp4"], "should end in .csv, .json, .srt, .vtt"),
        ("out.srt", ["a.mp4", "b.mp4"], "subtitles belong to one video"),
        ("out.vtt", ["."], "a folder of frames"),
        ("out.csv", [".", "a.mp4"], "use .json for both"),
        ("out.csv", ["a\n.mp4"], "rename it"),
    ],
)
def test_files_that_cannot_hold_the_segments_are_refused(path, sources, said):
    with pytest.raises(ValueError, match=said):
        check_segment_file(path, sources)


def run(checkpoint, *words):
    words = [str(word) for word in words]
    return run_inference.main(["--checkpoint", str(checkpoint), "--device", "cpu", "--num_workers", "0", *words])


@pytest.fixture
def video(tmp_path):
    """Four scenes, one after another."""
    return write_video(tmp_path / "clip.mp4", np.concatenate([moving_frames(20, seed=seed) for seed in range(4)]))


EASY = ("--quick", "--stride", 2, "--segment_enter", 0.2, "--segment_leave", 0.1, "--segment_shortest", 0)


def test_segments_of_a_video_become_a_list_of_its_frames(checkpoint, tmp_path, video):
    out = tmp_path / "out.csv"
    assert run(checkpoint, video, *EASY, "--segments", out, "--json", tmp_path / "out.jsonl") == 0
    records, _ = read_list(out)
    assert len(records) > 1
    reader = VideoFile(str(video))
    ranges = [frame_range(reader, record.segment) for record in records]
    assert ranges[0][0] == 0 and ranges[-1][1] == 80
    assert all(end == start for (_, end), (start, _) in zip(ranges, ranges[1:], strict=False))
    windows = json.loads((tmp_path / "out.jsonl").read_text())["windows"]
    for record, (first, end) in zip(records, ranges, strict=True):
        inside = [w for w in windows if first + 4 <= (w["first_frame"] + w["last_frame"]) / 2 < end - 4]
        assert {window["top"][0]["label"] for window in inside} <= {record.target}


@pytest.mark.slow
def test_labelled_segments_are_drawn_beside_those_found(checkpoint, tmp_path, video):
    truth, out = tmp_path / "truth.csv", tmp_path / "out.csv"
    assert run(checkpoint, video, *EASY, "--segments", truth, "--curve", tmp_path / "found.png") == 0
    words = ("--segments", out, "--curve", tmp_path / "both.png", "--annotate", tmp_path / "both.mp4")
    assert run(checkpoint, video, *EASY, "--truth", truth, *words) == 0
    assert out.read_text() == truth.read_text()
    found, both = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("found", "both"))
    assert found.shape == both.shape and not np.array_equal(found, both)
    assert (tmp_path / "both.mp4").stat().st_size > 1000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--truth", "truth.csv"], "give one of them"),
        (["--truth", "absent.csv", "--curve", "c.png"], "absent.csv"),
        (["--truth", "truth.csv", "--curve", "c.png"], "label 7 is out of range"),
        (
            ["--segments", "out.csv", "--segment_enter", "0.2", "--segment_leave", "0.3"],
            "enter at 0.2 and leave at 0.3",
        ),
        (["--segment_smooth", "1"], "no effect without --segments"),
        (["--segments", "truth.csv", "--truth", "small.csv", "--curve", "c.png"], ""),
        (
            ["--segments", "small.csv", "--truth", "small.csv", "--curve", "c.png"],
            "would overwrite the file of --truth",
        ),
    ],
)
def test_wrong_flags_are_refused(checkpoint, tmp_path, video, capsys, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "truth.csv").write_text("path,start,end,label\nclip.mp4,0,1,7\n")
    (tmp_path / "small.csv").write_text("path,start,end,label\nclip.mp4,0,1,6\n")
    if not said:
        assert run(checkpoint, video, "--quick", *words) == 0
        return
    with pytest.raises(SystemExit):
        run(checkpoint, video, "--quick", *words)
    assert said in capsys.readouterr().err


def test_bars_have_the_colours_of_the_lines_and_the_place_of_the_segments():
    rows = np.array([[0.9, 0.1, 0], [0.1, 0.9, 0]], dtype=np.float32)
    curve = Curve(101, 10, np.array([0, 91]), rows, NAMES, Fraction(10))
    bars = {"found": [LabelledSegment(0, 5, 0)], "truth": [LabelledSegment(5, 10, 1), LabelledSegment(0, 2, 1)]}
    strip = draw_strip(curve, 640, 200, bars=bars)
    plain = draw_strip(curve, 640, 200)
    assert (plain.bottom, plain.left) == (strip.bottom, strip.left) and strip.top - plain.top == pytest.approx(32)

    def columns(row, label):
        line = strip.picture[round(strip.top - 32 + 16 * row + 12)]
        colour = [int(class_colours(curve)[label][i : i + 2], 16) for i in (1, 3, 5)]
        return np.flatnonzero((line == colour).all(1))

    middle = strip.cursor(50)
    assert columns(0, 0).min() <= strip.left + 3 and abs(columns(0, 0).max() - middle) <= 3
    assert abs(columns(1, 1).max() - strip.right) <= 3 and columns(1, 0).size == 0
    assert strip.picture.shape == (200, 640, 3)


def test_a_list_is_read_as_segments_by_video(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("path,start,end,label\nb.mp4,4,5,0\na.mp4,1,2,3\nb.mp4,0,1.5,1\n")
    videos, unit = read_segments(path, data_root=str(tmp_path))
    assert unit == "seconds"
    assert videos[str(tmp_path / "b.mp4")] == [LabelledSegment(0, 1.5, 1), LabelledSegment(4, 5, 0)]
    assert read_segments(path).unit == "seconds"
