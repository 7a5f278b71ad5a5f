"""Segments labelled in other programs become lists of segments; the exports are in segment_export_files.py."""

import json

import pytest
from PIL import Image
from segment_export_files import (
    CREATE_ML,
    CVAT_JOBS,
    CVAT_TRACKS,
    ELAN,
    EXPORTS,
    LABEL_STUDIO,
    LABEL_STUDIO_MIN,
    TIMELINE_JSON,
    VIA,
    label_studio_task,
    timeline_region,
)
from video_files import numbered_frames, write_video

from datasets.annotations import read_list
from datasets.preparation.segment_exports.stretches import possible_names
from tools.make_lists import main


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "videos"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4"):
        write_video(folder / name, numbered_frames(40, 16, 16), rate=10, title=name)
    return folder


def run(videos, tmp_path, form, files, *words):
    paths = []
    for name, content in files.items():
        paths.append(str(tmp_path / name))
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return main(
        [form, str(videos), "--annotations", *paths, "--output", str(tmp_path / "lists"), "--val_share", "0", *words]
    )


def read(tmp_path):
    names = (tmp_path / "lists" / "labels.txt").read_text().split()
    records, _ = read_list(tmp_path / "lists" / "train.csv")
    return {(record.path, record.segment.start, record.segment.end, names[record.target]) for record in records}


@pytest.mark.parametrize(
    ("form", "files", "expected"), EXPORTS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_an_export_becomes_a_list(videos, tmp_path, capsys, form, files, expected):
    assert run(videos, tmp_path, form, files) == 0
    assert read(tmp_path) == expected
    assert (tmp_path / "lists" / "labels.txt").read_text().split() == ["fall", "run", "walk"]
    assert "warning" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("video", "names"),
    [
        ("/data/upload/3/0a1b2c3d-a.mp4", {"0a1b2c3d-a.mp4", "a.mp4"}),
        ("20260101-a.mp4", {"20260101-a.mp4"}),
        ("/mine/take #2.mp4", {"take #2.mp4"}),
        ("D:\\mine\\a?.mp4", {"a?.mp4"}),
        ("./a%20b.mp4", {"a%20b.mp4", "a b.mp4"}),
        ("https://host/a%20b.mp4?token=1", {"a b.mp4"}),
        ("/data/local-files/?d=mine/b.mp4", {"b.mp4"}),
    ],
)
def test_a_video_is_looked_for_under_no_other_name(video, names):
    assert {name for name in possible_names(video) if "/" not in name and "\\" not in name} == names


def test_the_given_names_number_the_classes_and_an_unknown_label_is_named(videos, tmp_path, capsys):
    (tmp_path / "classes.txt").write_text("walk\nrun\nfall\n")
    words = ["--labels", str(tmp_path / "classes.txt")]
    assert run(videos, tmp_path, "createml", {"a.csv": CREATE_ML}, *words) == 0
    assert [record.target for record in read_list(tmp_path / "lists" / "train.csv")[0]] == [0, 1, 2]
    (tmp_path / "classes.txt").write_text("walk\nrun\n")
    assert run(videos, tmp_path, "createml", {"a.csv": CREATE_ML}, *words, "--overwrite") == 1
    assert 'a.csv, line 4: label "fall" is not in the file of --labels' in capsys.readouterr().err


def test_overlaps_gaps_and_ends_beyond_the_video_are_named(videos, tmp_path, capsys):
    rows = "video,label,start,end\na.mp4,walk,0,2\na.mp4,run,1.5,3\na.mp4,walk,3.5,9\nb.mp4,run,1,2\nc.mp4,run,1,2\n"
    assert run(videos, tmp_path, "createml", {"a.csv": rows}, "--gaps") == 0
    said = capsys.readouterr().out
    assert "a.csv, line 3: a.mp4: its segment 1.5 to 3 s overlaps with 0 to 2 s of" in said
    assert "a.csv, line 5: b.mp4: no segment covers 0 to 1 s" in said
    missing = (tmp_path / "lists" / "missing.txt").read_text()
    assert "a.csv, line 4): has 4.00 s, but the segment is 3.5 to 9 s" in missing
    assert "c.mp4" in missing and "a.csv, line 6): there is no such file" in missing


def test_segments_of_frame_folders_are_in_their_frames(tmp_path, capsys):
    (tmp_path / "videos" / "a").mkdir(parents=True)
    for number in range(1, 11):
        Image.new("RGB", (8, 8)).save(tmp_path / "videos" / "a" / f"img_{number:05}.jpg")
    rows = "path,start_frame,end_frame,label,name\na,0,10,0,walk\na,5,11,0,run\n"
    assert run(tmp_path / "videos", tmp_path, "timeline", {"a.csv": rows}) == 0
    assert read(tmp_path) == {("a", 0, 10, "walk")}
    missing = (tmp_path / "lists" / "missing.txt").read_text()
    assert "has 10 frames, but the segment is 5 to 11 (frames)" in missing
    assert run(tmp_path / "videos", tmp_path, "createml", {"a.csv": CREATE_ML.replace("a.mp4", "a")}) == 1
    assert "a folder of frames has no seconds" in capsys.readouterr().err


def test_all_segments_of_a_film_stay_in_one_split(tmp_path):
    for name in "abcdef":
        (tmp_path / "videos").mkdir(exist_ok=True)
        (tmp_path / "videos" / f"{name}.mp4").touch()
    rows = [f"{name}.mp4,{label},{start},{start + 1}" for name in "abcdef" for start, label in enumerate("xyxyz")]
    text = "\n".join(["video,label,start,end", *rows]) + "\n"
    assert run(tmp_path / "videos", tmp_path, "createml", {"a.csv": text}, "--val_share", "0.3") == 0
    lists = [read_list(tmp_path / "lists" / f"{split}.csv")[0] for split in ("train", "val")]
    train, val = ({record.path for record in records} for records in lists)
    assert train and val and not train & val and sum(map(len, lists)) == 30


@pytest.mark.parametrize(
    ("form", "content", "said"),
    [
        ("label_studio", [{"id": 7, "data": {"text": "x"}, "annotations": []}], "task 7 has no video"),
        ("label_studio", [LABEL_STUDIO_MIN[0], LABEL_STUDIO_MIN[0]], "task 1 has several annotations"),
        ("label_studio", {"a": 1}, "should contain a JSON array"),
        (
            "label_studio",
            [LABEL_STUDIO[0], LABEL_STUDIO[1] | {"annotations": None}],
            "not built as an export of label_studio, at or after",
        ),
        (
            "label_studio",
            [label_studio_task(4, "a.mp4", [timeline_region(7, 1, 9)])],
            "task 4: video and label should be strings",
        ),
        ("cvat", "<annotations><meta><project/></meta></annotations>", "export of a project"),
        ("cvat", "<images/>", "begins with <images>"),
        (
            "cvat",
            CVAT_TRACKS["a.xml"].replace(">39<", ">x<"),
            "not built as an export of cvat, at or after its beginning",
        ),
        ("cvat", CVAT_TRACKS["a.xml"].replace("<frame_filter>", "<frame_filter>step=5"), "skips frames"),
        ("cvat", CVAT_JOBS["a.xml"].replace("<frame_filter>", "<frame_filter>step=5"), "skips frames"),
        ("via", {"_via_settings": {}}, "is not a project of VIA 3"),
        ("via", VIA | {"metadata": []}, "not built as an export of via, at or after its beginning"),
        ("via", VIA | {"view": {}}, "metadata 1_aB3: its file is not in the project"),
        (
            "via",
            VIA | {"metadata": {"1_aB3": {"vid": "1", "z": [0, 2], "xy": [], "av": {"1": "0,1"}}}},
            "several options, 0,1",
        ),
        ("elan", ELAN["a.eaf"].replace(' TIME_VALUE="2500"', ""), "annotation a1 has no time"),
        ("elan", ELAN["a.eaf"].replace("2000", "0"), "annotation a0: the segment ends at 0.0, not after its start"),
        (
            "fiftyone",
            {"classes": ["x"], "labels": {"a": [{"label": 3, "support": [1, 9]}]}},
            "a, label 1 lacks a label",
        ),
        ("createml", "name,label\n", "line 1: a column of videos"),
        ("createml", CREATE_ML.replace("startTime", "begin"), "columns of times are begin, endtime"),
        (
            "createml",
            CREATE_ML.replace("startTime", "begins").replace("endTime", "ends"),
            "columns of times are begins",
        ),
        ("createml", CREATE_ML.replace("2.5", "x"), "line 3: start and end should be numbers, not x"),
        ("timeline.json", [{"segments": []}], "entry 1 names no path"),
        ("timeline.json", [TIMELINE_JSON[0], {"path": "b.mp4", "segments": 3}], "videos/a.mp4, segment 2: "),
        ("timeline", "path,start,end,label\na.mp4,0,1,2\n", "line 2 has no name"),
    ],
)
def test_faults_are_named(videos, tmp_path, capsys, form, content, said):
    form, dot, suffix = form.partition(".")
    assert run(videos, tmp_path, form, {"file" + dot + suffix: content}) == 1
    assert said in capsys.readouterr().err
