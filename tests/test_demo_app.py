"""The local page in a real browser: what it shows, whom it talks to, what it refuses and what it leaves behind."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from browser import CHROMIUM, CHROMIUM_FLAGS
from inference_files import save_checkpoint, write_moving_video

pytest.importorskip("gradio", reason="the page needs Gradio: pip install -r requirements-extras.txt")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright to drive a browser")

ROOT = Path(__file__).parent.parent
PATIENCE = 300  # seconds: a busy machine takes minutes to import everything twice

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium"),
]


class Server:
    """`run_demo_app.py` in a process of its own, with a folder that its temporary files are seen in."""

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

    def videos_left(self):
        return [path for path in self.temporary.rglob("*") if path.suffix == ".mp4"]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    try:
        server.wait()
        yield server
    finally:
        server.process.kill()
        server.process.wait()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(server, browser):
    page = browser.new_page()
    page.set_default_timeout(1000 * PATIENCE)
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(server.url)
    page.wait_for_selector("#video input[type=file]", state="attached")
    yield page
    page.close()


def drop(page, path):
    page.set_input_files("#video input[type=file]", str(path))


def test_a_video_gets_classes_curve_and_heat_maps_and_is_deleted(server, page, tmp_path):
    drop(page, write_moving_video(tmp_path / "a.mp4", 40))
    for picture in ("#curve img", "#heat img"):
        page.wait_for_selector(picture)
        page.wait_for_function("name => document.querySelector(name).naturalWidth > 300", arg=picture)
    told = page.inner_text("#classes")
    assert told.count("%") == 5 and "name " in told
    assert page.asked and all(url.startswith((server.url, "data:", "blob:")) for url in page.asked)
    assert server.videos_left() == []


@pytest.mark.parametrize(
    ("name", "told"), [("text.mp4", "not a video, or damaged"), ("long.mp4", "200 frames, and 100 are allowed")]
)
def test_what_cannot_be_shown_is_told_and_deleted(server, page, tmp_path, name, told):
    if name == "text.mp4":
        (tmp_path / name).write_bytes(b"no video at all")
    else:
        write_moving_video(tmp_path / name, 200, height=16, width=16)
    drop(page, tmp_path / name)
    page.wait_for_selector(f"text={told}")
    assert server.videos_left() == []


def test_a_file_that_is_too_large_is_not_taken(server, page, tmp_path):
    (tmp_path / "large.mp4").write_bytes(bytes(3 * 2**20))
    drop(page, tmp_path / "large.mp4")
    page.wait_for_selector("text=/exceeds|too large|maximum/i")
    assert server.videos_left() == []


def test_only_this_machine_is_served_under_its_own_names(server):
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.2", server.port), timeout=5):
        pass
    request = urllib.request.Request(server.url, headers={"Host": "elsewhere.example"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request, timeout=10)
    with urllib.request.urlopen(server.url, timeout=10) as answer:
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]


def test_nothing_is_left_when_the_program_ends(server):
    assert any(server.temporary.iterdir())
    server.stop()
    assert list(server.temporary.glob("videomambapro-*")) == []
