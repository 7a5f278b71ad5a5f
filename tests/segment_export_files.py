"""The same segments as exports of the programs that label them, small and of the structure that each writes."""

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
