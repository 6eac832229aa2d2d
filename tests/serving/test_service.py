"""The service over HTTP: the library's texts, alone and under load; streams; who leaves is not written for."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from curvekit.errors import CurvekitError
from curvekit.generation.sampling import row_seed
from curvekit.generation.streams import complete, generate, stream
from curvekit.serving import Limits, serve


def events(response):
    """(name, data) of each event of a stream."""
    name = "message"
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            yield name, line[6:]
            name = "message"


def streamed(client, path, body):
    with client.stream("POST", path, json=body | {"stream": True}) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        return list(events(response))


def test_the_same_seed_writes_the_same_text_through_http_and_the_library_alone_and_under_load(client, talker):
    settings = {"max_new_tokens": 40, "temperature": 0.9, "top_p": 0.9, "seed": 5}
    expected = generate(*talker, ["The river"], **settings)[0]
    body = {"prompt": "The river", **settings}
    assert client.post("/generate", json=body).json()["continuation"] == expected

    def load(number: int) -> int:
        kind = {"temperature": 0.5 + number / 20, "top_k": number % 3 * 10, "stop": ["zz"] * (number % 2)}
        return client.post("/generate", json={"prompt": "A bank" * (number % 5), "seed": number, **kind}).status_code

    with ThreadPoolExecutor(33) as pool:
        others = [pool.submit(load, number) for number in range(32)]
        again = [pool.submit(client.post, "/generate", json=body) for _ in range(3)]
        assert {each.result().json()["continuation"] for each in again} == {expected}
        assert {each.result() for each in others} == {200}


def test_an_answer_tells_how_the_text_came_about(client, talker):
    body = {"prompt": "The river", "max_length": 30, "seed": 3, "stop": "e"}
    answer = client.post("/generate", json=body).json()
    tokens = 30 - len(talker[1]("The river")["input_ids"])
    (done,) = complete(*talker, ["The river"], max_new_tokens=tokens, temperature=0.8, top_p=0.9, seed=3, stop=["e"])
    assert answer["continuation"] == done.text and answer["generated_text"] == "The river" + done.text
    assert (answer["tokens"], answer["reason"], answer["seed"]) == (done.tokens, "stop string", 3)
    assert answer["model"] == "talker"
    assert "seed" in client.post("/generate", json={"prompt": "The river"}).json(), "drawn, and told"


def test_several_continuations_and_beams_are_those_of_the_library(client, talker):
    settings = {"max_new_tokens": 10, "seed": 4, "temperature": 1.0, "top_p": 1.0}
    answer = client.post("/generate", json={"prompt": "The river", "n": 3, **settings}).json()
    expected = generate(*talker, ["The river"], num_return_sequences=3, **settings)
    assert [each["continuation"] for each in answer["continuations"]] == expected
    assert [each["seed"] for each in answer["continuations"]] == [row_seed(4, row) for row in range(3)]
    beams = {"max_new_tokens": 10, "temperature": 0, "num_beams": 3, "top_p": 1.0}
    answer = client.post("/generate", json={"prompt": "The river", **beams}).json()
    assert answer["continuation"] == generate(*talker, ["The river"], **beams)[0]


def test_a_stream_is_the_text_token_by_token_with_probabilities_and_alternatives(client, talker):
    settings = {"max_new_tokens": 25, "temperature": 0.9, "top_p": 1.0, "seed": 8}
    told = streamed(client, "/generate", {"prompt": "She read", "alternatives": 3, **settings})
    expected = list(stream(*talker, "She read", alternatives=3, **settings))
    pieces = [json.loads(data) for name, data in told if name == "message"]
    assert [each["text"] for each in pieces] == [piece.text for piece in expected]
    for mine, piece in zip(pieces, expected, strict=True):
        assert mine["probability"] == pytest.approx(piece.probability, rel=1e-2, abs=1e-5)
        assert [text for text, _ in mine["alternatives"]] == [each.text for each in piece.alternatives]
    name, data = told[-1]
    assert name == "done" and json.loads(data)["continuation"] == "".join(piece.text for piece in expected)


def test_a_client_that_leaves_stops_its_text_streaming_or_not(client, idle, url):
    body = {"prompt": "The river", "max_new_tokens": 200, "n": 16, "stream": True}
    with client.stream("POST", "/generate", json=body) as response:
        next(response.iter_lines())
    assert idle() < 1.0
    left = lambda: re.findall("curvekit_clients_left_total .*", client.get("/metrics").text)  # noqa: E731
    before = left()
    host, port = url.removeprefix("http://").split(":")
    data = json.dumps(body | {"stream": False}).encode()
    head = f"POST /generate HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(data)}\r\n\r\n"
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(head.encode() + data)
        deadline = time.monotonic() + 10
        while 'curvekit_running{model="talker"} 0.0' in client.get("/metrics").text:
            assert time.monotonic() < deadline
    assert idle() < 1.0
    assert left() != before


def test_a_beam_search_stops_when_its_client_leaves(client, voices, url):
    body = {"prompt": "The river", "max_new_tokens": 200, "num_beams": 16, "temperature": 0}
    with pytest.raises(httpx.ReadTimeout):
        client.post("/generate", json=body, timeout=0.3)
    began = time.monotonic()
    client.post("/generate", json={"prompt": "A", "max_new_tokens": 1, "num_beams": 2, "temperature": 0})
    assert time.monotonic() - began < 1.5, "the next search waited for one that nobody wants"


def test_who_finds_the_queue_full_is_told_to_come_back(talker):
    limits = Limits(rows=4, batch=1, waiting=4)
    with serve({"talker": talker}, limits=limits) as url, ThreadPoolExecutor(12) as pool:
        body = {"prompt": "The river", "max_new_tokens": 120, "seed": 0}
        answers = list(pool.map(lambda _: httpx.post(f"{url}/generate", json=body, timeout=60), range(12)))
    codes = [each.status_code for each in answers]
    assert set(codes) == {200, 429} and codes.count(200) >= 4
    refused = next(each for each in answers if each.status_code == 429)
    assert refused.headers["retry-after"] == "1" and "wait already" in refused.json()["error"]["message"]
    assert len({each.json()["continuation"] for each in answers if each.status_code == 200}) == 1


def test_a_text_that_takes_too_long_ends_as_it_is(talker):
    with serve({"talker": talker}, limits=Limits(seconds=0.05)) as url:
        answer = httpx.post(f"{url}/generate", json={"prompt": "A", "max_new_tokens": 250}, timeout=60).json()
    assert answer["reason"] == "stopped" and answer["tokens"] < 250


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
def test_an_error_inside_a_stream_is_an_event_and_an_end(talker, path, monkeypatch):
    from curvekit.generation.batching import Batcher

    turn = Batcher._step

    def broken(self):
        if len(self.rows[0].new) > 4:
            raise RuntimeError("no memory")
        turn(self)

    with serve({"talker": talker}) as url, httpx.Client(base_url=url, timeout=30) as client:
        with monkeypatch.context() as patch:
            patch.setattr(Batcher, "_step", broken)
            told = streamed(client, path, {"prompt": "The river"})
            name, data = told[-1]
            assert name == "error" and "failed" in json.loads(data)["error"]["message"]
            assert "memory" not in data, "what failed inside is the log's"
            whole = client.post(path, json={"prompt": "The river"})
            assert whole.status_code == 500 and "log" in whole.json()["error"]["message"]
        assert client.post(path, json={"prompt": "The river"}).status_code == 200


def test_health_models_and_metrics_tell_what_there_is(client, talker):
    assert client.get("/health").json() == {"live": True, "ready": True, "models": ["talker", "tiny"]}
    models = client.get("/v1/models").json()["data"]
    assert [each["id"] for each in models] == ["talker", "tiny"]
    assert client.get("/v1/models/tiny").json() == models[1]
    assert models[0]["curvekit"]["positions"] == 256 and models[0]["curvekit"]["chat"] is True
    assert client.get("/v1/models/tine").status_code == 404

    def figure(name: str) -> float:
        lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith(name)]
        return sum(float(line.split()[-1]) for line in lines)

    before = figure('curvekit_generated_tokens_total{model="tiny"}'), figure("curvekit_first_token_seconds_count")
    client.post("/generate", json={"prompt": "A", "model": "tiny", "max_new_tokens": 5, "temperature": 1, "top_k": 5})
    after = figure('curvekit_generated_tokens_total{model="tiny"}'), figure("curvekit_first_token_seconds_count")
    assert 0 < after[0] - before[0] <= 5 and after[1] - before[1] == 1


def test_nothing_allows_other_origins_and_other_names_are_refused(client, url):
    answer = client.options(
        "/generate", headers={"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    )
    assert not [name for name in answer.headers if name.startswith("access-control")]
    port = url.rpartition(":")[2]
    assert client.get("/health", headers={"Host": f"evil.example:{port}"}).status_code == 421
    assert client.get("/health", headers={"Host": f"localhost:{port}"}).status_code == 200


def test_a_key_is_asked_for_and_a_host_that_others_reach_needs_one(talker):
    key = "a key of sixteen letters".replace(" ", "-")
    with serve({"talker": talker}, key=key) as url:
        body = {"prompt": "A", "max_new_tokens": 2}
        assert httpx.get(f"{url}/health").status_code == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": key}, {"Authorization": "Bearer ä"}):
            answer = httpx.post(f"{url}/generate", json=body, headers={k: v.encode() for k, v in headers.items()})
            assert answer.status_code == 401 and "key" in answer.json()["error"]["message"]
        assert httpx.get(f"{url}/v1/models").status_code == httpx.get(f"{url}/metrics").status_code == 401
        right = {"Authorization": f"Bearer {key}"}
        assert httpx.post(f"{url}/generate", json=body, headers=right).status_code == 200
    with pytest.raises(CurvekitError, match="needs a key"), serve({"talker": talker}, host="0.0.0.0"):
        pass


def begun(metrics):
    """How many continuations are being written, wait or were answered."""
    counted = r'^curvekit_(?:running|waiting|requests_total)\{(?:model|route="/generate").*\} (\S+)$'
    return sum(map(float, re.findall(counted, metrics, re.MULTILINE)))


def test_a_service_that_ends_finishes_what_was_begun(talker):
    answers = []
    with serve({"talker": talker}) as url:
        body = {"prompt": "The river", "max_new_tokens": 100, "seed": 1}
        threads = [
            threading.Thread(target=lambda: answers.append(httpx.post(f"{url}/generate", json=body, timeout=60)))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        while begun(httpx.get(f"{url}/metrics").text) < 3:
            pass
    for thread in threads:
        thread.join()
    assert [each.status_code for each in answers] == [200] * 3
    assert {each.json()["tokens"] for each in answers} == {100}
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


def test_the_pages_load_nothing_from_outside_and_know_their_parts(client):
    for page in ("/", "/docs"):
        answer = client.get(page)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "http" not in answer.text.replace("http-equiv", "")
        parts = [part.partition('"')[0] for part in answer.text.split('src="')[1:]]
        parts += [part.partition('"')[0] for part in answer.text.split('rel="stylesheet" href="')[1:]]
        assert parts and all(client.get(f"/{part}").status_code == 200 for part in parts)
    schema = client.get("/openapi.json").json()
    assert "min_p" in json.dumps(schema["paths"]["/generate"])
