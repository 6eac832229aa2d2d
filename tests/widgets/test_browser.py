"""Notebook 06 in JupyterLab, in a browser: text grows, Stop stops, a rating lands on the disk, nothing is cramped.

It needs Chromium (Debian: ``apt-get install chromium``) and is skipped without one; with ``CURVEKIT_BROWSER=required``
a missing one is a failure. ``CURVEKIT_GALLERY=folder`` keeps the pictures of the widgets, of the models that
``CURVEKIT_GALLERY_MODELS`` names (``make gallery``).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from curvekit.preferences.ratings import QUESTIONS, read_ratings
from curvekit.reports.execution import NOTEBOOKS

pytestmark = pytest.mark.slow
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PAGE = {"width": 1280, "height": 900}
WIDGETS = ("playground", "columns", "chat", "curve", "attention", "rating")
EVIL = "The <script>window.broken = 1</script><img src=x onerror='window.broken = 1'> bank"


def _missing(what: str) -> None:
    if os.environ.get("CURVEKIT_BROWSER") == "required":
        pytest.fail(f"{what}, and CURVEKIT_BROWSER=required")
    pytest.skip(what)


@pytest.fixture(scope="module")
def chromium():
    """A headless browser."""
    binary = next(filter(None, map(shutil.which, NAMES)), None)
    if binary is None:
        _missing("there is no Chromium; on Debian or Ubuntu: apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _missing("there is no Playwright; pip install -e '.[dev]' brings it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, headless=True, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def models(tiny_tokenizer, tmp_path_factory):
    """Two models with random weights, large enough that one sees them write."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("voices")
    end = tiny_tokenizer.eos_token_id
    shape = {"n_positions": 512, "n_embd": 256, "n_layer": 6, "n_head": 4, "bos_token_id": end, "eos_token_id": end}
    for seed, name in enumerate(("ada", "bob")):
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tiny_tokenizer), **shape))
        model.generation_config.suppress_tokens = [end]
        model.save_pretrained(folder / name)
        tiny_tokenizer.save_pretrained(folder / name)
    return [str(folder / name) for name in ("ada", "bob")]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab on a random port of this machine only, behind a random token: its folder and how to open a file."""
    folder = tmp_path_factory.mktemp("lab")
    places = {f"JUPYTER_{kind}_DIR": str(folder / f".{kind.lower()}") for kind in ("CONFIG", "DATA", "RUNTIME")}
    places |= {f"JUPYTERLAB_{kind}_DIR": str(folder / f".{kind.lower()}") for kind in ("SETTINGS", "WORKSPACES")}
    quiet = folder / ".settings" / "@jupyterlab" / "apputils-extension"
    quiet.mkdir(parents=True)
    (quiet / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1",
        "--ServerApp.port=0", "--ServerApp.open_browser=False", f"--ServerApp.root_dir={folder}",
        "--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly",
    ]  # fmt: skip
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, env=os.environ | places, stdout=log, stderr=log, cwd=folder)
    try:
        deadline = time.monotonic() + 120
        while not (running := list((folder / ".runtime").glob("jpserver-*.json"))):
            assert server.poll() is None and time.monotonic() < deadline, (folder / "server.log").read_text()
            time.sleep(0.2)
        about = json.loads(running[0].read_text())
        assert about["hostname"] == "127.0.0.1" and about["token"]
        yield folder, lambda name: f"{about['url']}doc/tree/{name}?token={about['token']}"
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


def prepare(folder: Path, name: str, **parameters) -> Path:
    """A copy of notebook 06 with other parameters."""
    notebook = nbformat.read(NOTEBOOKS / "06_generation_demo.ipynb", as_version=4)
    cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    cell.source += "\n" + "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    nbformat.write(notebook, folder / name)
    return folder / name


def execute(page, command):
    """Start a command of JupyterLab's; one that asks something is done only when it is answered."""
    page.evaluate("command => void window.jupyterapp.commands.execute(command)", command)


def open_and_run(page, url):
    """Open a notebook, run it from top to bottom, and wait until its last widget is there."""
    page.goto(url, timeout=120_000)
    page.wait_for_function(
        "window.jupyterapp && window.jupyterapp.shell.currentWidget?.context?.isReady", timeout=120_000
    )
    page.wait_for_function("window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel", timeout=120_000)
    execute(page, "notebook:run-all-cells")
    page.locator("button:has-text('Next pair')").first.wait_for(timeout=180_000)
    idle = "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'"
    page.wait_for_function(idle, timeout=120_000)


def outputs(page):
    """The five widgets, by name."""
    return dict(zip(WIDGETS, page.locator(".jp-OutputArea-output .widget-vbox").all(), strict=True))


@pytest.fixture(scope="module")
def page(chromium, lab, models):
    folder, address = lab
    prepare(folder, "06.ipynb", models=models, max_new_tokens=40, report_dir=str(folder))
    page = chromium.new_page(viewport=PAGE)
    page.set_default_timeout(30_000)
    page.outside, page.errors = [], []
    own = re.compile(r"(http|ws)://127\.0\.0\.1:")  # JupyterLab, and the demo that the notebook starts
    page.on(
        "request", lambda r: r.url.startswith(("http", "ws")) and not own.match(r.url) and page.outside.append(r.url)
    )
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    open_and_run(page, address("06.ipynb"))
    yield page
    page.close()


WATCH = """widget => {
  window.seen = []; window.stamp = [];
  const note = () => {
    const sample = widget.querySelector('.curvekit-sample');
    if (sample && sample.innerText.length !== window.seen.at(-1)) {
      window.seen.push(sample.innerText.length); window.stamp.push(performance.now());
    }
  };
  window.watch?.disconnect();
  window.watch = new MutationObserver(note);
  window.watch.observe(widget, {childList: true, subtree: true, characterData: true});
}"""


def set_tokens(page, widget, tokens):
    """Type a number of tokens beside its slider."""
    readout = widget.locator(".widget-slider", has_text="tokens").locator(".widget-readout")
    readout.fill(str(tokens))
    readout.press("Enter")


def watched(page, widget):
    """Press Generate, and note every change of the text; return where it stands."""
    if widget.locator(".curvekit-sample").count():  # what the last press wrote
        widget.locator(".curvekit-sample").first.evaluate("sample => sample.remove()")
    widget.evaluate(WATCH)
    widget.locator("button:has-text('Generate')").click()
    return widget.locator(".curvekit-sample").first


def test_every_widget_is_there_and_nothing_came_from_outside(page):
    assert set(outputs(page)) == set(WIDGETS)
    assert page.outside == []
    assert page.errors == []
    assert page.locator("text=Error displaying widget").count() == 0


def test_text_grows_while_it_is_written_and_stop_stops_it_within_a_second(page):
    playground = outputs(page)["playground"]
    playground.locator("textarea").fill("The river was low in summer")
    set_tokens(page, playground, 450)
    sample = watched(page, playground)
    page.wait_for_function("window.seen.length >= 4", timeout=120_000)
    assert "seed" not in sample.inner_text(), "it grew three times, and is not complete"
    # from the press itself: before it the driver of the browser waits for the button to stand still
    page.evaluate("addEventListener('click', () => window.pressed = performance.now(), {capture: true, once: true})")
    playground.locator("button:has-text('Stop')").click()
    page.locator("text=Stopped: Stop was pressed").wait_for(timeout=10_000)
    page.wait_for_timeout(1500)
    lengths, stamps, pressed = page.evaluate("[window.seen, window.stamp, window.pressed]")
    assert lengths[:4] == sorted(lengths[:4])
    assert stamps[-1] - pressed < 1000, f"the text changed {stamps[-1] - pressed:.0f} ms after Stop"
    assert "stopped" in sample.inner_text() and "The river was low in summer" in sample.inner_text()


def test_a_token_shows_what_else_might_have_come(page):
    titles = page.locator(".curvekit-sample span[title]").evaluate_all("spans => spans.map(span => span.title)")
    assert len(titles) > 5
    assert all("%" in title and "\nor\n" in title for title in titles)


def test_markup_in_the_prompt_stays_text(page):
    playground = outputs(page)["playground"]
    playground.locator("textarea").fill(EVIL)
    watched(page, playground)
    page.wait_for_function("window.seen.length >= 2", timeout=120_000)
    playground.locator("button:has-text('Stop')").click()
    page.wait_for_timeout(500)
    assert EVIL in playground.locator(".curvekit-sample").first.inner_text()
    assert page.evaluate("window.broken") is None
    assert page.locator(".curvekit-sample img, .curvekit-sample script").count() == 0


def test_a_pair_is_rated_and_the_rating_is_on_the_disk(page, lab):
    rating = outputs(page)["rating"]
    rating.locator("button:has-text('Next pair')").click()
    ready = rating.locator("button:has-text('no difference')").first
    ready.wait_for(timeout=120_000)
    for place, answer in enumerate(("left", "no difference", "right")):
        rating.locator(".widget-toggle-buttons").nth(place).locator(f"button:has-text('{answer}')").click()
    assert not (lab[0] / "ratings.jsonl").exists()
    rating.locator("button:has-text('Save')").click()
    rating.locator("text=ratings.jsonl: 1").wait_for(timeout=30_000)
    (row,) = read_ratings(lab[0] / "ratings.jsonl")
    assert [row[question] for question in QUESTIONS] == ["first", "tie", "second"]
    assert {row["first"], row["second"]} == {"ada", "bob"}
    assert all(row[side] in rating.inner_text() or len(row[side]) > 20 for side in ("first_text", "second_text"))
    ready.wait_for(timeout=120_000)  # the next pair, which is written at once


def test_after_a_restart_of_the_kernel_everything_works_again(page):
    execute(page, "notebook:restart-run-all")
    dialog = page.locator(".jp-Dialog button.jp-mod-accept")
    dialog.wait_for(timeout=20_000)
    dialog.click()
    page.wait_for_timeout(3000)
    page.locator("button:has-text('Next pair')").first.wait_for(timeout=180_000)
    playground = outputs(page)["playground"]
    set_tokens(page, playground, 450)
    watched(page, playground)
    page.wait_for_function("window.seen.length >= 3", timeout=120_000)
    playground.locator("button:has-text('Stop')").click()
    page.locator("text=Stopped: Stop was pressed").first.wait_for(timeout=10_000)


def fits(widget):
    """Nothing in a widget sticks out of it."""
    return widget.evaluate(
        "box => box.scrollWidth <= box.clientWidth + 1 && box.getBoundingClientRect().right <= innerWidth"
    )


def test_every_widget_fits_a_wide_page_and_a_narrow_one(chromium, lab, models, tmp_path):
    keep = Path(os.environ.get("CURVEKIT_GALLERY") or tmp_path)
    shown = os.environ.get("CURVEKIT_GALLERY_MODELS", "").split() or models
    prepare(lab[0], "gallery.ipynb", models=shown, max_new_tokens=60, report_dir="gallery")
    page = chromium.new_page(viewport=PAGE)
    open_and_run(page, lab[1]("gallery.ipynb"))
    found = outputs(page)
    for name in ("playground", "columns"):
        found[name].locator("button:has-text('Generate')").click()
        done = "box => [...box.querySelectorAll('.curvekit-sample')].every(s => / a second/.test(s.innerText))"
        found[name].locator(".curvekit-sample").first.wait_for(timeout=30_000)
        page.wait_for_function(done, arg=found[name].element_handle(), timeout=120_000)
    found["rating"].locator("button:has-text('Next pair')").click()
    ready = found["rating"].locator("button:has-text('no difference')").first
    ready.wait_for(timeout=120_000)
    for width in (1280, 900):
        page.set_viewport_size(PAGE | {"width": width})
        page.wait_for_timeout(500)
        for name, widget in found.items():
            widget.scroll_into_view_if_needed()
            picture = keep / f"{name}-{width}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            widget.screenshot(path=picture)
            assert fits(widget), f"{name} sticks out at {width} pixels"
    page.close()
