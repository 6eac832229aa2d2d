"""Two thousand malformed requests: each is refused in one sentence of JSON, and the next good one is answered."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import time

import httpx
import pytest

PATHS = ("/generate", "/v1/completions", "/v1/chat/completions")
GOOD = {
    "/generate": {"prompt": "The river", "max_new_tokens": 2},
    "/v1/completions": {"prompt": "The river", "max_tokens": 2},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2},
}
FIELDS = {
    "/generate": ("prompt", "max_length", "max_new_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop",
                  "n", "stream", "num_beams", "repetition_penalty", "no_repeat_ngram_size", "alternatives", "model"),
    "/v1/completions": ("prompt", "max_tokens", "temperature", "top_p", "n", "logprobs", "echo", "stop", "seed",
                        "stream", "best_of", "model", "suffix", "logit_bias", "stream_options"),
    "/v1/chat/completions": ("messages", "max_tokens", "temperature", "n", "logprobs", "top_logprobs", "tools", "stop",
                             "seed", "stream", "model", "response_format"),
}  # fmt: skip
VALUES = (
    -1, 10**30, 1e308, -1e-300, 1e-300, "", "x", "💥" * 50, [], [[]], {}, {"a": 1}, [None], [True], ["a", 1], [-5],
    [10**9], "\u0000", "word " * 3000, [[1, 2], "a"],
)  # fmt: skip
BODIES = (
    b"", b"{", b"null", b"[]", b"3", b'"text"', b"\xff\xfe", b'{"prompt": "\xff"}', b'{"prompt": "\\ud800"}', b"\x00",
    b'{"prompt": "a", "temperature": NaN}', b'{"prompt": "a", "temperature": Infinity}',
    b'{"prompt": "a", "seed": 1e999}', b"[" * 90_000, b'{"a":' * 15_000,
    b'{"prompt": "a", "seed": ' + b"9" * 6000 + b"}",
    b'{"prompt": "a",}',
    b'{"stop": ["\\udfff"], "prompt": "a"}',
    b"{'prompt': 'a'}", b'{"prompt": "a"} {}',
)  # fmt: skip


def refused(answer, what=""):
    text = answer.text
    assert 400 <= answer.status_code < 500, (answer.status_code, text[:300], what)
    message = answer.json()["error"]["message"]
    assert message and "\n" not in message and "Traceback" not in text and len(message) < 600, (text[:900], what)


@pytest.mark.slow
def test_two_thousand_malformed_requests_are_refused_and_the_service_goes_on(client):
    dice = random.Random(0)
    sent = 0
    for round_ in range(2000):
        path = PATHS[round_ % 3]
        kind = dice.random()
        if kind < 0.3:
            body = dice.choice(BODIES)
            refused(client.post(path, content=body, headers={"Content-Type": "application/json"}), body[:60])
        elif kind < 0.4:
            headers = {"Content-Type": dice.choice(["text/plain", "", "application/xml", "multipart/form-data", "*/*"])}
            refused(client.post(path, content=json.dumps(GOOD[path]).encode(), headers=headers), headers)
        elif kind < 0.5:
            wrong = dice.choice([("GET", path), ("PUT", path), ("POST", path + "/x"), ("POST", "/" + "y" * 500)])
            refused(client.request(*wrong), wrong)
        elif kind < 0.6:
            unknown = {"".join(dice.choices("abcdefgh", k=7)): 1}
            refused(client.post(path, json=GOOD[path] | unknown), unknown)
        else:
            field, value = dice.choice(FIELDS[path]), dice.choice(VALUES)
            answer = client.post(path, json=GOOD[path] | {field: value})
            if answer.status_code == 200:  # some of these are right for some of the fields
                continue
            refused(answer, (path, field, value))
        sent += 1
        if round_ % 250 == 0:
            assert client.post("/generate", json=GOOD["/generate"]).status_code == 200
    assert sent > 1700
    for path in PATHS:
        assert client.post(path, json=GOOD[path]).status_code == 200


def test_a_body_that_is_too_large_is_refused_before_it_is_read(client):
    refused(client.post("/generate", json={"prompt": "a" * 200_000}))
    chunks = (b"a" * 1000 for _ in range(500))
    answer = client.post("/generate", content=chunks, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    refused(answer)


@pytest.fixture
def raw(url):
    """Send bytes as they are, and read until the service hangs up or has answered in JSON."""
    host, port = url.removeprefix("http://").split(":")

    def raw(*parts: bytes, pause: float = 0.0) -> tuple[int, dict]:
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            got = b""
            with contextlib.suppress(ConnectionError):  # it hung up while we still talked
                for part in parts:
                    connection.sendall(part.replace(b"HOST", host.encode()))
                    time.sleep(pause)
            with contextlib.suppress(ConnectionError):
                while b"\r\n\r\n" not in got or not got.endswith(b"}"):
                    chunk = connection.recv(65536)
                    if not chunk:
                        break
                    got += chunk
        head, _, body = got.partition(b"\r\n\r\n")
        assert b"application/json" in head, got[:300]
        message = json.loads(body)["error"]["message"]
        assert message and "\n" not in message and "Traceback" not in message
        return int(head.split()[1]), message

    return raw


HEAD = b"POST /generate HTTP/1.1\r\nHost: HOST\r\nContent-Type: application/json\r\n"


def flood(count: int, length: int) -> bytes:
    return HEAD + b"".join(b"X-%d: %s\r\n" % (number, b"y" * length) for number in range(count)) + b"\r\n"


def test_half_a_body_and_a_slow_one_are_given_up(client, raw):
    began = time.monotonic()
    status, message = raw(HEAD + b'Content-Length: 100\r\n\r\n{"prompt": "a"')
    assert status == 408 and "did not come within 1 s" in message
    drops = [HEAD + b"Content-Length: 100\r\n\r\n", *[b'"'] * 8]
    status, message = raw(*drops, pause=0.2)
    assert status == 408 and time.monotonic() - began < 6
    assert client.post("/generate", json=GOOD["/generate"]).status_code == 200


@pytest.mark.parametrize("parts", [(b"",), (b"POST /gener", b"ate HTTP/1.1\r\n", b"Host: HOST\r\n", b"X: 1\r\n")])
def test_a_head_that_does_not_come_is_given_up(client, raw, parts):
    began = time.monotonic()
    status, message = raw(*parts, pause=0.3)
    assert status == 408 and "did not come within 2 s" in message and time.monotonic() - began < 4
    assert client.post("/generate", json=GOOD["/generate"]).status_code == 200


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (HEAD + b"Content-Length: -5\r\n\r\n{}", 400),
        (HEAD + b"Content-Length: x\r\n\r\n{}", 400),
        (HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
        (HEAD + b"Transfer-Encoding: gzip\r\n\r\n{}", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}", 400),
        (HEAD + b"Host: evil.example\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\n\r\n", 400),
        (b"GET /health HTTP/1.0\r\n\r\n", 421),
        (flood(60, 500), 431),
        (flood(1000, 100), 431),
        (flood(2000, 500), 431),
        (HEAD + b"X: " + b"y" * 500_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"y" * 20_000 + b" HTTP/1.1\r\nHost: HOST\r\n\r\n", 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 40 + b"\r\n\r\n", 400),
        (b"NONSENSE\r\n\r\n", 400),
    ],
)
def test_what_is_no_request_is_refused_in_a_sentence(client, raw, data, expected):
    assert raw(data)[0] == expected
    assert client.post("/generate", json=GOOD["/generate"]).status_code == 200


def test_a_connection_too_many_is_refused_in_a_sentence(talker, raw, monkeypatch):
    from curvekit.serving import serve, wire

    monkeypatch.setattr(wire, "CONNECTIONS", 3)
    with serve({"talker": talker}) as url:
        where = url.removeprefix("http://").split(":")
        open_ = [socket.create_connection(where) for _ in range(3)]
        answer = httpx.get(f"{url}/health")
        assert answer.status_code == 503 and "connections are open" in answer.json()["error"]["message"]
        for each in open_:
            each.close()
        deadline = time.monotonic() + 5
        while httpx.get(f"{url}/health").status_code != 200:
            assert time.monotonic() < deadline


def test_a_client_that_does_not_read_is_given_up(client, url, idle, monkeypatch):
    from curvekit.serving.wire import Wire

    made = Wire.connection_made

    def narrow(self, transport):
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        made(self, transport)

    monkeypatch.setattr(Wire, "connection_made", narrow)  # or the system would hold megabytes for the client
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps({"prompt": "A", "max_new_tokens": 200, "n": 2, "alternatives": 20, "stream": True}).encode()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(30)
        connection.connect((host, int(port)))
        connection.sendall(HEAD.replace(b"HOST", host.encode()) + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        idle(60.0)  # all of it is written, and waits to be read
        time.sleep(3)
        got = b""
        with contextlib.suppress(ConnectionError):
            while chunk := connection.recv(1 << 16):
                got += chunk
    assert got.startswith(b"HTTP/1.1 200") and b"event: done" not in got
    assert client.post("/generate", json=GOOD["/generate"]).status_code == 200


@pytest.mark.parametrize("path", PATHS)
def test_however_deep_json_is_nested_it_is_no_failure_of_ours(client, path):
    for depth in (50, 400, *range(800, 1000, 25), 5000, 40_000):  # where it is too much depends on who calls
        for field in ("prompt", "messages", "stop", "tools"):
            nested = "[" * depth + "]" * depth
            body = json.dumps(GOOD[path]).removesuffix("}") + f', "{field}": {nested}}}'
            refused(client.post(path, content=body, headers={"Content-Type": "application/json"}), (field, depth))


@pytest.mark.parametrize("path", PATHS)
def test_a_prompt_is_bounded_in_characters_and_tokens(client, path, limits):
    most = limits.prompt
    told = {
        "/generate": [{"prompt": "a" * (most + 1)}],
        "/v1/completions": [{"prompt": ["a" * most, "b"]}, {"prompt": [5] * (most + 1)}],
        "/v1/chat/completions": [{"messages": [{"role": "user", "content": "a" * most}] * 2}],
    }[path]
    for body in told:
        answer = client.post(path, json=body)
        refused(answer)
        assert f"a request may have {most}" in answer.json()["error"]["message"]


def test_no_prompt_is_logged(client, caplog):
    with caplog.at_level("DEBUG"):
        client.post("/generate", json={"prompt": "a secret word", "max_new_tokens": 2, "bad": 1})
        client.post("/generate", json={"prompt": "a secret word", "max_new_tokens": 2})
    assert not [record for record in caplog.records if "secret" in record.getMessage() and "curvekit" in record.name]
