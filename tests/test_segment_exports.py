"""Segments labelled in other programs: small exports of the structure that each writes, as lists of segments."""

import json

import pytest
from PIL import Image
from video_files import numbered_frames, write_video

from datasets.annotations import read_list
from datasets.preparation.segment_exports.stretches import possible_names
from tools.make_lists import main

# The same labels in every program: walk and run in a.mp4, fall in b.mp4, at 10 frames a second.
SECONDS = {("a.mp4", 0.0, 2.0, "walk"), ("a.mp4", 2.5, 4.0, "run"), ("b.mp4", 1.0, 3.0, "fall")}
FRAMES = {(path, int(10 * start), int(10 * end), label) for path, start, end, label in SECONDS}


def timeline_region(label, first, last):
    return {
        "value": {"ranges": [{"start": first, "end": last}], "timelinelabels": [label]},
        "id": f"{label}1",
        "from_name": "videoLabels",
        "to_name": "video",
        "type": "timelinelabels",
        "origin": "manual",
    }


def label_studio_task(number, video, regions):
    annotation = {"id": 9, "completed_by": 1, "result": regions, "was_cancelled": False, "ground_truth": False}
    return {"id": number, "annotations": [annotation], "predictions": [], "data": {"video": video}, "project": 3}


LABEL_STUDIO = [
    label_studio_task(
        1, "/data/upload/3/0a1b2c3d-a.mp4", [timeline_region("walk", 1, 20), timeline_region("run", 26, 40)]
    ),
    label_studio_task(2, "/data/local-files/?d=mine/b.mp4", [timeline_region("fall", 11, 30)]),
]
LABEL_STUDIO_MIN = [
    {
        "id": 1,
        "video": "https://host/a.mp4",
        "videoLabels": [
            {"ranges": [{"start": 1, "end": 20}], "timelinelabels": ["walk"]},
            {"ranges": [{"start": 26, "end": 40}], "timelinelabels": ["run"]},
        ],
        "tags": ["indoors"],
        "annotator": 1,
        "lead_time": 7.3,
    },
    {"id": 2, "video": "b.mp4", "videoLabels": [{"ranges": [{"start": 11, "end": 30}], "timelinelabels": ["fall"]}]},
]
LABEL_STUDIO_SOUND = [
    label_studio_task(
        number,
        video,
        [
            {"type": "labels", "value": {"start": start, "end": end, "channel": 0, "labels": [label]}}
            for path, start, end, label in sorted(SECONDS)
            if path == video
        ],
    )
    for number, video in enumerate(("a.mp4", "b.mp4"))
]
CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <task><id>5</id><name>walks</name><size>{size}</size><mode>interpolation</mode>
      <start_frame>0</start_frame><stop_frame>{stop}</stop_frame><frame_filter></frame_filter>
      <labels><label><name>walk</name><type>any</type></label></labels><source>{video}</source></task>
    <dumped>2026-01-01 10:00:00+00:00</dumped>
  </meta>
  {content}
</annotations>
"""
SHAPE = '<box frame="{0}" outside="{1}" occluded="0" keyframe="1" xtl="0" ytl="0" xbr="9" ybr="9" z_order="0"></box>'


def cvat_track(number, label, *shapes):
    boxes = "".join(SHAPE.format(frame, outside) for frame, outside in shapes)
    return f'<track id="{number}" label="{label}" source="manual">{boxes}</track>'


def cvat_tags(label, frames, name="frame_{:06}", first=0):
    return "".join(
        f'<image id="{i}" name="{name.format(i + first)}" width="96" height="64">'
        f'<tag label="{label}" source="manual"/></image>'
        for i in frames
    )


CVAT_TRACKS = {
    "a.xml": CVAT.format(
        size=40,
        stop=39,
        video="a.mp4",
        content=cvat_track(0, "walk", (0, 0), (9, 0), (20, 1)) + cvat_track(1, "run", (25, 0)),
    ),
    "b.xml": CVAT.format(size=40, stop=39, video="b.mp4", content=cvat_track(0, "fall", (10, 0), (30, 1))),
}
CVAT_JOBS = {  # the export of a job; a video's name stands beside it
    name: text.replace("task>", "job>")
    .replace("<name>walks</name>", "")
    .replace(f"<source>{video}</source></job>", f"</job><source>{video}</source>")
    for (name, text), video in zip(CVAT_TRACKS.items(), ("a.mp4", "b.mp4"), strict=True)
}
CVAT_TAGS = {
    "a.xml": CVAT.format(
        size=40, stop=39, video="a.mp4", content=cvat_tags("walk", range(20)) + cvat_tags("run", range(25, 40))
    ),
    "b.xml": CVAT.format(
        size=40, stop=39, video="b.mp4", content=cvat_tags("fall", range(10, 30), "img_{:05}.jpg", first=1)
    ),
}
# A timeline that was added by its name ("fall") is stored by that name, options of an attribute by their keys.
VIA = {
    "project": {
        "pid": "__VIA_PROJECT_ID__",
        "rev": "__VIA_PROJECT_REV_ID__",
        "rev_timestamp": "__VIA_PROJECT_REV_TIMESTAMP__",
        "pname": "walks",
        "data_format_version": "3.1.1",
        "creator": "VGG Image Annotator (http://www.robots.ox.ac.uk/~vgg/software/via)",
        "created": 1767261600000,
        "vid_list": ["1", "2"],
    },
    "config": {
        "file": {"loc_prefix": {"1": "", "2": "", "3": "", "4": ""}},
        "ui": {"file_content_align": "center", "gtimeline_visible_row_count": "4"},
    },
    "attribute": {
        "1": {
            "aname": "TEMPORAL-SEGMENTS",
            "anchor_id": "FILE1_Z2_XY0",
            "type": 4,
            "desc": "Temporal segment attribute added by default",
            "options": {"default": "Default", "0": "walk", "1": "run"},
            "default_option_id": "",
        },
        "2": {
            "aname": "person",
            "anchor_id": "FILE1_Z1_XY1",
            "type": 1,
            "desc": "",
            "options": {},
            "default_option_id": "",
        },
    },
    "file": {
        "1": {"fid": "1", "fname": "a.mp4", "type": 4, "loc": 1, "src": ""},
        "2": {"fid": "2", "fname": "b.mp4", "type": 4, "loc": 1, "src": ""},
    },
    "metadata": {
        "1_aB3": {"vid": "1", "flg": 0, "z": [0, 2.0], "xy": [], "av": {"1": "0"}},
        "1_x9Q": {"vid": "1", "flg": 0, "z": [2.5, 4], "xy": [], "av": {"1": "1"}},
        "1_box": {"vid": "1", "flg": 0, "z": [1.2], "xy": [2, 10, 10, 20, 20], "av": {"2": "Ann"}},
        "2_k2L": {"vid": "2", "flg": 0, "z": [1, 3], "xy": [], "av": {"1": "fall"}},
    },
    "view": {"1": {"fid_list": ["1"]}, "2": {"fid_list": ["2"]}},
}
EAF = """<?xml version="1.0" encoding="UTF-8"?>
<ANNOTATION_DOCUMENT AUTHOR="" DATE="2026-01-01T10:00:00+00:00" FORMAT="3.0" VERSION="3.0"
    xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
    xsi:noNamespaceSchemaLocation="http://www.mpi.nl/tools/elan/EAFv3.0.xsd">
  <HEADER MEDIA_FILE="" TIME_UNITS="milliseconds">
    <MEDIA_DESCRIPTOR EXTRACTED_FROM="file:///home/me/{video}" MEDIA_URL="file:///home/me/sound.wav"
        MIME_TYPE="audio/x-wav" RELATIVE_MEDIA_URL="./sound.wav"/>
    <MEDIA_DESCRIPTOR MEDIA_URL="file:///home/me/{video}" MIME_TYPE="video/mp4" RELATIVE_MEDIA_URL="./{video}"/>
    <PROPERTY NAME="lastUsedAnnotationId">2</PROPERTY>
  </HEADER>
  <TIME_ORDER>{slots}</TIME_ORDER>
  <TIER LINGUISTIC_TYPE_REF="default-lt" TIER_ID="action">{annotations}</TIER>
  <TIER LINGUISTIC_TYPE_REF="note" PARENT_REF="action" TIER_ID="comment">
    <ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a9" ANNOTATION_REF="a0">
      <ANNOTATION_VALUE>in the dark</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION>
  </TIER>
  <TIER LINGUISTIC_TYPE_REF="default-lt" TIER_ID="empty"/>
  <LINGUISTIC_TYPE GRAPHIC_REFERENCES="false" LINGUISTIC_TYPE_ID="default-lt" TIME_ALIGNABLE="true"/>
  <LINGUISTIC_TYPE CONSTRAINTS="Symbolic_Association" GRAPHIC_REFERENCES="false" LINGUISTIC_TYPE_ID="note"
      TIME_ALIGNABLE="false"/>
  <CONSTRAINT DESCRIPTION="1-1 association with a parent annotation" STEREOTYPE="Symbolic_Association"/>
</ANNOTATION_DOCUMENT>
"""
ANNOTATION = (
    '<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a{0}" TIME_SLOT_REF1="ts{0}0" TIME_SLOT_REF2="ts{0}1">'
    "<ANNOTATION_VALUE>{1}</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>"
)


def eaf(video, *stretches):
    slots = "".join(
        f'<TIME_SLOT TIME_SLOT_ID="ts{i}{j}" TIME_VALUE="{time}"/>'
        for i, (_, *times) in enumerate(stretches)
        for j, time in enumerate(times)
    )
    annotations = "".join(ANNOTATION.format(i, label) for i, (label, _, _) in enumerate(stretches))
    return EAF.format(video=video, slots=slots, annotations=annotations)


ELAN = {
    "a.eaf": eaf("a.mp4", ("walk", 0, 2000), ("run", 2500, 4000)),
    "b.eaf": eaf("b.mp4", ("fall", 1000, 3000)),
}
FIFTYONE = {
    "classes": ["fall", "run", "walk"],
    "labels": {
        "a": [
            {"label": 2, "support": [1, 20], "confidence": 0.9, "attributes": {"view": "left"}},
            {"label": 1, "support": [26, 40]},
        ],
        "b": [{"label": 0, "support": [11, 30]}],
        "unlabelled": None,
    },
}
FIFTYONE_TIMES = {
    "classes": None,
    "labels": {
        "a": [{"label": "walk", "timestamps": [0, 2.0]}, {"label": "run", "timestamps": [2.5, 4.0]}],
        "b": [{"label": "fall", "timestamps": [1.0, 3.0]}],
    },
}
CREATE_ML = "videoPath,label,startTime,endTime\na.mp4,walk,,2.0\na.mp4,run,2.5,4\nb.mp4,fall,1,3\n"
TIMELINE = "path,start,end,label,name,confidence\na.mp4,0,2,7,walk,0.9\na.mp4,2.5,4,3,run,0.8\nb.mp4,1,3,1,fall,0.7\n"
TIMELINE_JSON = [
    {
        "path": "videos/a.mp4",
        "unit": "seconds",
        "segments": [
            {"start": 0.0, "end": 2.0, "label": 7, "confidence": 0.9, "name": "walk"},
            {"start": 2.5, "end": 4.0, "label": 3, "confidence": 0.8, "name": "run"},
        ],
    },
    {
        "path": "videos/b.mp4",
        "unit": "seconds",
        "segments": [{"start": 1.0, "end": 3.0, "label": 1, "confidence": 0.7, "name": "fall"}],
    },
    {"path": "videos/broken.mp4", "error": "it is not a video"},
]
EXPORTS = [
    ("label_studio", {"export.json": LABEL_STUDIO}, FRAMES),
    ("label_studio", {"export.json": LABEL_STUDIO_MIN}, FRAMES),
    ("label_studio", {"export.json": LABEL_STUDIO_SOUND}, SECONDS),
    ("cvat", CVAT_TRACKS, FRAMES),
    ("cvat", CVAT_JOBS, FRAMES),
    ("cvat", CVAT_TAGS, FRAMES),
    ("via", {"project.json": VIA}, SECONDS),
    ("elan", ELAN, SECONDS),
    ("fiftyone", {"labels.json": FIFTYONE}, FRAMES),
    ("fiftyone", {"labels.json": FIFTYONE_TIMES}, SECONDS),
    ("createml", {"annotations.csv": CREATE_ML}, SECONDS),
    ("timeline", {"segments.csv": TIMELINE}, SECONDS),
    ("timeline", {"segments.json": TIMELINE_JSON}, SECONDS),
]


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
