"""The local web page: what it shows, its network access, what it refuses and which files it leaves."""

import base64
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from threading import Thread

import pytest
from browser import CHROMIUM, CHROMIUM_FLAGS
from inference_files import save_checkpoint, write_moving_video
from PIL import Image

for package in ("starlette", "uvicorn"):
    pytest.importorskip(package, reason=f"the page requires {package}: pip install -r requirements-extras.txt")

ROOT = Path(__file__).parent.parent
PATIENCE = 300  # seconds: a busy machine takes minutes to import everything twice


class Server:
    """`run_demo_app.py` in a separate process, with a folder in which its temporary files can be observed."""

    def __init__(self, folder):
        self.temporary, self.log = folder / "tmp", folder / "log.txt"
        self.temporary.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        names = [f"name {label}" for label in range(7)]
        checkpoint = save_checkpoint(folder / "c.pth", class_names=names)
        words = ["--checkpoint", str(checkpoint), "--device", "cpu", "--port", str(self.port), "--max_megabytes", "1"]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "run_demo_app.py", *words, "--max_frames", "100"],
                cwd=ROOT,
                env=os.environ | {"TMPDIR": str(self.temporary)},
                stdout=log,
                stderr=log,
            )
        self.url = f"http://127.0.0.1:{self.port}/"

    def wait(self):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.process.poll() is None:
            try:
                with urllib.request.urlopen(self.url, timeout=5):
                    return
            except OSError:
                time.sleep(0.3)
        raise RuntimeError(f"the page did not come up:\n{self.log.read_text()}")

    def files_left(self):
        (folder,) = self.temporary.glob("videomambapro-*")
        return list(folder.iterdir())

    def ask(self, method, path, body=None, **headers):
        """Send a request without a browser and return status and body of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def begin_upload(self, sent, of):
        """Send the first `sent` bytes of an upload and give the connection, once the page has begun to store them."""
        connection = socket.create_connection(("127.0.0.1", self.port))
        head = f"POST /predictions HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nContent-Length: {of}\r\n\r\n"
        connection.sendall(head.encode() + bytes(sent))
        until(self.files_left)
        return connection


def until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    try:
        server.wait()
        yield server
    finally:
        server.process.kill()
        server.process.wait()


@pytest.fixture
def bystander(tmp_path):
    """A folder that the page must not touch: with a video, and the files it must still contain at the end."""
    folder = tmp_path / "mine"
    folder.mkdir()
    write_moving_video(folder / "video.mp4", 12)
    yield folder / "video.mp4"
    assert [path.name for path in folder.iterdir()] == ["video.mp4"]


def test_a_video_gets_classes_curve_and_heat_maps_and_is_deleted(server, bystander):
    status, answer = server.ask("POST", "/predictions", bystander.read_bytes())
    assert status == 200
    shown = json.loads(answer)
    assert len(shown["classes"]) == 5
    shares = [row["probability"] for row in shown["classes"]]
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1.00001
    assert all(row["name"].startswith("name ") for row in shown["classes"])
    scheme, _, content = shown["curve"].partition(",")
    assert scheme == "data:image/svg+xml;base64" and b"seconds" in base64.b64decode(content)
    assert [cell["frame"] for cell in shown["cells"]] == sorted({cell["frame"] for cell in shown["cells"]})
    for cell in shown["cells"]:
        assert re.fullmatch(r"0\.\d s\nname \d\?? \d+ %", cell["caption"])
        scheme, _, content = cell["heated"].partition(",")
        assert scheme == "data:image/webp;base64"
        assert Image.open(io.BytesIO(base64.b64decode(content))).size == (240, 180)
    assert server.files_left() == []


@pytest.mark.parametrize("width", ["", "358", "0", "-5", "1e9", "999999999999", "x"])
def test_a_curve_is_drawn_for_the_width_of_the_page_within_bounds(server, bystander, width):
    status, answer = server.ask("POST", f"/predictions?width={width}", bystander.read_bytes())
    assert status == 200
    curve = base64.b64decode(json.loads(answer)["curve"].partition(",")[2]).decode()
    points = float(re.search(r'width="([\d.]+)pt"', curve)[1])
    assert points * 100 / 72 == pytest.approx({"358": 358, "0": 320}.get(width, 1072), abs=1)


@pytest.mark.parametrize("named", ["a video", "nothing", "a link", "an address", "another upload"])
def test_a_file_that_a_request_names_is_neither_read_nor_deleted(server, bystander, tmp_path, named):
    with socket.create_server(("127.0.0.1", 0)) as elsewhere, server.begin_upload(100, of=200):
        (uploaded,) = server.files_left()
        (tmp_path / "link.mp4").symlink_to(bystander)
        path = {
            "a video": bystander,
            "nothing": bystander.with_name("nothing.mp4"),
            "a link": tmp_path / "link.mp4",
            "an address": f"http://127.0.0.1:{elsewhere.getsockname()[1]}/a.mp4",
            "another upload": uploaded,
        }[named]
        data = [{"path": str(path), "meta": {"_type": "gradio.FileData"}}]
        join = json.dumps({"data": data, "fn_index": 0, "session_hash": "x"})
        assert server.ask("POST", "/gradio_api/queue/join", join)[0] == 404
        assert server.ask("POST", "/predictions", join)[0] == 422
        assert server.ask("POST", "/predictions", str(path))[0] == 422
        assert server.ask("GET", f"/gradio_api/file={path}")[0] == 404
        for climb in ("/page//", "/page/../", "/page/%2e%2e/", "/page/..%2f..%2f..%2f..%2f..%2f"):
            assert server.ask("GET", f"{climb}{path}")[0] == 404
        assert server.ask("GET", "/page/../app.py")[0] == 404
        assert server.files_left() == [uploaded]
        elsewhere.setblocking(False)
        with pytest.raises(BlockingIOError):
            elsewhere.accept()
    until(lambda: server.files_left() == [])


@pytest.mark.parametrize("origin", ["http://elsewhere.example", "null", "http://127.0.0.1:1", "http://localhost"])
def test_another_page_cannot_send_a_video(server, bystander, origin):
    assert server.ask("POST", "/predictions", bystander.read_bytes(), Origin=origin)[0] == 403
    assert server.files_left() == []


def test_what_is_too_large_no_video_or_broken_off_does_not_stay(server):
    status, reported = server.ask("POST", "/predictions", bytes(2**20 + 1))
    assert status == 422 and b"larger than 1 MB" in reported
    status, reported = server.ask("POST", "/predictions", b"no video at all")
    assert (status, reported) == (422, b"This file cannot be shown: it is not a video, or damaged.")
    assert server.ask("POST", "/predictions", b"")[0] == 422
    server.begin_upload(1000, of=2000).close()
    until(lambda: server.files_left() == [])


def test_only_this_machine_is_served_under_its_own_names(server):
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.2", server.port), timeout=5):
        pass
    assert server.ask("GET", "/", Host="elsewhere.example")[0] == 400
    with urllib.request.urlopen(server.url, timeout=10) as answer:
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("needs a browser: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright to drive a browser")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(server, browser):
    page = browser.new_page()
    page.set_default_timeout(1000 * PATIENCE)
    page.asked, page.faults = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("console", lambda message: page.faults.append(message.text))
    page.goto(server.url)
    yield page
    page.close()


def drop(page, path):
    page.set_input_files("#video input[type=file]", str(path))


def cursor(page):
    """Where the cursor of the curve is, as a share of the time axis, and which heat map is marked."""
    left = float(page.evaluate("document.querySelector('.cursor').style.left").rstrip("%")) / 100
    shown = page.evaluate("[...document.querySelectorAll('#heat button')].map((one) => one.ariaCurrent)")
    return left, shown.index("true")


def test_the_page_shows_a_video_and_asks_nobody_else(server, page, bystander):
    assert page.locator("#answer").is_hidden() and page.locator("#status").is_hidden(), "no empty boxes"
    words = page.inner_text("main")
    assert "videomambapro_nano" in words and "7 classes" in words and "4 frames of 32 × 32" in words
    assert re.search(r"weights of \d{4}-\d\d-\d\d", words)
    drop(page, bystander)
    page.wait_for_selector("#answer:not([hidden])")
    page.wait_for_function("() => [...document.images].every((image) => image.complete && image.naturalWidth)")
    reported = page.inner_text("#classes")
    assert reported.count("%") == 5 and "name " in reported
    assert page.asked and all(url.startswith((server.url, "data:", "blob:")) for url in page.asked)
    assert page.faults == []
    assert str(server.temporary) not in page.content() and server.files_left() == []


def test_the_video_plays_and_a_cursor_runs_through_curve_and_heat_maps(page):
    page.click("#example")
    page.wait_for_selector("#answer:not([hidden])")
    page.wait_for_function("() => document.querySelector('video').duration > 1")
    start, first = cursor(page)
    page.evaluate("document.querySelector('video').play()")
    page.wait_for_function("() => document.querySelector('video').currentTime > 1")
    page.wait_for_function("() => document.querySelector('#heat button').ariaCurrent == 'false'")
    page.evaluate("document.querySelector('video').pause()")  # or the cursor would leave the places clicked
    assert cursor(page)[0] > start
    page.locator("#heat button").last.click()
    end, last = cursor(page)
    assert first == 0 and last == page.locator("#heat button").count() - 1 and end > start
    assert page.evaluate("document.querySelector('video').currentTime") > 1
    page.locator("#curve").click(position={"x": 1, "y": 50})
    assert cursor(page) == (start, first)


def test_the_page_fits_phones_and_desks_by_day_and_night(server, page, bystander):
    for width, scheme in ((1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        page.goto(server.url)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        drop(page, bystander)
        page.wait_for_selector("#answer:not([hidden])")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", ground))) < 200) == (scheme == "dark")


@pytest.mark.parametrize(
    ("name", "reported"),
    [
        ("text.mp4", "not a video, or damaged"),
        ("long.mp4", "200 frames, but only 100 are allowed"),
        ("large.mp4", "larger than 1 MB"),
    ],
)
def test_the_page_tells_what_it_cannot_show(server, page, tmp_path, name, reported):
    if name == "long.mp4":
        write_moving_video(tmp_path / name, 200, height=16, width=16)
    else:
        (tmp_path / name).write_bytes(bytes(3 * 2**20) if name == "large.mp4" else b"no video at all")
    drop(page, tmp_path / name)
    page.wait_for_selector(f"text={reported}")
    sentence = page.inner_text("#status")
    assert sentence.startswith("This file cannot be shown: ") and sentence.endswith(".") and "/" not in sentence
    assert page.locator("#answer").is_hidden()
    assert server.files_left() == []


def test_the_program_ends_when_told_whatever_is_open(server, bystander):
    kept = http.client.HTTPConnection("127.0.0.1", server.port)
    kept.request("GET", "/")
    kept.getresponse().read()
    video = bystander.read_bytes()

    def show():
        with pytest.raises((OSError, http.client.HTTPException)):
            while True:
                server.ask("POST", "/predictions", video)

    asking = Thread(target=show)
    with server.begin_upload(100, of=200):
        asking.start()
        until(lambda: len(server.files_left()) == 2)
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(60)
    asking.join()
    kept.close()
    assert list(server.temporary.iterdir()) == []
