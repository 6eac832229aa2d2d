"""The demo and the index page: in Gradio's own client, in a browser, and as a Space in a process of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import venv
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import httpx
import pytest
from packaging.requirements import Requirement

from curvekit import cli
from curvekit.errors import CurvekitError
from curvekit.generation.streams import generate
from curvekit.serving import space

gradio_demo = pytest.importorskip("curvekit.serving.gradio_demo", reason="the extra serve is not installed")

EVIL = "The <script>window.broken = 1</script><img src=x onerror='window.broken = 1'> bank"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def demo_blocks(talker, limits):
    blocks = gradio_demo.demo({"talker": talker, "echo": talker}, limits=limits)
    yield blocks
    blocks.close()
    blocks.curvekit["close"](5)


@pytest.fixture(scope="module")
def demo_url(demo_blocks):
    return gradio_demo.launch(demo_blocks, prevent_thread_lock=True)[1]


def drawn(voices, **changed):
    from threading import Event

    from curvekit.serving.orders import Limits
    from curvekit.serving.voices import Choir

    settings = {
        "prompt": "The river",
        "names": ["talker"],
        "length": 60,
        "temperature": 0.9,
        "top_p": 0.9,
        "seed": 5,
        "stop": Event(),
    } | changed
    choir = Choir(voices, Limits())
    try:
        return list(gradio_demo._drawn(choir, **settings))
    finally:
        choir.close(5)


def test_the_demo_writes_what_the_library_writes_and_shows_it_as_it_grows(voices, talker):
    import html
    import re

    pictures = drawn(voices)
    tokens = 60 - len(talker[1]("The river")["input_ids"])
    settings = {"max_new_tokens": tokens, "temperature": 0.9, "top_p": 0.9, "seed": 5}
    spans = re.findall(r'<span title="[^"]*" style="[^"]*">(.*?)</span>', pictures[-1], flags=re.DOTALL)
    assert html.unescape("".join(spans)) == generate(*talker, ["The river"], **settings)[0]
    assert "ended by length; seed 5" in pictures[-1] and f"{tokens} tokens" in pictures[-1]
    side = drawn(voices, names=["talker", "tiny"], length=50)[-1]
    assert side.count("<h3>") == 2 and side.count("of the time") == 2


def test_stop_and_an_impossible_length_end_it(voices):
    from threading import Event

    stop = Event()
    stop.set()
    assert "stopped" in drawn(voices, stop=stop, length=250)[-1]
    with pytest.raises(CurvekitError, match="raise it"):
        drawn(voices, length=2)
    for field, value in (("seed", None), ("length", "long"), ("temperature", float("nan")), ("top_p", True)):
        with pytest.raises(CurvekitError, match=f"{field.replace('_', '-')} is .*; give a number"):
            drawn(voices, **{field: value})


def test_the_demo_answers_to_its_own_names_alone(demo_url):
    assert httpx.get(demo_url).status_code == 200
    answer = httpx.get(demo_url, headers={"Host": "evil.example"})
    assert answer.status_code == 421 and "evil.example" in answer.json()["error"]["message"]


def test_the_demo_reads_no_large_body_and_takes_no_file(demo_url, limits, voices):
    answer = httpx.post(f"{demo_url}gradio_api/queue/join", content=b"[" * (limits.body + 1))
    assert answer.status_code == 413
    answer = httpx.post(f"{demo_url}gradio_api/queue/join", content=iter([b"{}"]))
    assert answer.status_code == 411
    answer = httpx.post(f"{demo_url}gradio_api/upload", files={"files": b"1234"})
    assert 400 <= answer.status_code < 500
    with pytest.raises(CurvekitError, match="prompt has a length of 100001"):
        drawn(voices, prompt="a" * 100_001)


def test_two_demos_at_once_have_a_port_each(demo_url, talker, limits):
    blocks = gradio_demo.demo({"talker": talker}, limits=limits)
    try:
        _, url, _ = gradio_demo.launch(blocks, prevent_thread_lock=True)
        assert url != demo_url and httpx.get(url).status_code == httpx.get(demo_url).status_code == 200
    finally:
        blocks.close()
        blocks.curvekit["close"](5)


@pytest.fixture
def unhurried(monkeypatch):
    """A token every thirtieth of a second, so that whoever watches is quick enough to press Stop."""
    from curvekit.generation.batching import Batcher

    turn = Batcher._turn
    monkeypatch.setattr(Batcher, "_turn", lambda self, joining: time.sleep(0.03) or turn(self, joining))


def test_who_leaves_the_demo_is_not_written_for(demo_blocks, demo_url, unhurried):
    """Gradio's own protocol: a job joins the queue, and its events are read from a stream."""
    config = httpx.get(f"{demo_url}config").json()
    write = next(each["id"] for each in config["dependencies"] if each["api_name"] == "write")
    job = {"data": [None, "The river", ["talker"], 250, 0.9, 0.9, 3], "fn_index": write, "session_hash": "leaves"}
    assert httpx.post(f"{demo_url}gradio_api/queue/join", json=job).status_code == 200
    with httpx.stream("GET", f"{demo_url}gradio_api/queue/data?session_hash=leaves", timeout=30) as response:
        next(line for line in response.iter_lines() if "curvekit-columns" in line)
        batcher = demo_blocks.curvekit["voices"][0].batcher
        while not (rows := list(batcher.rows)):  # it may still wait to be taken in
            time.sleep(0.01)
        (row,) = rows
    began = time.monotonic()
    while not row.over:
        time.sleep(0.01)
    assert row.stopped and time.monotonic() - began < 1.0


# In a browser


@pytest.fixture(scope="module")
def chromium():
    binary = next(filter(None, map(shutil.which, NAMES)), None)
    if binary is None:
        if os.environ.get("CURVEKIT_BROWSER") == "required":
            pytest.fail("there is no Chromium, and CURVEKIT_BROWSER=required")
        pytest.skip("there is no Chromium; on Debian or Ubuntu: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, headless=True, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """Open a page of this width; at the end nothing came from outside and nothing failed in it."""
    pages, outside, errors = [], [], []

    def visit(address, width=1280):
        page = chromium.new_page(viewport={"width": width, "height": 900})
        page.set_default_timeout(30_000)
        page.on(
            "request", lambda r: r.url.startswith(("http", "ws")) and "127.0.0.1" not in r.url and outside.append(r.url)
        )
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        pages.append(page)
        return page

    yield visit
    for page in pages:
        page.close()
    assert outside == [] and errors == []


def fits(page):
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_on_the_index_page_a_text_grows_is_stopped_and_markup_stays_text(visit, url, talker, unhurried, width):
    page = visit(url, width)
    page.locator("#models h3", has_text="talker").wait_for()
    assert page.locator("#key-row").is_hidden() and fits(page)
    page.locator("#prompt").fill(EVIL)
    page.locator("#max_new_tokens").fill("60")
    page.locator("#go").click()
    page.locator("#state", has_text="ended by length").wait_for()
    settings = {"max_new_tokens": 60, "temperature": 0.8, "top_p": 0.9, "seed": 0}
    assert page.locator("#text").evaluate("e => e.textContent") == EVIL + generate(*talker, [EVIL], **settings)[0]
    assert page.locator("#text img, #text script").count() == 0 and page.evaluate("window.broken") is None
    title = page.locator("#text span[title]").first.get_attribute("title")
    assert "%" in title and "\nor\n" in title and fits(page)
    page.locator("#prompt").fill("The river")
    page.locator("#max_new_tokens").fill("190")
    page.locator("#go").click()
    page.locator("#text span[title]").nth(2).wait_for(state="attached")
    page.locator("#stop").click()
    page.locator("#state", has_text="stopped after").wait_for()
    length = page.locator("#text").inner_text()
    page.wait_for_timeout(500)
    assert page.locator("#text").inner_text() == length and page.locator("#go").is_enabled()


@pytest.mark.slow
def test_the_interactive_documentation_opens_offline(visit, url):
    page = visit(f"{url}/docs")
    page.get_by_text("OpenAI's chat completions").wait_for()
    page.get_by_text("Continue a prompt").click()
    page.get_by_role("button", name="Try it out").wait_for()


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_in_the_demo_a_text_grows_is_stopped_and_markup_stays_text(visit, demo_url, width, unhurried):
    page = visit(demo_url, width)
    page.locator("#prompt textarea").fill(EVIL)
    page.locator("#go").click()
    page.locator("#out", has_text="ended by").wait_for()
    assert EVIL in page.locator("#out").inner_text() and page.evaluate("window.broken") is None
    assert page.locator("#out h3").count() == 2 and page.locator("#out img, #out script").count() == 0
    assert fits(page)
    page.locator("input[type=number]").first.fill("250")
    page.locator("input[type=number]").first.press("Enter")
    page.locator("#go").click()
    page.locator("#out", has_not_text="ended by").wait_for()
    page.locator("#stop:not([disabled])").click()
    page.locator("#out", has_text="stopped").wait_for()


# As a Space


def own_environment(requirements: str, folder: Path) -> Path:
    """The Python of an environment that holds what these lines name, what that needs, and nothing else.

    The packages are those that are installed here, in these versions, linked to and not downloaded.
    """
    wanted, seen = [Requirement(line) for line in requirements.split()], set()
    site = folder / "site"
    site.mkdir(parents=True)
    while wanted:
        one = wanted.pop()
        try:
            found = distribution(one.name)
        except PackageNotFoundError:
            continue  # what a marker of another package's needs, such as a CUDA build's
        assert one.specifier.contains(found.version.partition("+")[0], prereleases=True), one
        for extra in {"", *one.extras} - {extra for name, extra in seen if name == one.name}:
            seen.add((one.name, extra))
            needs = map(Requirement, found.requires or ())
            wanted += [each for each in needs if not each.marker or each.marker.evaluate({"extra": extra})]
        for file in found.files or ():
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (site / top).exists():
                (site / top).symlink_to(Path(found.locate_file(top)))
    venv.create(folder / "env", with_pip=False, symlinks=True)
    python = folder / "env" / "bin" / "python"
    (own,) = (folder / "env").glob("lib/python*/site-packages")
    (own / "space.pth").write_text(f"{site}\n")
    return python


@pytest.mark.slow
def test_a_space_is_an_app_that_runs_in_an_environment_of_its_own(talker, tmp_path):
    model, tokenizer = talker
    model.save_pretrained(tmp_path / "run")
    tokenizer.save_pretrained(tmp_path / "run")
    folder = tmp_path / "space"
    assert cli.main(["space", str(tmp_path / "run"), str(folder)]) == 0
    card = (folder / "README.md").read_text()
    assert card.startswith("---\ntitle: run\nsdk: gradio\n") and "app_file: app.py" in card
    with pytest.raises(CurvekitError, match="is there already"):
        space(tmp_path / "run", folder)
    python = own_environment((folder / "requirements.txt").read_text(), tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {name: os.environ[name] for name in ("HOME", "PATH", "HF_HOME", "HF_HUB_OFFLINE")}
    environment |= {"GRADIO_SERVER_PORT": str(port)}
    lacks = subprocess.run([python, "-c", "import pytest"], cwd=tmp_path, env=environment, capture_output=True)
    assert b"No module named 'pytest'" in lacks.stderr, "the environment is its own"
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen([python, "app.py"], cwd=folder, env=environment, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                config = httpx.get(f"http://127.0.0.1:{port}/config", timeout=5)
                break
            except httpx.TransportError:
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.3)
        assert config.status_code == 200 and "models, side by side" in config.text
    finally:
        process.kill()
        process.wait(10)
