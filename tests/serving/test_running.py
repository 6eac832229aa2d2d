"""The commands serve and demo: a port, a key, a line of curl that works, and an end by signal."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time

import httpx
import pytest

from curvekit import cli
from curvekit.bases.opening import open_model
from curvekit.errors import CurvekitError
from curvekit.serving import serve
from curvekit.serving.running import key_of, loopback, server_of
from curvekit.serving.service import application


@pytest.fixture(scope="module")
def saved(talker, tmp_path_factory):
    """The talker, on the disk."""
    folder = tmp_path_factory.mktemp("saved") / "talker"
    model, tokenizer = talker
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def command():
    """Start ``curvekit ...``; return the process and its first lines, once it serves."""
    begun = []

    def command(*words, lines=2, **environment):
        process = subprocess.Popen(
            [sys.executable, "-m", "curvekit.cli", *map(str, words)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | environment,
        )  # fmt: skip
        begun.append(process)
        return process, [process.stdout.readline().strip() for _ in range(lines)]

    yield command
    for process in begun:
        process.kill()
        process.wait(10)
        process.stdout.close()


def test_the_command_prints_its_address_and_a_line_of_curl_that_works(command, saved, capsys):
    process, (first, curl) = command("serve", saved, "--port", 0)
    url = first.split()[0]
    assert url.startswith("http://127.0.0.1:") and "talker" in first and curl.startswith(f"curl {url}/generate")
    answer = json.loads(subprocess.run(curl, shell=True, capture_output=True, check=True, timeout=60).stdout)
    words = ["generate", str(saved), "The river", "--tokens", "20", "--temperature", "0.8", "--top-p", "0.9", "--json"]
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out)["continuation"] == answer["continuation"]
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0


@pytest.mark.parametrize("asked", [False, True])
def test_requests_are_logged_when_asked_and_never_what_they_say(command, saved, asked):
    process, (first, _) = command("serve", saved, "--port", 0, *["--log-requests"] * asked)
    url = first.split()[0]
    secret = "tulips"
    assert httpx.post(f"{url}/generate?{secret}", json={"prompt": secret, "max_new_tokens": 2}).status_code == 200
    assert httpx.post(f"{url}/generate", json={"prompt": [secret]}).status_code == 400
    assert httpx.post(f"{url}/generate", json={"prompt": secret, secret: 1}).status_code == 400
    assert httpx.get(f"{url}/{secret}", headers={"User-Agent": secret}).status_code == 404
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    rest = process.stdout.read()
    assert secret not in rest
    lines = re.findall(r"^curvekit: \d{4}-\d\d-\d\dT\S+ (\w+ \S+ \d+) \d+\.\d+ s$", rest, flags=re.MULTILINE)
    told = ["POST /generate 200", "POST /generate 400", "POST /generate 400", "GET other 404"]
    assert (lines, len(rest.splitlines())) == ((told, 4) if asked else ([], 0))


def test_sigterm_lets_a_text_end_and_then_ends_the_service(command, saved):
    process, (first, _) = command("serve", saved, "--port", 0)
    url = first.split()[0]
    answers = []
    body = {"prompt": "The river", "max_new_tokens": 200, "seed": 1, "n": 8}
    thread = threading.Thread(target=lambda: answers.append(httpx.post(f"{url}/generate", json=body, timeout=60)))
    thread.start()
    while 'curvekit_running{model="talker"} 0.0' in httpx.get(f"{url}/metrics").text:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    thread.join(60)
    assert answers[0].status_code == 200 and len(answers[0].json()["continuations"]) == 8
    assert process.wait(60) == 0


def test_from_the_signal_on_the_service_is_not_ready(saved):
    app = application({"talker": open_model(saved)})
    server = server_of(app, 5.0)
    assert not app.state.service.draining
    server.handle_exit(signal.SIGTERM, None)
    assert app.state.service.draining and server.should_exit


def test_sigterm_ends_the_demo_as_ctrl_c_does(command, saved):
    process, (first,) = command("demo", saved, "--port", 0, lines=1)
    assert httpx.get(re.search(r"http://\S+", first)[0], timeout=60).status_code == 200
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    rest = process.stdout.read()
    assert "Traceback" not in rest and process.returncode in (0, 130), (process.returncode, rest)


def test_with_a_key_the_line_of_curl_takes_it_from_the_environment(command, saved):
    key = "0123456789abcdef"
    _, (_, curl) = command("serve", saved, "--port", 0, "--host", "0.0.0.0", CURVEKIT_API_KEY=key)
    run = lambda **own: subprocess.run(curl, shell=True, capture_output=True, env=os.environ | own, timeout=60).stdout  # noqa: E731
    assert "error" in json.loads(run()) and key not in curl
    assert json.loads(run(CURVEKIT_API_KEY=key))["tokens"] == 20


@pytest.mark.parametrize("name", ["serve", "demo"])
def test_what_cannot_work_is_one_sentence_and_status_2(name, saved, capsys, tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert cli.main([name, str(saved), "--port", port]) == 2
    assert "port" in capsys.readouterr().err
    monkeypatch.delenv("CURVEKIT_API_KEY", raising=False)
    assert cli.main([name, str(saved), "--host", "0.0.0.0"]) == 2
    assert "needs a key" in capsys.readouterr().err
    assert cli.main([name, str(tmp_path / "nothing"), "--port", "0"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert cli.main([name, str(saved), "--port", "99999"]) == 2
    room = {"serve": "curvekit.serving.service", "demo": "curvekit.serving.gradio_demo"}[name]
    monkeypatch.setitem(sys.modules, room, None)
    assert cli.main([name, str(saved), "--port", "0"]) == 2
    assert "pip install 'curvekit[serve]'" in capsys.readouterr().err


def test_a_key_is_long_and_comes_from_a_file_or_the_environment(tmp_path):
    file = tmp_path / "key"
    file.write_text("0123456789abcdef\n")
    file.chmod(stat.S_IRUSR)
    assert key_of("0.0.0.0", file, {}) == "0123456789abcdef"
    assert key_of("127.0.0.1", None, {}) is None
    assert key_of("::", None, {"CURVEKIT_API_KEY": "another-key-of-16"}) == "another-key-of-16"
    for text in ("short", "", "with a space in it", "ключключключключ"):
        file.chmod(0o600)
        file.write_text(text)
        with pytest.raises(CurvekitError):
            key_of("127.0.0.1", file, {})
    with pytest.raises(CurvekitError, match="cannot read the key"):
        key_of("127.0.0.1", tmp_path / "none", {})
    assert [loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "10.0.0.1", "example.org")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip


def test_in_a_notebook_a_service_lives_for_as_long_as_one_is_inside(saved):
    with serve(saved) as url:
        assert httpx.get(f"{url}/health").json()["models"] == ["talker"]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")
