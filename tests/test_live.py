"""Live sources: the same numbers as from the file, dropped frames, sources that stall, end and come back, signals."""

import json
import logging
import os
import shutil
import signal
import socket
import threading
import time
import weakref

import av
import numpy as np
import pytest
from inference_files import CLASSES, OBJECTIVES, moving_frames, save_checkpoint_of
from video_files import write_video

import run_inference
from inference import load_predictor
from inference.frame_ring import FrameRing, Shown
from inference.live import LivePrediction
from inference.live_source import LiveSource, SourceError
from inference.timeline import follow

RATE = 25


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    """Eight scenes of 12 frames as a transport stream, each scene from a key frame."""
    frames = np.concatenate([moving_frames(12, seed=seed) for seed in range(8)])
    return write_video(tmp_path_factory.mktemp("stream") / "clip.ts", frames, tune="zerolatency")


@pytest.fixture
def fifo(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def feed(fifo, *files, then=lambda: None):
    """Write files into a FIFO, one after another, in a thread; each connection ends with its file."""

    def write():
        for file in files:
            with open(fifo, "wb") as target, open(file, "rb") as source:
                shutil.copyfileobj(source, target)
            then()

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    return thread


def live(predictor, source, **settings):
    return LivePrediction(predictor, str(source), **({"backlog": 1000, "timeout": 60, "stride": 4} | settings))


def records_of(prediction, count):
    """The first `count` records."""
    stopped, records = threading.Event(), []
    for record in prediction.records(stopped, count=7):
        records.append(record)
        if len(records) == count:
            stopped.set()
    return records


def probabilities(record):
    return [score["probability"] for score in sorted(record["top"], key=lambda score: score["label"])]


def test_a_fifo_gives_the_numbers_of_the_file(predictor, stream, fifo):
    curve = follow(predictor, predictor.open(str(stream)), stride=4).curve
    feed(fifo, stream)
    records = records_of(live(predictor, fifo), len(curve.starts))
    np.testing.assert_allclose([probabilities(record) for record in records], curve.probabilities, atol=1e-5)
    np.testing.assert_allclose([record["start"] for record in records], curve.starts / RATE, atol=1e-3)
    np.testing.assert_allclose([record["end"] for record in records], (curve.starts + 8) / RATE, atol=2e-3)
    assert np.ptp(curve.probabilities, axis=0).max() > 0.1, "the curve must move for this to show anything"
    assert all(record["dropped"] == 0 and record["latency"] >= 0 for record in records)


def test_a_model_of_several_labels_names_those_that_reach_its_threshold(stream, fifo, tmp_path):
    several = load_predictor(save_checkpoint_of("multilabel", tmp_path / "several.pth"), device="cpu")
    feed(fifo, stream)
    records = records_of(live(several, fifo), 4)
    threshold = OBJECTIVES["multilabel"]["decision_threshold"].item()
    for record in records:
        reached = {score["name"] for score in record["top"] if score["probability"] >= threshold}
        assert set(record["predicted"]) == reached and len(record["top"]) == CLASSES
    assert any(len(record["predicted"]) != 1 for record in records)


def free_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_udp_gives_windows_of_the_file(predictor, stream):
    """The first packets may come before the socket is open, so the windows may begin anywhere in the file."""
    address = f"udp://127.0.0.1:{free_port()}"
    done = threading.Event()

    def send():
        with av.open(str(stream)) as source, av.open(f"{address}?pkt_size=1316", "w", format="mpegts") as target:
            copy = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None and not done.wait(0.01):
                    packet.stream = copy
                    target.mux(packet)
        while not done.wait(0.05):  # what is probed and what is left in buffers needs more to follow
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as more:
                more.sendto(stream.read_bytes()[:1316], ("127.0.0.1", int(address.rpartition(":")[2])))

    curve = follow(predictor, predictor.open(str(stream)), stride=1).curve
    threading.Thread(target=send, daemon=True).start()
    try:
        records = records_of(live(predictor, address), 5)
    finally:
        done.set()
    misses = [np.abs(curve.probabilities - probabilities(record)).max(1) for record in records]
    places = [int(miss.argmin()) for miss in misses]
    assert max(miss.min() for miss in misses) < 1e-5 and np.diff(places).tolist() == [4] * 4


@pytest.fixture
def standard_input(stream, monkeypatch):
    with open(stream, "rb") as file:
        monkeypatch.setattr("sys.stdin", file)
        yield file


@pytest.mark.parametrize(("window", "stride", "rest"), [(0, 4, 0), (50, 40, 6), (97, 1, 96)])
def test_standard_input_ends_and_frames_too_few_for_a_window_are_told(
    predictor, stream, standard_input, caplog, window, stride, rest
):
    with caplog.at_level(logging.INFO):
        prediction = live(predictor, "-", window=window, stride=stride)
        rows = [probabilities(record) for record in prediction.records(threading.Event(), count=7)]
    if rest:
        assert f"- ended and its last {rest} frames fill no window" in caplog.text
    else:
        expected = follow(predictor, predictor.open(str(stream)), stride=4).curve.probabilities
        np.testing.assert_allclose(rows, expected, atol=1e-5)


def test_a_file_is_played_at_its_own_speed(predictor, tmp_path):
    clip = write_video(tmp_path / "clip.mp4", moving_frames(20))
    began = time.monotonic()
    assert len(list(live(predictor, clip, stride=6).records(threading.Event()))) == 3
    assert time.monotonic() - began >= 19 / RATE


def test_a_source_that_ends_and_comes_back_starts_anew(predictor, stream, fifo, caplog, monkeypatch):
    monkeypatch.setattr("inference.live_source.RETRY", 0.01)
    curve = follow(predictor, predictor.open(str(stream)), stride=4).curve
    count = len(curve.starts)

    def wait():
        while f"{fifo} ended" not in caplog.text:  # a writer that came before would continue the same stream
            time.sleep(0.05)
        time.sleep(0.3)

    feed(fifo, stream, stream, then=wait)
    prediction = live(predictor, fifo, timeout=0.1)
    records = records_of(prediction, 2 * count)
    rows = [probabilities(record) for record in records]
    np.testing.assert_allclose(rows, np.concatenate([curve.probabilities] * 2), atol=1e-5)
    assert records[count]["start"] > records[count - 1]["start"], "time goes on"
    assert f"{fifo} ended; waiting for it to come back" in caplog.text
    before, back, _ = caplog.text.partition(f"{fifo} is back after")
    assert back and before.count("waiting for it") == 1
    assert prediction.ring.dropped == 0


def test_a_writer_that_comes_before_the_reader_has_closed_loses_nothing(predictor, stream, fifo, monkeypatch):
    expected = follow(predictor, predictor.open(str(stream)), stride=4).curve.probabilities
    writers = []

    def miss(self, reason):
        if reason == "ended" and not writers:  # the first one has gone, and the next does not wait for a reader
            target = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
            os.set_blocking(target, True)

            def write():
                with open(target, "wb") as file:
                    file.write(stream.read_bytes())

            writers.append(threading.Thread(target=write, daemon=True))
            writers[0].start()

    monkeypatch.setattr(LiveSource, "_miss", miss)
    feed(fifo, stream)
    records = records_of(live(predictor, fifo, timeout=60), 2 * len(expected))
    np.testing.assert_allclose([probabilities(r) for r in records], np.concatenate([expected] * 2), atol=1e-5)


def test_a_silent_fifo_stays_open(predictor, stream, fifo, caplog):
    expected = follow(predictor, predictor.open(str(stream)), stride=4).curve.probabilities
    content = stream.read_bytes()
    told = threading.Event()

    def write():
        with open(fifo, "wb", buffering=0) as target:
            target.write(content[: len(content) // 2])
            while "has sent nothing for 0.4 s" not in caplog.text and not told.wait(0.05):
                pass
            target.write(content[len(content) // 2 :])

    threading.Thread(target=write, daemon=True).start()
    try:
        records = records_of(live(predictor, fifo, timeout=0.4), len(expected))
    finally:
        told.set()
    np.testing.assert_allclose([probabilities(record) for record in records], expected, atol=1e-5)
    silence = float(caplog.text.partition("is back after ")[2].split()[0])
    assert silence >= 0.4, "counted from the last frame, not from when it was missed"


def test_a_silent_stream_is_opened_again(predictor, caplog, monkeypatch):
    monkeypatch.setattr("inference.live_source.RETRY", 0.01)
    stopped, opened, connect = threading.Event(), [], LiveSource._open

    def open_and_count(source):
        opened.append(source)
        if len(opened) == 4:
            stopped.set()
        return connect(source)

    monkeypatch.setattr(LiveSource, "_open", open_and_count)
    assert list(live(predictor, f"udp://127.0.0.1:{free_port()}", timeout=0.2).records(stopped)) == []
    assert caplog.text.count("has sent nothing for 0.2 s") == 1


@pytest.mark.parametrize(
    ("source", "said"), [("{}/none.ts", "cannot read"), ("{}/text.ts", "Invalid"), ("tcp://127.0.0.1:1", "refused")]
)
def test_a_source_that_never_worked_is_an_error(predictor, tmp_path, source, said):
    (tmp_path / "text.ts").write_text("no video")
    with pytest.raises(SourceError, match=said):
        list(live(predictor, source.format(tmp_path)).records(threading.Event()))


def test_a_file_that_fails_half_way_is_an_error_after_its_windows(predictor, stream, monkeypatch):
    def decode(self, container):
        for number, frame in enumerate(whole(self, container)):
            if number == 30:
                raise av.InvalidDataError(1, "damaged")
            yield frame

    whole = LiveSource._decode
    monkeypatch.setattr(LiveSource, "_decode", decode)
    starts = []
    with pytest.raises(SourceError, match="damaged"):
        for record in live(predictor, stream, stride=2).records(threading.Event()):
            starts.append(record["start"])
    np.testing.assert_allclose(starts, np.arange(12) * 2 / RATE, atol=1e-3)


def ring_of(count, **settings):
    """A ring after `count` frames whose pictures hold their numbers; windows of 8 that read every second frame."""
    ring = FrameRing(**({"window": 8, "stride": 4, "sampled": np.arange(0, 8, 2), "backlog": 10} | settings))
    for number in range(count):
        ring.add(Shown(number / 10, 100 + number), lambda number=number: np.full(1, number))
    return ring


def numbers(window):
    return window.read([0, 2, 4, 6])[:, 0].tolist()


def test_windows_come_in_order_while_the_model_keeps_up():
    ring = ring_of(18)
    windows = [ring.take(0) for _ in range(4)]
    assert [numbers(window) for window in windows[:3]] == [[0, 2, 4, 6], [4, 6, 8, 10], [8, 10, 12, 14]]
    assert windows[3] is None and ring.dropped == 0
    assert (windows[1].start, windows[1].end, windows[1].arrival) == (0.4, pytest.approx(1.2), 111)


def test_a_slow_model_gets_the_newest_window_and_the_count_of_what_it_missed():
    ring = ring_of(19)  # one more than window and backlog
    window = ring.take(0)
    assert numbers(window) == [8, 10, 12, 14] and window.dropped == 8
    assert ring.take(0) is None, "the next window is not complete yet"
    assert (ring.dropped, ring.received, ring.windows) == (8, 19, 1)
    ring.lose()
    assert (ring.dropped, ring.received) == (9, 20), "counted at once, also if no window follows"
    for number in range(19, 21):
        ring.add(Shown(number / 10, 0), lambda number=number: np.full(1, number))
    assert ring.take(0).dropped == 1, "a damaged frame counts as dropped"


@pytest.mark.parametrize("backlog", [1, 3, 100])
@pytest.mark.parametrize("count", [8, 30, 57, 300])
@pytest.mark.parametrize(("window", "stride"), [(8, 1), (8, 5), (8, 20)])
def test_every_window_is_on_the_grid_and_whole(backlog, count, window, stride):
    ring = ring_of(count, backlog=backlog, stride=stride)
    taken = []
    while (one := ring.take(0)) is not None:
        taken.append((numbers(one)[0], one.dropped))
        assert numbers(one) == [taken[-1][0] + offset for offset in (0, 2, 4, 6)]
    starts, dropped = zip(*taken, strict=True)
    assert all(start % stride == 0 for start in starts)
    assert starts[0] == dropped[0] and np.diff(starts).tolist() == [stride + lost for lost in dropped[1:]]
    assert starts[-1] == (count - window) // stride * stride


def test_pictures_in_memory_are_bounded_and_only_those_that_windows_read():
    alive = set()

    def picture(number):
        array = np.zeros(1)
        alive.add(number)
        weakref.finalize(array, alive.discard, number)
        return array

    ring = FrameRing(8, 4, np.array([1, 5]), 12)
    most = 0
    for number in range(500):
        ring.add(Shown(number, number), lambda number=number: picture(number))
        most = max(most, len(alive))
        assert all(kept % 4 == 1 for kept in alive)
    assert 0 < most <= (8 + 12) // 4 + 1


def run(checkpoint, *words):
    words = ("--checkpoint", checkpoint, "--device", "cpu", "--quick", *words)
    return run_inference.main([str(word) for word in words])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_with_whole_lines(checkpoint, stream, fifo, tmp_path, capsys, number):
    before, report = signal.getsignal(number), tmp_path / "live.jsonl"
    with open(fifo, "r+b", buffering=0) as held:  # the source does not end

        def write():
            held.write(stream.read_bytes())
            while not (report.exists() and report.read_bytes().count(b"\n")):
                time.sleep(0.05)
            os.kill(os.getpid(), number)

        threading.Thread(target=write, daemon=True).start()
        assert run(checkpoint, "--live", fifo, "--stride", 4, "--live_backlog", 1000, "--json", report) == 0
    text = report.read_text()
    assert text.endswith("\n") and all(len(json.loads(line)["top"]) == 5 for line in text.splitlines())
    assert f"{text.count(chr(10))} windows, 0 of" in capsys.readouterr().err
    assert signal.getsignal(number) is before


def test_lines_go_to_standard_output(checkpoint, standard_input, capsys):
    assert run(checkpoint, "--live", "-", "--stride", 8, "--live_backlog", 1000) == 0
    shown = capsys.readouterr()
    lines = [json.loads(line) for line in shown.out.splitlines()]
    assert len(lines) == 12 and set(lines[0]) == {"start", "end", "top", "latency", "dropped"}
    assert "12 windows, 0 of 96 frames dropped" in shown.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--live", "0", "video.mp4"], "leave out video.mp4"),
        ([], "there is no VIDEO"),
        (["--live", "0", "--curve", "c.png", "--segments", "s.csv"], "has no --curve, --segments"),
        (["--live", "0", "--live_timeout", "0"], "above 0"),
        (["video.mp4", "--live_backlog", "9"], "--live_backlog: no effect without --live"),
    ],
)
def test_wrong_flags_are_refused(checkpoint, capsys, words, said):
    with pytest.raises(SystemExit):
        run(checkpoint, *words)
    assert said in capsys.readouterr().err


def test_a_missing_fifo_is_named_early(checkpoint, capsys):
    for source in ("udp://239.0.0.1:1234", "-"):
        assert run_inference.parse_arguments(["--checkpoint", str(checkpoint), "--live", source]).live == source
    with pytest.raises(SystemExit):
        run_inference.parse_arguments(["--checkpoint", str(checkpoint), "--live", "/no/fifo"])
    assert "--live /no/fifo: there is no such file or FIFO" in capsys.readouterr().err
