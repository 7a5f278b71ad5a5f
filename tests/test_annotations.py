"""List files: all valid forms are read, all errors are reported with line and remedy."""

import os

import pytest

from datasets import annotations
from datasets.annotations import (
    FrameFolderRecord,
    ListFileError,
    VideoRecord,
    find_absent,
    read_list,
    resolve_video_path,
)
from datasets.class_labels import count_outputs, describe_empty_classes
from datasets.list_writing import format_list
from datasets.lists import find_list


def write(tmp_path, text, name="list.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("separator", [" ", "\t", ","])
def test_video_lists_with_each_separator(tmp_path, separator):
    path = write(tmp_path, f"a/x.mp4{separator}3\na/y.mp4{separator}0\n")
    records, kind = read_list(path)
    assert kind == "video"
    assert records == [VideoRecord("a/x.mp4", 3, 1), VideoRecord("a/y.mp4", 0, 2)]


@pytest.mark.parametrize("separator", [" ", "\t", ","])
def test_frame_lists_with_each_separator(tmp_path, separator):
    path = write(tmp_path, separator.join(["a/x", "48", "3"]) + "\n")
    assert read_list(path) == ([FrameFolderRecord("a/x", 48, 3, 1)], "frames")


@pytest.mark.parametrize(
    ("line", "path", "label"),
    [
        ("my own video.mp4 5", "my own video.mp4", 5),
        ("a  b.mp4 5", "a  b.mp4", 5),
        ("take 2 of 3.mp4 5", "take 2 of 3.mp4", 5),
        ("my own video.mp4,5", "my own video.mp4", 5),
        ("a,b.mp4\t5", "a,b.mp4", 5),
        ('"a,b.mp4",5', "a,b.mp4", 5),
        ('"my own" 5', "my own", 5),
        ("video.mp4 5 extra 7", "video.mp4", 5),
        ("00123 5", "00123", 5),
        ("00123,5,whatever", "00123", 5),
        ("video.mp4   5", "video.mp4", 5),
        ("video.mp4, 5", "video.mp4", 5),
        ("my film, Nr. 2.avi,5", "my film, Nr. 2.avi", 5),
        ('"a" , b .mp4 , 5, ', "a , b .mp4", 5),
        ("Ünï/视频.webm 5", "Ünï/视频.webm", 5),
    ],
)
def test_paths_are_text_and_may_hold_separators(tmp_path, line, path, label):
    split = "comma" if "whatever" in line else ""
    records, _ = read_list(write(tmp_path, line + "\n"), kind="video", split=split)
    assert records == [VideoRecord(path, label, 1)]


@pytest.mark.parametrize(
    ("line", "record"),
    [
        ("a folder 48 3", FrameFolderRecord("a folder", 48, 3, 1)),
        ("00123 48 3", FrameFolderRecord("00123", 48, 3, 1)),
        ("folder 48 name 3", FrameFolderRecord("folder", 48, 3, 1)),
        ("take 2,48,3", FrameFolderRecord("take 2", 48, 3, 1)),
        ('"take 2" 48 3', FrameFolderRecord("take 2", 48, 3, 1)),
        ("my film, take 2, 48, 3", FrameFolderRecord("my film, take 2", 48, 3, 1)),
    ],
)
def test_frame_folders(tmp_path, line, record):
    assert read_list(write(tmp_path, line + "\n"), kind="frames")[0] == [record]


def test_image_lists_with_separators_in_paths(tmp_path):
    path = write(tmp_path, "n01/x, y.JPEG, 7\nn01/x, z.JPEG , 1 ,3\n")
    records = [FrameFolderRecord("n01/x, y.JPEG", 1, 7, 1), FrameFolderRecord("n01/x, z.JPEG", 1, 3, 2)]
    assert read_list(path) == (records, "image")


@pytest.mark.parametrize("line", ["n01/x y.JPEG 7", "n01/x y.JPEG 1 7", "n01/x y.JPEG,7", "n01/x y.JPEG\t1\t7"])
def test_image_lists_of_both_forms(tmp_path, line):
    assert read_list(write(tmp_path, line)) == ([FrameFolderRecord("n01/x y.JPEG", 1, 7, 1)], "image")


def test_image_lists_of_folders(tmp_path):
    records, _ = read_list(write(tmp_path, "folder 12 7\nother 3\n"), kind="image")
    assert records == [FrameFolderRecord("folder", 12, 7, 1), FrameFolderRecord("other", 1, 3, 2)]


def test_root_line_numbers_and_byte_order_mark(tmp_path):
    path = tmp_path / "list.csv"
    path.write_bytes("\ufeffa.mp4 1\r\n\r\n/abs/b.mp4 2\r\n".encode())
    records, _ = read_list(path, data_root="/data")
    assert records == [VideoRecord("/data/a.mp4", 1, 1), VideoRecord("/abs/b.mp4", 2, 3)]
    assert count_outputs(records, path) == 3


def test_a_given_separator_wins(tmp_path):
    path = write(tmp_path, "a b.mp4;3\n")
    assert read_list(path, split=";")[0] == [VideoRecord("a b.mp4", 3, 1)]
    with pytest.raises(ValueError, match="--split"):
        read_list(path, split="::")


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("a.mp4 1\nb.mp4\n", None, ["line 2", '"b.mp4"', "no label", "`path label`"]),
        ("a.mp4 1\nb.mp4 x\n", None, ["line 2", 'not "x"', "whole number"]),
        ("a.mp4 1\nb.mp4 1.5\n", None, ["line 2", 'not "1.5"']),
        ("a.mp4 -1\n", None, ["line 1", "negative"]),
        ("a.mp4 1\nb.mp4 9\n", None, ["line 2", "label 9 is out of range", "0 to 4", "--nb_classes"]),
        ("path label\na.mp4 1\n", None, ["line 1", "header", "remove it"]),
        ("a 10 1\nb 1\n", "frames", ["line 2", "fewer than three", "`frame_folder total_frames label`"]),
        ("a 10 1\nb 0 1\n", None, ["line 2", "total_frames is 0"]),
        ("a 10 1\nb ten 1\n", None, ["line 2", 'total_frames should be a whole number, not "ten"']),
        ("clip 2 30 1\n", "frames", ["line 1", "quote the name"]),
        (",3\n", "video", ["line 1", "path is empty"]),
    ],
)
def test_faulty_lines_are_told_with_place_and_remedy(tmp_path, text, kind, said):
    path = write(tmp_path, text)
    with pytest.raises(ListFileError) as error:
        read_list(path, kind=kind, num_classes=5)
    for part in [str(path), *said]:
        assert part in str(error.value)


def test_up_to_ten_faults_are_told_at_once(tmp_path):
    lines = ["good.mp4 1"] + [f"bad{i}.mp4 x" for i in range(14)]
    with pytest.raises(ListFileError) as error:
        read_list(write(tmp_path, "\n".join(lines)))
    message = str(error.value)
    assert "14 invalid" in message and "and 4 more" in message
    assert [f"line {i}:" in message for i in range(1, 16)] == [False] + [True] * 10 + [False] * 4


def test_files_that_are_no_lists(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.csv"):
        read_list(tmp_path / "nowhere.csv")
    with pytest.raises(ListFileError, match="is empty"):
        read_list(write(tmp_path, "\n\n"))
    (tmp_path / "video.mp4").write_bytes(bytes([0, 255, 254, 200]))
    with pytest.raises(ListFileError, match="not UTF-8"):
        read_list(tmp_path / "video.mp4")


def test_finding_lists(tmp_path):
    with pytest.raises(FileNotFoundError, match="no train.csv or train.txt in"):
        find_list(tmp_path, "train")
    write(tmp_path, "", "train.txt")
    assert find_list(tmp_path, "train").name == "train.txt"
    write(tmp_path, "", "train.csv")
    assert find_list(tmp_path, "train").name == "train.csv"
    with pytest.raises(FileNotFoundError, match="not a folder"):
        find_list(tmp_path / "nowhere", "train")


def test_missing_files_and_completed_suffixes(tmp_path):
    for name in ("17.webm", "there.mp4"):
        (tmp_path / name).write_text("-")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder").mkdir()
    assert resolve_video_path(str(tmp_path / "17")) == str(tmp_path / "17.webm")
    (tmp_path / "19.MP4").touch()
    assert resolve_video_path(str(tmp_path / "19")).lower() == str(tmp_path / "19.MP4").lower()
    assert resolve_video_path(str(tmp_path / "18")) == str(tmp_path / "18")
    records = [VideoRecord(str(tmp_path / name), 0, i) for i, name in enumerate(["17", "18", "there.mp4", "no.mp4"])]
    records.append(FrameFolderRecord(str(tmp_path / "folder"), 3, 0, 9))
    records.append(VideoRecord(str(tmp_path / "folder"), 0, 10))
    records.append(FrameFolderRecord(str(tmp_path / "there.mp4"), 3, 0, 11))
    records.append(VideoRecord(str(tmp_path / "empty.mp4"), 0, 12))
    os.mkfifo(tmp_path / "pipe.mp4")
    records.append(VideoRecord(str(tmp_path / "pipe.mp4"), 0, 13))
    assert find_absent(records) == [
        (records[1], "does not exist"),
        (records[3], "does not exist"),
        (records[5], "is a folder, not a file"),
        (records[6], "is a file, not a folder of frames"),
        (records[7], "is empty"),
        (records[8], "is no regular file"),
    ]


@pytest.mark.parametrize(
    "name",
    ["a.mp4", "my own video.mp4", "a.mp4 copy.mp4", "a,b.mp4", 'say "no".mp4', "a\tb 3.mp4", "蛙泳 7.mp4", "x, 5.mp4"],
)
def test_written_lists_are_read_back(tmp_path, name):
    records = [VideoRecord(name, 4, 1), VideoRecord("b.mp4", 0, 2)]
    assert read_list(write(tmp_path, format_list(records, "video"))) == (records, "video")
    folder = name.replace(".mp4", "") + " 2"
    frames = [FrameFolderRecord(folder, 30, 4, 1), FrameFolderRecord("b", 5, 0, 2)]
    assert read_list(write(tmp_path, format_list(frames, "frames"))) == (frames, "frames")
    image = [FrameFolderRecord(name.replace(".mp4", ".png"), 1, 4, 1)]
    assert read_list(write(tmp_path, format_list(image, "image"))) == (image, "image")


def test_names_that_no_line_can_hold_are_refused():
    with pytest.raises(ListFileError, match="rename it"):
        format_list([VideoRecord("a\nb.mp4", 0, 1)], "video")
    with pytest.raises(ListFileError, match="rename it"):
        format_list([VideoRecord("\udcff.mp4", 0, 1)], "video")


@pytest.mark.parametrize(
    "text",
    [
        '"a b.mp4","2"\n"c.mp4","0"\n',
        "a b.mp4,2,\nc.mp4,0,\n",
        "a b.mp4,2,,\nc.mp4,0,,\n",
        "a b.mp4,2.0\nc.mp4,0.0\n",
        "a b.mp4;2\nc.mp4;0\n",
        '"a b.mp4";"2";\n"c.mp4";"0";\n',
        '"a b.mp4"\t"2"\t\n"c.mp4"\t"0"\t\n',
        '"a b.mp4" "2"\n"c.mp4" "0"\n',
        "a b.mp4, 2\nc.mp4, 0\n",
        "a b.mp4 2.0\nc.mp4 0.0\n",
    ],
)
def test_lists_as_pandas_and_spreadsheets_write_them(tmp_path, text):
    records, _ = read_list(write(tmp_path, text))
    assert records == [VideoRecord("a b.mp4", 2, 1), VideoRecord("c.mp4", 0, 2)]


def test_frame_and_image_lists_of_spreadsheets(tmp_path):
    frames = FrameFolderRecord("take 2, left", 48, 3, 1)
    assert read_list(write(tmp_path, '"take 2, left","48.0","3",\n')) == ([frames], "frames")
    image = FrameFolderRecord("n01/x, y.JPEG", 1, 7, 1)
    assert read_list(write(tmp_path, '"n01/x, y.JPEG","7.0",\n')) == ([image], "image")


@pytest.mark.parametrize("path", ["a,b.mp4", "x, y.mp4"])
def test_an_unquoted_comma_stays_part_of_the_path(tmp_path, path):
    records, _ = read_list(write(tmp_path, f"{path},5\n"))
    assert records[0].path.replace(" ", "") == path.replace(" ", "") and records[0].target == 5


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0,a.mp4,3", "0 comes before the path; omit row numbers (pandas: index=False)"),
        ("0,a.jpg,3", "0 comes before the path"),
        ("a.mp4," + "7" * 5000, "label has 5000 digits"),
        ("a.mp4," + "7" * 200_000, "label has 200000 digits"),
        ("a.mp4,20240101123", "label has 11 digits"),
        ("a.mp4,2.5", 'label should be a whole number, not "2.5"'),
        ("a.mp4,nan", 'label should be a whole number, not "nan"'),
    ],
)
def test_columns_that_are_no_label_are_told_with_their_line(tmp_path, line, said):
    path = write(tmp_path, f"{'0,' if line[0] == '0' else ''}b.{'jpg' if 'jpg' in line else 'mp4'},1\n{line}\n")
    with pytest.raises(ListFileError) as error:
        read_list(path)
    message = str(error.value)
    assert str(path) in message and said in message and "line 2:" in message and len(message) < 1500


def labelled(*labels):
    return [VideoRecord(f"{i}.mp4", label, i + 1) for i, label in enumerate(labels)]


@pytest.mark.parametrize("label", [200_000, 20_240_101, 999_999_999])
def test_labels_that_cannot_be_meant_are_refused_with_their_line(label):
    with pytest.raises(ListFileError, match=rf"train.csv, line 5: label {label} implies .*--nb_classes {label + 1}$"):
        count_outputs(labelled(0, 1, 2, 3, label, 4), "train.csv")


def test_many_classes_with_clips_are_fine():
    assert count_outputs(labelled(*range(0, 21841, 5)), "train.csv") == 21841
    assert count_outputs(labelled(3, 399), "train.csv") == 400


def test_classes_without_a_clip_are_reported():
    assert describe_empty_classes(labelled(0, 1, 2, 1), 3) == ""
    from_one = describe_empty_classes(labelled(1, 2, 3), 4)
    assert from_one.startswith("1 of 4 classes have no clip: 0; do the labels start at 1?")
    many = describe_empty_classes(labelled(0, 99), 100)
    assert many.startswith("98 of 100 classes have no clip: 1, 2, 3") and many.endswith("20, ...")


def test_a_list_is_parsed_once_in_a_process(tmp_path, monkeypatch):
    path = write(tmp_path, "".join(f'"{i}.mp4" {i % 3}\n' for i in range(50)))
    parsed = []
    parse = annotations._PARSERS["video"]
    monkeypatch.setitem(annotations._PARSERS, "video", lambda *line: parsed.append(line) or parse(*line))
    first, _ = read_list(path, data_root=str(tmp_path))
    again, _ = read_list(path, data_root=str(tmp_path), num_classes=3)
    assert first == again and len(parsed) == 50
    write(tmp_path, "other.mp4 0\n")
    assert [record.path for record in read_list(path, data_root=str(tmp_path))[0]] == [str(tmp_path / "other.mp4")]


def test_videos_without_suffix_may_have_columns_that_are_ignored(tmp_path):
    (tmp_path / "00123.webm").touch()
    path = write(tmp_path, "00123 5 7\n")
    assert read_list(path, data_root=str(tmp_path)) == ([VideoRecord(str(tmp_path / "00123"), 5, 1)], "video")
