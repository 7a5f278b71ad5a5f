"""Labels of the three tasks in lists: what is read, what is written, and what is refused by line."""

import pytest

from datasets.annotations import FrameFolderRecord, ListFileError, VideoRecord, read_list
from datasets.arguments import DataSettings
from datasets.list_writing import format_list


def read(tmp_path, text, task, **more):
    path = tmp_path / "list.csv"
    path.write_text(text, encoding="utf-8")
    return read_list(path, task=task, **more)


def rows(tmp_path, text, task, **more):
    records, _ = read(tmp_path, text, task, **more)
    return [(record.path, record.target) for record in records]


@pytest.mark.parametrize(
    "text",
    [
        "a.mp4 3;17;40\nmy clip.mp4 5\nb.mp4\n",
        "a.mp4,40;3;17\nmy clip.mp4,5\nb.mp4,\n",
        '"a.mp4","3;17;40"\n"my clip.mp4","5"\n"b.mp4",""\n',
        "a.mp4\t3;17;40\nmy clip.mp4\t5\nb.mp4\t\n",
        "a.mp4;3;17;40\nmy clip.mp4;5\nb.mp4;\n",
        'a.mp4  3.0;17.0;40\n"my clip.mp4" 5\nb.mp4\n',
    ],
    ids=["spaces", "commas", "quoted", "tabs", "semicolons", "as pandas writes"],
)
def test_several_labels_of_a_clip(tmp_path, text):
    assert rows(tmp_path, text, "multilabel") == [("a.mp4", (3, 17, 40)), ("my clip.mp4", (5,)), ("b.mp4", ())]


def test_several_labels_of_names_without_suffix(tmp_path):
    assert rows(tmp_path, "a 3;17\nb 4\nc\n", "multilabel") == [("a", (3, 17)), ("b", (4,)), ("c", ())]


@pytest.mark.parametrize("text", ["f 48 3;17\nmy f 9 5\ng 7\nh 8 1\n", "f;48;3;17\nmy f;9;5\ng;7;\nh;8;1\n"])
def test_several_labels_of_frame_folders(tmp_path, text):
    records, kind = read(tmp_path, text, "multilabel")
    assert kind == "frames"
    assert [(record.path, record.total_frames, record.target) for record in records] == [
        ("f", 48, (3, 17)), ("my f", 9, (5,)), ("g", 7, ()), ("h", 8, (1,))
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["a.mp4 0.5;-2e3\nmy b.mp4 1;2\n", "a.mp4,0.5;-2e3\nmy b.mp4,1;2\n", "a.mp4;.5;-2000\nmy b.mp4;1.;2\n"],
)
def test_numbers_as_targets(tmp_path, text):
    assert rows(tmp_path, text, "regression") == [("a.mp4", (0.5, -2000.0)), ("my b.mp4", (1.0, 2.0))]


def test_integers_alone_are_targets_of_a_regression_too(tmp_path):
    assert rows(tmp_path, "a.mp4 3\nb.mp4 -1\n", "regression") == [("a.mp4", (3.0,)), ("b.mp4", (-1.0,))]


def test_numbers_of_frame_folders(tmp_path):
    records, kind = read(tmp_path, "f 48 0.25\ng 9 -3\n", "regression")
    assert (kind, records[0].total_frames, records[0].target) == ("frames", 48, (0.25,))


def test_text_that_follows_the_label_is_ignored(tmp_path):
    text = "a.mp4,0.5,indoors\nb.mp4,2,x\n"
    assert rows(tmp_path, text, "regression", split="comma") == [("a.mp4", (0.5,)), ("b.mp4", (2.0,))]


@pytest.mark.parametrize(
    "task, text, line, words",
    [
        ("classification", "a.mp4 1\nb.mp4 3;17\n", 2, "--task multilabel"),
        ("classification", "a.mp4 1;2\nb.mp4 3;17\n", 1, "--task multilabel"),
        ("classification", "a,1\nb,3;17\n", 2, "--task multilabel"),
        ("classification", "f 48 1;2\ng 9 3\n", 1, "--task multilabel"),
        ("classification", "a.mp4 1\nb.mp4 0.7\n", 2, "--task regression"),
        ("classification", "a.mp4 0.5;3\nb.mp4 1;2\n", 1, "--task regression"),
        ("classification", "a.mp4 1\nb.mp4 -3\n", 2, "--task regression"),
        ("multilabel", "a.mp4 1;2\nb.mp4 0.7\n", 2, "--task regression"),
        ("multilabel", "a.mp4 1;2\nb.mp4 1;x\n", 2, 'not "x"'),
        ("multilabel", "a.mp4 1;2\nb.mp4 1;;3\n", 2, 'not ""'),
        ("multilabel", "a.mp4 1;2\nb.mp4 4;4\n", 2, "label 4 is there twice"),
        ("multilabel", "a.mp4 1;2\nb.mp4 1 3\n", 2, "join several labels, as in 1;3"),
        ("regression", "a.mp4 0.5\nb.mp4\n", 2, "there is no label"),
        ("regression", "a.mp4 0.5\nb.mp4 nan\n", 2, 'not "nan"'),
        ("regression", "a.mp4 0.5\nb.mp4 1e999\n", 2, "too large"),
        ("regression", "a.mp4\t0.5\nb.mp4\t0,5\n", 2, "decimals have a point"),
        ("regression", "a.mp4,0.5,12\nb.mp4,2,1\n", 1, "join several labels, as in 0.5;12"),
    ],
)
def test_a_label_of_another_task_is_named_by_line(tmp_path, task, text, line, words):
    with pytest.raises(ListFileError) as error:
        read(tmp_path, text, task)
    (fault,) = [row for row in str(error.value).splitlines() if row.startswith(f"  line {line}:")]
    assert words in fault


def test_a_list_separated_by_semicolons_is_no_list_of_several_labels(tmp_path):
    assert rows(tmp_path, "my clip 1.mp4;3\nb.mp4;17\n", "classification") == [("my clip 1.mp4", 3), ("b.mp4", 17)]
    assert rows(tmp_path, "clip 1;3\nclip 2;4\n", "classification", split="semicolon") == [
        ("clip 1", 3),
        ("clip 2", 4),
    ]


@pytest.mark.parametrize(
    "task, text, count, words",
    [
        ("multilabel", "a.mp4 1;2\nb.mp4 0;5\n", 5, "line 2: label 5 is out of range"),
        ("regression", "a.mp4 1;2\nb.mp4 5\n", 2, "line 2: the label has 1 numbers, but there are 2 targets"),
    ],
)
def test_a_label_beyond_what_the_head_has(tmp_path, task, text, count, words):
    with pytest.raises(ListFileError, match=words):
        read(tmp_path, text, task, num_classes=count)


@pytest.mark.parametrize(
    "records",
    [
        [VideoRecord("a.mp4", (3, 17), 1), VideoRecord("my b.mp4", (), 2), VideoRecord("c", (), 3)],
        [VideoRecord("a.mp4", (0.1, -2e-30), 1), VideoRecord("b;c.mp4", (1.0, 3e20), 2)],
        [FrameFolderRecord("f", 48, (3, 17), 1), FrameFolderRecord("g h", 9, (), 2)],
        [FrameFolderRecord("f.jpg", 1, (0.5,), 1)],
    ],
    ids=["several", "numbers", "several of frames", "numbers of images"],
)
def test_what_is_written_is_read_again(tmp_path, records):
    kind = "video" if isinstance(records[0], VideoRecord) else "image" if ".jpg" in records[0].path else "frames"
    text = format_list(records, kind)
    task = "regression" if any(isinstance(value, float) for value in records[0].target) else "multilabel"
    assert read(tmp_path, text, task) == (records, kind)


def test_the_balanced_sampler_needs_one_class_a_clip():
    with pytest.raises(ValueError, match="--sampler balanced needs one class a clip"):
        DataSettings(task="multilabel", sampler="balanced")


def test_segments_with_several_labels(tmp_path):
    text = "path,start,end,label\na.mp4,0,2.5,3;17\na.mp4,2.5,4,\n"
    records, _ = read(tmp_path, text, "multilabel")
    assert [(record.segment.start, record.target) for record in records] == [(0, (3, 17)), (2.5, ())]
    assert format_list(records, "video") == text
