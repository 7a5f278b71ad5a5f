"""AVA's files as they are published, files of one's own, and everything that may be wrong with them."""

import logging
import os
import subprocess
import sys

import numpy as np
import pytest
from detection_files import IDS, small_settings, write_label_map, write_lines, write_scenes

from datasets.detection.annotations import (
    BENCHMARK_AVA_IDS,
    RARE_AVA_IDS,
    read_annotations,
    read_exclusions,
    read_person_boxes,
)
from datasets.detection.build import build_detection_dataset
from datasets.detection.label_map import AnnotationError, LabelMap, read_label_map
from datasets.detection.lists import locate_videos, read_keyframes

OWN = LabelMap("own.pbtxt", IDS, ("walk", "hold", "talk"))
BENCHMARK = LabelMap("ava.pbtxt", tuple(sorted(BENCHMARK_AVA_IDS)), tuple(map(str, sorted(BENCHMARK_AVA_IDS))))


def test_rows_of_one_person_become_one_box_with_several_classes(tmp_path):
    file = write_lines(
        tmp_path / "train.csv",
        "-5KQ66BBWC4,0902,0.077,0.151,0.283,0.811,80,1",
        "-5KQ66BBWC4,0902,0.077,0.151,0.283,0.811,9,1",
        "-5KQ66BBWC4,0902,0.226,0.032,0.366,0.497,12,0",
        "",
        "-5KQ66BBWC4,0903,0.077,0.151,0.283,0.811,80,1",
        # the same box, another person
        "-5KQ66BBWC4,0903,0.077,0.151,0.283,0.811,80,2",
    )
    found = read_annotations(file, BENCHMARK)
    first, second = found["-5KQ66BBWC4", 902], found["-5KQ66BBWC4", 903]
    assert first.boxes == [(0.077, 0.151, 0.283, 0.811), (0.226, 0.032, 0.366, 0.497)]
    assert first.labels == [(80, 9), (12,)] and first.line == 1 and second.line == 5
    assert second.labels == [(80,), (80,)]


def test_avas_rare_actions_are_passed_over_with_the_map_of_its_benchmark_alone(tmp_path):
    assert len(RARE_AVA_IDS) == 20 and len(BENCHMARK_AVA_IDS) == 60
    file = write_lines(tmp_path / "train.csv", "a,0902,0.1,0.1,0.2,0.2,16,1", "a,0902,0.1,0.1,0.2,0.2,17,1")
    assert read_annotations(file, BENCHMARK)["a", 902].labels == [(17,)]
    every = LabelMap("all.pbtxt", tuple(range(1, 81)), tuple(map(str, range(1, 81))))
    assert read_annotations(file, every)["a", 902].labels == [(16, 17)]
    with pytest.raises(AnnotationError, match="line 1: action 16 is not in own.pbtxt"):
        read_annotations(file, OWN)


def test_detected_persons_below_the_threshold_are_left_out(tmp_path):
    file = write_lines(
        tmp_path / "boxes.csv",
        "a,0902,0.1,0.1,0.2,0.2,,0.996382",
        "a,902,0.3,0.1,0.4,0.2,-1,0.8",
        "a,0902,0.5,0.1,0.6,0.2,12,0.79",
    )
    (persons,) = read_person_boxes(file, 0.8).values()
    assert persons.scores == [0.996382, 0.8] and len(persons.boxes) == 2


@pytest.mark.parametrize(
    "text",
    [
        'item {\n  name: "bend/bow (at the waist)"\n  id: 1\n}\nitem {\n  name: "crouch: kneel"\n  id: 3\n}\n',
        'label {\n  name: "bend/bow (at the waist)"\n  label_id: 1\n  label_type: PERSON_MOVEMENT\n}\n'
        'label {\n  name: "crouch: kneel"\n  label_id: 3\n}\n',
        "item { name: 'bend/bow (at the waist)' id: 1 }  # a comment\nitem{name:'crouch: kneel' id:3}",
    ],
)
def test_label_maps_as_they_are_published(tmp_path, text):
    (tmp_path / "map.pbtxt").write_text(text)
    found = read_label_map(tmp_path / "map.pbtxt")
    assert found.ids == (1, 3) and found.names == ("bend/bow (at the waist)", "crouch: kneel") and len(found) == 2


def test_ids_of_any_kind_have_a_column_each(tmp_path):
    label_map = read_label_map(write_label_map(tmp_path))
    assert label_map.ids == IDS == (12, 7, 300) and label_map.names == ("walk", "hold", "talk")
    np.testing.assert_array_equal(label_map.multi_hot([(300,), (7, 12), ()]), [[0, 0, 1], [1, 1, 0], [0, 0, 0]])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "has no classes"),
        ("item {\n  id: 3\n}\n", "line 2: id 3 has no name before it"),
        ('item { name: "a" id: x }', "line 1: an id must be a non-negative integer"),
        ('item { name: "a" id: -1 }', "line 1: an id must be a non-negative integer"),
        ('item { name: "a" id: 1 }\nitem { name: "b" id: 1 }', 'line 2: "1" is in line 1 already'),
        ('item { name: "a" id: 1 }\n\nitem { name: "a" id: 2 }', 'line 3: "a" is in line 1 already'),
    ],
)
def test_faulty_label_maps_are_refused(tmp_path, text, fault):
    (tmp_path / "map.pbtxt").write_text(text)
    with pytest.raises(AnnotationError, match=fault) as raised:
        read_label_map(tmp_path / "map.pbtxt")
    assert str(tmp_path / "map.pbtxt") in str(raised.value)


GOOD = "a,0902,0.1,0.1,0.2,0.2,12,1"
FAULTS = [
    ("a,0902,0.1,0.1,1.2,0.2,12,1", "x2 = 1.2 is outside the frame"),
    ("a,0902,-0.1,0.1,0.2,0.2,12,1", "x1 = -0.1 is outside the frame"),
    ("a,0902,10,10,200,100,12,1", "divide pixels by the width or height"),
    ("a,0902,0.2,0.1,0.2,0.2,12,1", "x1 is not below x2"),
    ("a,0902,0.1,0.3,0.2,0.2,12,1", "y1 is not below y2"),
    ("a,0902,0.1,nan,0.2,0.2,12,1", 'y1 must be a number, not "nan"'),
    ("a,0902,0.1,,0.2,0.2,12,1", 'y1 must be a number, not ""'),
    ("a,902.5,0.1,0.1,0.2,0.2,12,1", "the second must be a non-negative integer"),
    ("a,-3,0.1,0.1,0.2,0.2,12,1", "the second must be a non-negative integer"),
    ("a,0902,0.1,0.1,0.2,0.2,walk,1", "the action must be an integer"),
    ("a,0902,0.1,0.1,0.2,0.2,,1", "the action must be an integer"),
    ("a,0902,0.1,0.1,0.2,0.2,13,1", "action 13 is not in own.pbtxt; add it there or remove the row"),
    ("a,0902,0.1,0.1,0.2,0.2", "there are 6 columns instead of 7 or 8"),
    ("video,second,x1,y1,x2,y2,action,person", "without a header line"),
    (",0902,0.1,0.1,0.2,0.2,12,1", "the video is empty"),
]


@pytest.mark.parametrize(("line", "fault"), FAULTS)
def test_faulty_annotations_are_reported_with_file_and_line(tmp_path, line, fault):
    file = write_lines(tmp_path / "train.csv", GOOD, "", line, GOOD)
    with pytest.raises(AnnotationError) as raised:
        read_annotations(file, OWN)
    printed = str(raised.value)
    assert printed.startswith(f"{file}: 1 faulty line(s)\n  line 3: ") and fault in printed and line in printed


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("a,0902,0.1,0.1,0.2,0.2,,1.5", "score 1.5 is not between 0 and 1; are these annotations"),
        ("a,0902,0.1,0.1,0.2,0.2,,-0.5", "score -0.5 is not between 0 and 1"),
        ("a,0902,0.1,0.1,0.2,0.2,,", 'score must be a number, not ""'),
        ("a,0902,0.1,0.1,0.2,0.2,0.9", "there are 7 columns instead of 8"),
        ("a,0902,0.3,0.1,0.2,0.2,,0.9", "x1 is not below x2"),
        ("a,0902,0.1,0.1,0.2,2,,0.9", "y2 = 2 is outside the frame"),
    ],
)
def test_faulty_detected_persons_are_reported_with_file_and_line(tmp_path, line, fault):
    file = write_lines(tmp_path / "boxes.csv", "a,0902,0.1,0.1,0.2,0.2,,0.9", line)
    with pytest.raises(AnnotationError) as raised:
        read_person_boxes(file, 0.8)
    assert f"{file}: 1 faulty line(s)\n  line 2: " in str(raised.value) and fault in str(raised.value)


def test_many_faults_are_counted_and_ten_told(tmp_path):
    file = write_lines(tmp_path / "train.csv", *["a,0902,2,0.1,0.2,0.2,12,1"] * 25)
    with pytest.raises(AnnotationError, match="25 faulty line") as raised:
        read_annotations(file, OWN)
    assert str(raised.value).count("\n  line ") == 10 and "and 15 more" in str(raised.value)


def test_faulty_exclusions_and_files_that_are_none(tmp_path):
    file = write_lines(tmp_path / "excluded.csv", "a,0902", "a,x")
    with pytest.raises(AnnotationError, match="line 2: the second must be"):
        read_exclusions(file)
    assert read_exclusions(write_lines(tmp_path / "none.csv")) == {}
    with pytest.raises(AnnotationError, match="is empty"):
        read_annotations(write_lines(tmp_path / "empty.csv"), OWN)
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AnnotationError, match="not UTF-8"):
        read_annotations(tmp_path / "bytes.csv", OWN)
    with pytest.raises(FileNotFoundError, match="absent.csv does not exist"):
        read_person_boxes(tmp_path / "absent.csv", 0.8)


def test_faults_are_reported_before_torch_is_imported(tmp_path):
    write_scenes(tmp_path, {"a": (64, 64)})
    with open(tmp_path / "train.csv", "a") as file:
        file.write("a,1,0.5,0.5,0.4,0.6,12,1\n")
    program = (
        "import sys\nfrom datasets.detection.lists import DetectionListSettings, read_keyframes\n"
        "try:\n    read_keyframes('train', DetectionListSettings(data_path=sys.argv[1]))\n"
        "except ValueError as error:\n    print(error)\nprint('torch' in sys.modules)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "train.csv: 1 faulty line(s)\n  line 3: the box is empty" in printed.stdout and printed.stdout.endswith(
        "False\n"
    )


def records_of(tmp_path, mode, **settings):
    return read_keyframes(mode, small_settings(tmp_path, **settings)).records


@pytest.fixture
def three_videos(tmp_path):
    """Annotations of two seconds each for a and b, a detection more in a second that nobody is annotated in."""
    write_scenes(tmp_path, {"a": (64, 96), "b": (64, 96)}, "val")
    place = "0.1,0.1,0.4,0.4"
    write_lines(
        tmp_path / "val.csv",
        *(f"{video},{second},{place},12,0" for video in "ab" for second in (3, 4, 7)),
    )
    write_lines(
        tmp_path / "val_predicted_boxes.csv",
        *(f"{video},{second},{place},,0.95" for video in "bac" for second in (3, 4, 5)),
    )
    return tmp_path


def test_evaluation_has_a_record_for_every_second_with_annotations_or_detections(three_videos):
    records = records_of(three_videos, "test")
    # video c has no annotations: its boxes are of another list
    assert [(r.video, r.second, len(r.target["boxes"]), len(r.boxes)) for r in records] == [
        (video, second, truth, found)
        for video in "ab"
        for second, truth, found in ((3, 1, 1), (4, 1, 1), (7, 1, 0), (5, 0, 1))
    ]
    assert [r.line for r in records] == [1, 2, 3, 1, 4, 5, 6, 4]
    assert all(r.path.endswith(f"media/{r.video}") for r in records)


def test_ground_truth_as_boxes_needs_no_detections(three_videos):
    (three_videos / "val_predicted_boxes.csv").unlink()
    records = records_of(three_videos, "test", eval_boxes="ground_truth")
    assert [len(r.boxes) for r in records] == [1] * 6 and all(r.boxes is r.target["boxes"] for r in records)
    with pytest.raises(FileNotFoundError, match="--person_boxes"):
        records_of(three_videos, "test")


def test_validation_takes_every_nth_second_of_each_video(three_videos):
    assert [r.second for r in records_of(three_videos, "validation", val_every_seconds=2)] == [3, 7, 5] * 2
    assert [r.second for r in records_of(three_videos, "validation")] == [3, 7] * 2


@pytest.mark.parametrize("annotated", [range(2, 40), (1, 5, 7, 12, 13, 30)], ids=["every second", "some"])
def test_where_persons_are_found_does_not_decide_which_annotated_seconds_are_used(three_videos, annotated):
    place = "0.1,0.1,0.4,0.4"
    write_lines(three_videos / "val.csv", *(f"a,{second},{place},12,0" for second in annotated))
    write_lines(three_videos / "val_predicted_boxes.csv", *(f"a,{second},{place},,0.95" for second in range(40)))
    records = records_of(three_videos, "validation")
    used = [record.second for record in records if len(record.target["boxes"])]
    assert used == ([*range(2, 40, 4)] if len(annotated) == 38 else [1, 5, 12, 13, 30])
    nobody = [record.second for record in records if not len(record.target["boxes"])]
    assert nobody == ([0] if len(annotated) == 38 else [0, 17, 21, 25, 33, 37])


def test_an_evaluation_without_any_action_is_refused_before_training(three_videos):
    write_lines(three_videos / "exclusions.csv", *(f"{video},{second}" for video in "ab" for second in (3, 4, 7)))
    for mode in ("validation", "test"):
        with pytest.raises(AnnotationError, match=r"val.csv: no second to evaluate has an action of .*--exclusions"):
            records_of(three_videos, mode)


def test_a_test_on_the_validation_annotations_is_announced(three_videos, caplog):
    caplog.set_level(logging.INFO)
    records_of(three_videos, "validation")
    assert not caplog.messages
    records_of(three_videos, "test")
    assert "no test annotations are given, so those of the validation are tested" in caplog.text
    caplog.clear()
    (three_videos / "val_predicted_boxes.csv").rename(three_videos / "test_predicted_boxes.csv")
    (three_videos / "val.csv").rename(three_videos / "test.csv")
    records_of(three_videos, "test")
    assert not caplog.messages


def test_excluded_seconds_are_left_out_on_both_sides(three_videos):
    write_lines(three_videos / "exclusions.csv", "a,0003", "b,0005")
    assert [(r.video, r.second) for r in records_of(three_videos, "test")] == [
        ("a", 4), ("a", 7), ("a", 5), ("b", 3), ("b", 4), ("b", 7),
    ]  # fmt: skip
    write_lines(three_videos / "all.csv", *(f"{v},{s}" for v in "ab" for s in (3, 4, 5, 7)))
    with pytest.raises(AnnotationError, match="the exclusions leave out all seconds"):
        records_of(three_videos, "test", exclusions=(str(three_videos / "all.csv"),))


def test_boxes_of_other_videos_are_refused(three_videos):
    write_lines(three_videos / "val_predicted_boxes.csv", "other,3,0.1,0.1,0.2,0.2,,0.9")
    with pytest.raises(AnnotationError, match="are these the boxes of other videos"):
        records_of(three_videos, "test")


def test_missing_videos_are_reported(three_videos, caplog):
    with pytest.raises(FileNotFoundError, match=r"none of the 2 videos exists.*line 1: elsewhere/a; set --data_root"):
        records_of(three_videos, "test", data_root="elsewhere")
    (three_videos / "media" / "b").rename(three_videos / "media" / "c")
    records_of(three_videos, "test")
    assert "1 of 2 videos are missing, the first in line 4" in caplog.text


def test_movies_are_found_whatever_the_case_of_their_suffix(tmp_path):
    for name in ("a.MP4", "b.webm", "b.Mov", "c.mp4", "c.MP4", "d.txt", "e/f.MKV", "g.mp4.part"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "h").mkdir()
    (tmp_path / "h.avi").mkdir()
    found = locate_videos(str(tmp_path), ("a", "b", "c", "d", "e/f", "g", "h", "x/y"))
    assert [os.path.relpath(path, tmp_path) for path in found.values()] == [
        *("a.MP4", "b.webm", "c.mp4", "d", "e/f.MKV", "g", "h", "x/y")
    ]


def test_a_missing_list_is_reported_with_its_flag(tmp_path):
    write_scenes(tmp_path, {"a": (64, 64)})
    with pytest.raises(FileNotFoundError, match=r"no ava_val_v2.2.csv or val.csv in .*--val_csv FILE"):
        build_detection_dataset("test", small_settings(tmp_path))
    (tmp_path / "label_map.pbtxt").unlink()
    with pytest.raises(FileNotFoundError, match="--label_map FILE"):
        build_detection_dataset("train", small_settings(tmp_path))


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        (dict(train_short_side=(80, 64)), "first value must be the smaller"),
        (dict(train_short_side=(32, 64)), "smaller than --input_size 64"),
        (dict(short_side_size=60), "multiple of the patch"),
        (dict(sampler="balanced"), "--sampler balanced"),
        (dict(reader="decord"), "--reader decord"),
        (dict(eval_boxes="mine"), "--eval_boxes must be one of"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(tmp_path, settings, fault):
    with pytest.raises(ValueError, match=fault):
        small_settings(tmp_path, **settings)
