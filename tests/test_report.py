"""The report of real videos: its pictures, what it says, that it needs nobody else and never costs a result."""

import base64
import csv
import html
import io
import json
import logging
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, CHROMIUM_FLAGS
from engine_standins import TinyModel, classify
from PIL import Image
from video_files import numbered_frames, write_video

import reports.page
from datasets.arguments import DataSettings
from datasets.build import build_dataset, build_loader
from engines.objectives.class_statistics import most_confused, per_class
from engines.runner import run_test, start_run
from engines.settings import RunSettings
from reports.best_effort import try_to_report
from reports.page import read_log, write_report
from reports.verdict import judge
from run_class_finetuning import get_parser
from tools.report import main as report_tool

NAMES = ["walk", "<b>run</b> & jump", "swim"]
LOG = [
    {
        "epoch": 0,
        "train_loss": 1.5,
        "val_loss": 1.2,
        "val_acc1": 40.0,
        "best_acc1": 40.0,
        "train_lr": 1e-3,
        "train_clips_per_second": 7.0,
    },
    {
        "epoch": 1,
        "train_loss": None,
        "val_loss": 1.0,
        "val_acc1": 30.0,
        "best_acc1": 40.0,
        "train_lr": 1e-4,
        "train_clips_per_second": 9.0,
    },
]


def moving_bar(count):
    """Frames that differ: an encoder may join equal ones."""
    frames = numbered_frames(count, 32, 48)
    for i, frame in enumerate(frames):
        frame[:, 3 * i : 3 * i + 8] = 255
    return frames


@pytest.fixture(scope="module")
def tested_run(tmp_path_factory):
    """The output folder of a test of nine videos, one of them damaged; the model is random."""
    folder = tmp_path_factory.mktemp("run")
    lines = []
    for i in range(9):
        write_video(folder / f"video {i}.mp4", moving_bar(8 + i))
        lines.append(f"video {i}.mp4,{i % 3}\n")
    (folder / "video 4.mp4").write_bytes(b"not a video")
    (folder / "test.csv").write_text("".join(lines))
    (folder / "log.txt").write_text("".join(json.dumps(record) + "\n" for record in LOG))
    flags = get_parser().parse_args([
        "--eval", "--device", "cpu", "--no_bf16", "--num_workers", "0", "--batch_size", "4", "--num_frames", "4",
        "--sampling_rate", "1", "--input_size", "16", "--short_side_size", "16", "--test_num_segment", "1",
        "--test_num_crop", "1", "--nb_classes", "3", "--data_path", str(folder), "--data_root", str(folder),
        "--output_dir", str(folder / "out"),
    ])  # fmt: skip
    context, args = start_run(RunSettings.of(flags))
    (folder / "out" / "log.txt").write_text((folder / "log.txt").read_text())
    (folder / "out" / "args.json").write_text(json.dumps(args.flags))
    settings = DataSettings.from_flags(flags)
    dataset = build_dataset("test", settings)
    run_test(classify(TinyModel()), build_loader(dataset, "test", settings), args, context)
    try_to_report(args.output_dir, dataset)
    return folder / "out"


def pictures(page: Path) -> list[Image.Image]:
    found = re.findall(r'src="data:image/webp;base64,([^"]+)"', page.read_text())
    return [Image.open(io.BytesIO(base64.b64decode(content))) for content in found]


def test_results_hold_what_the_page_shows(tested_run):
    results = json.loads((tested_run / "results.json").read_text())
    rows = results["predictions"]
    assert [row["line"] for row in rows] == [1, 2, 3, 4, 6, 7, 8, 9], "line 5 is damaged"
    assert np.mean([row["label"] == row["prediction"] for row in rows]) * 100 == pytest.approx(results["top1"])
    scores = np.load(tested_run / "scores.npz")
    assert scores["scores"].argmax(1).tolist() == [row["prediction"] for row in rows]
    assert scores["line"].tolist() == [row["line"] for row in rows]
    np.testing.assert_allclose(scores["scores"].max(1), [row["confidence"] for row in rows], atol=1e-5)
    assert results["worst_mistakes"][0]["path"].endswith(f"video {results['worst_mistakes'][0]['line'] - 1}.mp4")
    assert {"ece", "bins"} <= results["calibration"].keys() and len(results["per_class"]) == 3


def test_page_shows_clips_stills_and_the_excluded_file(tested_run):
    page = tested_run / "report.html"
    text = page.read_text()
    animated = [picture for picture in pictures(page) if getattr(picture, "n_frames", 1) > 1]
    mistakes = json.loads((tested_run / "results.json").read_text())["worst_mistakes"]
    assert len(animated) == len(mistakes) > 0 and {picture.n_frames for picture in animated} == {4}
    assert sum(picture.format == "WEBP" for picture in pictures(page)) > len(animated), "pairs have stills"
    assert "video 4.mp4" in text and "damaged" in text
    assert "no picture" not in text
    assert (tested_run / "training_curve.png").is_file() and (tested_run / "confusion_matrix.png").is_file()


def test_page_names_no_other_address(tested_run):
    text = (tested_run / "report.html").read_text()
    addresses = re.findall(r'(?:src|href|url)\s*[=(]\s*"?([^">)]*)', text)
    assert addresses and all(address.startswith(("data:", "#")) for address in addresses)


@pytest.mark.slow
def test_tool_makes_the_page_again_without_a_model(tested_run, tmp_path, capsys):
    names = tmp_path / "names.txt"
    names.write_text("\n".join(NAMES) + "\n")
    assert report_tool([str(tested_run), "--label_names", str(names)]) == 0
    out, err = capsys.readouterr()
    assert "chance 33.33 %" in out and "8 videos x 1 views, 1 excluded" in out and not err
    text = (tested_run / "report.html").read_text()
    assert "&lt;b&gt;run&lt;/b&gt; &amp; jump" in text and "<b>run</b>" not in text
    assert any(getattr(picture, "n_frames", 1) > 1 for picture in pictures(tested_run / "report.html"))
    names.write_text("one\n")
    assert report_tool([str(tested_run), "--label_names", str(names)]) == 1
    assert "1 label names and 3 classes" in capsys.readouterr().err


@pytest.mark.slow
def test_pictures_are_of_the_list_that_was_tested_or_there_are_none(tested_run, tmp_path, capsys):
    copy = shutil.copytree(tested_run.parent, tmp_path / "copy")
    for name in ("results.json", "args.json"):
        file = copy / "out" / name
        file.write_text(file.read_text().replace(str(tested_run.parent), str(copy)))
    (copy / "video 0.mp4").unlink()
    assert report_tool([str(copy / "out")]) == 0
    assert not capsys.readouterr().err, "the same list under another root"
    results = copy / "out" / "results.json"
    (copy / "test.csv").rename(copy / "val.csv")
    results.write_text(results.read_text().replace("test.csv", "val.csv"))
    (copy / "test.csv").write_text("video 1.mp4,0\n")
    assert report_tool([str(copy / "out")]) == 0
    assert not capsys.readouterr().err, "a run of images tests val.csv, also beside a test.csv"
    (copy / "val.csv").replace(copy / "test.csv")
    results.write_text(results.read_text().replace("val.csv", "test.csv"))
    (copy / "test.csv").write_text((copy / "test.csv").read_text().replace("video 1.mp4,1", "video 1.mp4,2"))
    assert report_tool([str(copy / "out")]) == 0
    assert "is not the list that was tested" in capsys.readouterr().err
    assert not [p for p in pictures(copy / "out" / "report.html") if p.format == "WEBP"]


def test_a_failing_report_costs_no_result(tested_run, monkeypatch, caplog):
    def fail(*arguments):
        raise RuntimeError("no ink")

    monkeypatch.setattr(reports.page, "write_report", fail)
    caplog.set_level(logging.WARNING)
    try_to_report(str(tested_run), None)
    assert "no ink" in caplog.text and f"python -m tools.report {tested_run}" in caplog.text


def test_report_of_training_alone(tmp_path):
    (tmp_path / "log.txt").write_text("".join(json.dumps(record) + "\n" for record in LOG))
    text = write_report(tmp_path).read_text()
    assert "Training" in text and "8.0 clips/s" in text and "Worst mistakes" not in text
    assert re.search(r"date</dt> <dd>\d{4}-\d\d-\d\d", text)
    assert "best validation\n    top-1 (%) 40." in text


def test_log_of_a_killed_and_resumed_run(tmp_path, caplog):
    path = tmp_path / "log.txt"
    path.write_text('{"epoch": 0, "a": 1}\n{"epoch": 1, "a": 2}\n{"epoch": 1, "a"\n{"epoch": 1, "a": 3}\n')
    assert read_log(path) == [{"epoch": 0, "a": 1}, {"epoch": 1, "a": 3}]
    assert "line 3" in caplog.text


def test_a_folder_of_no_run_says_so(tmp_path, capsys):
    assert report_tool([str(tmp_path)]) == 1
    assert "neither results.json nor log.txt" in capsys.readouterr().err


def test_many_classes_stay_usable(tested_run, tmp_path):
    results = json.loads((tested_run / "results.json").read_text())
    rng, classes = np.random.default_rng(0), 400
    counts = np.diag(rng.integers(0, 30, classes)) + (rng.random((classes, classes)) > 0.99)
    rows = [
        {"label": i, "videos": 1, "predicted": 0, "recall": 0.5, "precision": None, "f1": 0} for i in range(classes)
    ]
    results |= {"classes": classes, "confusion_matrix": counts.tolist(), "per_class": rows}
    (tmp_path / "results.json").write_text(json.dumps(results))
    page = write_report(tmp_path)
    assert page.stat().st_size < 2**20
    assert min(Image.open(tmp_path / "confusion_matrix.png").size) >= 2 * classes


@pytest.mark.parametrize(
    ("counts", "level", "sentence"),
    [
        ([[6, 0, 0], [5, 0, 0], [5, 0, 0]], "bad",
         "37.5 %: no better than the majority class (37.5 %); every video was called walk."),
        ([[4, 2, 0], [2, 3, 0], [3, 2, 0]], "weak",
         "43.8 %: barely above the majority class (37.5 %), which may be chance with 16 videos."),
        ([[50, 0, 0], [5, 45, 0], [0, 10, 40]], "good", "90.0 %: clearly above the majority class (33.3 %)."),
        ([[5, 0, 0], [0, 5, 0], [0, 0, 5]], "good", "100.0 %: every video was classified correctly."),
        ([[5, 0, 0], [0, 0, 0], [0, 0, 0]], "weak",
         "100.0 %: all videos are of one class, walk, so this cannot tell good from bad."),
        ([[0, 6, 0], [0, 2, 0], [0, 4, 0]], "bad",
         "16.7 %: below the majority class (50.0 %); every video was called <b>run</b> & jump."),
    ],
)  # fmt: skip
def test_the_verdict_says_in_words_what_an_accuracy_is_worth(counts, level, sentence):
    verdict = judge(np.array(counts), NAMES)
    assert verdict.sentence == sentence and verdict.level == level


def test_the_interval_of_an_accuracy_is_wilsons():
    """By hand for 6 of 16: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n), z = 1.96."""
    verdict = judge(np.array([[6, 0], [10, 0]]), "ab")
    assert (verdict.low, verdict.high) == (pytest.approx(18.48, abs=0.01), pytest.approx(61.36, abs=0.01))
    assert (verdict.chance, verdict.majority, verdict.majority_name) == (50, 62.5, "b")


def visible(text):
    """The words of a page."""
    return " ".join(
        html.unescape(re.sub(r"<style.*?</style>|<script.*?</script>|<[^>]*>", " ", text, flags=re.S)).split()
    )


def test_the_page_begins_with_what_was_tested_and_the_verdict(tested_run):
    words = visible((tested_run / "report.html").read_text())
    order = ["date 20", "data set custom", "checkpoint random, untrained", "majority class", "top-1, 95 % interval",
             "Confusion matrix", "Classes", "Worst mistakes", "Training", "Calibration", "Excluded files"]  # fmt: skip
    places = [words.index(word) for word in order]
    assert places == sorted(places)
    assert "top-5" not in words, "of three classes"
    assert re.search(r"line \d: video \d\.mp4", words), "paths start from --data_root"


def test_every_table_comes_as_csv(tested_run):
    text = (tested_run / "report.html").read_text()
    results = json.loads((tested_run / "results.json").read_text())
    files = dict(re.findall(r'download="(\w+).csv" href="data:text/csv;base64,([^"]*)"', text))
    tables = {
        name: list(csv.DictReader(io.StringIO(base64.b64decode(content).decode()))) for name, content in files.items()
    }
    assert tables.keys() == {
        "confusion_matrix", "classes", "confused_pairs", "mistakes", "calibration", "excluded", "epochs",
    }  # fmt: skip
    assert [float(row["recall"]) for row in tables["classes"]] == [row["recall"] for row in results["per_class"]]
    assert sum(int(row["videos"]) for row in tables["confusion_matrix"]) == results["videos"]
    assert tables["excluded"][0]["path"] == "video 4.mp4" and tables["epochs"][1]["train_loss"] == ""


def test_cards_without_content_are_left_out(tested_run, tmp_path):
    results = json.loads((tested_run / "results.json").read_text())
    counts = np.diag([3, 3, 2])
    results |= {"confusion_matrix": counts.tolist(), "most_confused": [], "worst_mistakes": [], "excluded": []}
    (tmp_path / "results.json").write_text(json.dumps(results))
    words = visible(write_report(tmp_path).read_text())
    assert "every video was classified correctly" in words
    assert not [title for title in ("Excluded", "Most confused", "Worst mistakes", "Training") if title in words]


def made_up_results(tested_run, kind):
    """results.json of 4 or 400 classes that a model tells apart, or calls all the same."""
    results = json.loads((tested_run / "results.json").read_text())
    classes = 4 if "few" in kind else 400
    rng = np.random.default_rng(0)
    counts = np.diag(rng.integers(5, 30, classes)) + (rng.random((classes, classes)) > (0.6 if classes == 4 else 0.98))
    if "failure" in kind:
        counts = np.eye(1, classes, 1, dtype=int) * counts.sum(1, keepdims=True)
    names = [f"a class with a rather long name {label}" for label in range(classes)]
    pairs = np.repeat(np.indices(counts.shape).reshape(2, -1), counts.flatten().astype(int), axis=1)
    return results | {
        "classes": classes, "confusion_matrix": counts.tolist(), "label_names": names, "videos": int(counts.sum()),
        "top1": 100 * counts.trace() / counts.sum(), "per_class": per_class(*pairs, classes),
        "most_confused": most_confused(counts),
    }  # fmt: skip


@pytest.fixture(scope="module")
def chromium():
    if CHROMIUM is None:
        pytest.skip("needs a browser: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright to drive a browser")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.mark.processes
@pytest.mark.parametrize("kind", ["few success", "few failure", "many success", "many failure"])
def test_the_page_fits_phones_and_desks_by_day_and_night(chromium, tested_run, tmp_path, kind):
    for name in ("log.txt", "args.json"):
        shutil.copy(tested_run / name, tmp_path)
    (tmp_path / "results.json").write_text(json.dumps(made_up_results(tested_run, kind)))
    address = write_report(tmp_path).as_uri()
    grounds, asked = set(), []
    page = chromium.new_page()
    page.on("request", lambda request: asked.append(request.url))
    for width, scheme in ((1280, "light"), (390, "light"), (390, "dark"), (1280, "dark")):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        asked.clear()
        page.goto(address)
        page.wait_for_function("[...document.images].every((image) => image.complete)")
        assert page.evaluate("document.documentElement.scrollWidth") == width, "nothing sticks out"
        assert page.evaluate("[...document.images].every((image) => image.naturalWidth)")
        assert [url for url in asked if not url.startswith("data:")] == [address]
        verdict = page.locator(".verdict")
        assert verdict.bounding_box()["y"] < 420, "seen without scrolling"
        assert ("clearly above" in verdict.inner_text()) == ("success" in kind)
        assert ("every video was called" in verdict.inner_text()) == ("failure" in kind)
        assert ("top-5" in page.inner_text(".figures")) == ("many" in kind)
        grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    page.close()
    assert len(grounds) == 2, "dark mode is dark"


@pytest.mark.processes
def test_page_in_a_browser_without_a_network(chromium, tested_run, tmp_path):
    page = chromium.new_page(viewport={"width": 1200, "height": 900})
    page.context.set_offline(True)
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((tested_run / "report.html").resolve().as_uri())
    page.wait_for_function("[...document.images].every((image) => image.complete)")
    assert page.evaluate("[...document.images].filter((image) => !image.naturalWidth).length") == 0
    assert not [url for url in requests if not url.startswith(("file:", "data:"))] and not complaints
    column = page.locator("#classes tbody td:first-child")
    page.locator("#classes th").first.click()
    page.locator("#classes th").first.click()
    assert column.all_inner_texts() == ["2", "1", "0"]
    page.locator("#classes input").fill("no such class")
    assert page.locator("#classes tbody tr:visible").count() == 0
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    page.close()
    shown = np.asarray(Image.open(tmp_path / "page.png").convert("L"))
    assert shown.shape[0] > 1500 and shown.std() > 10, "a page with something on it"
