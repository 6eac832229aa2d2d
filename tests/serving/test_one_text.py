"""The same seed writes the same text wherever it is asked for: over HTTP, in the demo, a terminal, a notebook."""

from __future__ import annotations

import html
import re
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import httpx
import openai
import pytest

from curvekit import cli, widgets
from curvekit.generation.streams import generate
from curvekit.serving import Limits, serve
from curvekit.serving.voices import Choir

gradio_demo = pytest.importorskip("curvekit.serving.gradio_demo", reason="the extra serve is not installed")
PROMPT, TOKENS, SEED, TEMPERATURE, TOP_P = "The river, and <a> bank", 40, 11, 0.9, 0.85


@pytest.fixture(scope="module")
def saved(talker, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one") / "talker"
    for part in talker:
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def expected(talker):
    (text,) = generate(*talker, [PROMPT], max_new_tokens=TOKENS, temperature=TEMPERATURE, top_p=TOP_P, seed=SEED)
    assert len(text) > TOKENS
    return text


@pytest.fixture(scope="module")
def busy(saved):
    """A service with 32 others who ask for other texts, again and again, while a test asks for its own."""
    with serve(saved, limits=Limits(waiting=512)) as url, ThreadPoolExecutor(32) as pool:
        enough = Event()

        def other(number: int) -> int:
            asked = 0
            with httpx.Client(base_url=url, timeout=120) as client:
                while not enough.is_set():
                    body = {"prompt": "A bank " * (1 + number % 7), "seed": number, "max_new_tokens": 5 + number}
                    settings = {
                        "temperature": 0.5 + number / 20,
                        "top_k": number % 3 * 10,
                        "stop": ["zz"] * (number % 2),
                    }
                    answer = client.post("/generate", json=body | settings)
                    assert answer.status_code == 200, answer.text
                    asked += 1
            return asked

        others = [pool.submit(other, number) for number in range(32)]
        yield url
        enough.set()
        assert min(each.result(120) for each in others) >= 1


DRAWN = {"prompt": PROMPT, "temperature": TEMPERATURE, "top_p": TOP_P, "seed": SEED}


def over_http(url, **_):
    return httpx.post(f"{url}/generate", json=DRAWN | {"max_new_tokens": TOKENS}, timeout=120).json()["continuation"]


def as_a_stream(url, **_):
    body = DRAWN | {"max_new_tokens": TOKENS, "stream": True}
    with httpx.stream("POST", f"{url}/generate", json=body, timeout=120) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
    return "".join(httpx.Response(200, text=line).json().get("text", "") for line in lines)


def through_openai(url, **_):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        return client.completions.create(model="talker", max_tokens=TOKENS, **DRAWN).choices[0].text


def on_the_command_line(saved, capsys, **_):
    capsys.readouterr()
    words = ["--tokens", TOKENS, "--temperature", TEMPERATURE, "--top-p", TOP_P, "--seed", SEED, "--json"]
    assert cli.main(["generate", str(saved), PROMPT, *map(str, words)]) == 0
    return httpx.Response(200, text=capsys.readouterr().out).json()["continuation"]


def in_the_demo(talker, **_):
    choir = Choir({"talker": talker}, Limits())
    length = TOKENS + len(talker[1](PROMPT)["input_ids"])
    try:
        *_, last = gradio_demo._drawn(choir, PROMPT, ["talker"], length, TEMPERATURE, TOP_P, SEED, Event())
    finally:
        choir.close(5)
    spans = re.findall(r'<span title="[^"]*" style="[^"]*">(.*?)</span>', last, flags=re.DOTALL)
    return html.unescape("".join(spans))


def in_a_notebook(talker, **_):
    board = widgets.Playground(
        {"talker": talker}, PROMPT, max_new_tokens=TOKENS, temperature=TEMPERATURE, top_p=TOP_P, seed=SEED
    )
    board.generate()
    board.wait()
    return board.history[0]["text"]


@pytest.mark.parametrize(
    "way", [over_http, as_a_stream, through_openai, on_the_command_line, in_the_demo, in_a_notebook],
    ids=lambda way: way.__name__,
)  # fmt: skip
def test_the_same_seed_writes_the_same_text(way, busy, saved, talker, capsys, expected):
    assert way(url=busy, saved=saved, talker=talker, capsys=capsys) == expected
