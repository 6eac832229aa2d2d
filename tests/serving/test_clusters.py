"""The service on a local Ray: two replicas, one of which is killed under load, and no request is lost or wrong."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest

from curvekit import cli
from curvekit.generation.streams import generate
from curvekit.serving.orders import Limits

pytestmark = pytest.mark.slow
ray = pytest.importorskip("ray", reason="the extra ray is not installed: pip install 'curvekit[ray]'")
SETTINGS = {"max_new_tokens": 60, "temperature": 0.9, "top_p": 0.9}


@pytest.fixture(scope="module")
def folder(talker, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster") / "talker"
    for part in talker:
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def cluster(folder):
    """The address of two replicas of the talker on a Ray of this machine."""
    from ray import serve

    from curvekit.serving.clusters import deployed

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for attempt in range(3):
        try:
            ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
            break
        except Exception:  # on a busy machine Ray gives itself up after 30 s
            ray.shutdown()
            if attempt == 2:
                raise
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        options = {"num_cpus": 0.5}
        app = deployed([str(folder)], Limits(), replicas=2, options=options, hosts=["127.0.0.1"])
        serve.run(app, name="curvekit")
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()


def test_a_replica_that_dies_under_load_loses_no_request_and_changes_no_text(cluster, talker):
    from ray.util import list_named_actors

    answers: dict[int, httpx.Response] = {}

    def ask(seed: int) -> None:
        body = {"prompt": "The river", "seed": seed, **SETTINGS}
        answers[seed] = httpx.post(f"{cluster}/generate", json=body, timeout=120)

    ask(0)
    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(1, 33)]
    for number, thread in enumerate(threads):
        thread.start()
        if number == 12:
            replicas = [each for each in list_named_actors(all_namespaces=True) if "#writer#" in each["name"]]
            assert len(replicas) == 2, replicas
            ray.kill(ray.get_actor(**replicas[0]))
        time.sleep(0.01)
    for thread in threads:
        thread.join()
    assert {each.status_code for each in answers.values()} == {200}
    for seed, answer in answers.items():
        assert answer.json()["continuation"] == generate(*talker, ["The river"], seed=seed, **SETTINGS)[0]


def test_streams_and_refusals_come_through_the_front(cluster, talker):
    body = {"prompt": "The river", "seed": 3, "stream": True, **SETTINGS}
    with httpx.stream("POST", f"{cluster}/generate", json=body, timeout=60) as response:
        data = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: ")]
    expected = generate(*talker, ["The river"], seed=3, **SETTINGS)[0]
    assert data[-1]["continuation"] == expected and "".join(each["text"] for each in data[:-1]) == expected
    answer = httpx.post(f"{cluster}/generate", json={"prompt": 3}, timeout=60)
    assert answer.status_code == 400 and "prompt" in answer.json()["error"]["message"]
    assert httpx.get(f"{cluster}/health", timeout=60).json()["models"] == ["talker"]


def test_other_names_are_refused_behind_the_front_too(cluster):
    answer = httpx.get(f"{cluster}/health", headers={"Host": "evil.example"}, timeout=60)
    assert answer.status_code == 421


def test_a_client_that_leaves_stops_its_texts_on_its_replica(cluster):
    body = {"prompt": "The river", "max_new_tokens": 200, "n": 32, "stream": True}

    def told(name: str) -> list[float]:
        """A figure of the replicas, each of which has its own: one of them answers."""
        pages = [httpx.get(f"{cluster}/metrics", timeout=60).text for _ in range(6)]
        return [float(value) for page in pages for value in re.findall(rf"^{name}{{.*}} (\S+)$", page, re.MULTILINE)]

    before = max(told("curvekit_generated_tokens_total"), default=0.0)
    with httpx.stream("POST", f"{cluster}/generate", json=body, timeout=60) as response:
        next(line for line in response.iter_lines() if line.startswith("data: "))
    deadline = time.monotonic() + 10
    while any(told("curvekit_running")):
        assert time.monotonic() < deadline, "it is still being written"
    assert max(told("curvekit_generated_tokens_total")) < before + 32 * 200 * 0.9, "all of it was written"


# The command


def test_between_its_bounds_the_load_decides_how_many_replicas_there_are(folder):
    from curvekit.serving.clusters import deployed

    def scale(**settings):
        front = deployed([str(folder)], Limits(batch=5), **settings)._bound_deployment
        return front.init_args[0]._bound_deployment._deployment_config

    fixed, growing = scale(replicas=3), scale(replicas=1, most_replicas=4)
    assert fixed.num_replicas == 3 and fixed.autoscaling_config is None
    auto = growing.autoscaling_config
    assert (auto.min_replicas, auto.max_replicas, auto.target_ongoing_requests) == (1, 4, 5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--replicas", "2"], "add --ray"),
        (["--most-replicas", "2"], "add --ray"),
        (["--ray", "--replicas", "3", "--most-replicas", "2"], "fewer than --replicas 3"),
        (["--ray", "--log-requests"], "--log-requests is for one machine"),
    ],
)
def test_bounds_that_cannot_be_are_a_sentence(folder, words, said, capsys):
    assert cli.main(["serve", str(folder), *words]) == 2
    told = capsys.readouterr().err.strip()
    assert said in told and len(told.splitlines()) == 1


def test_a_model_or_port_that_cannot_be_had_ends_before_ray_begins(folder, tmp_path, capsys):
    assert cli.main(["serve", str(tmp_path / "none"), "--ray", "--port", "0"]) == 2
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert cli.main(["serve", str(folder), "--ray", "--port", str(taken.getsockname()[1])]) == 2
    first, second = capsys.readouterr().err.strip().splitlines()
    assert "none" in first and "cannot listen" in second and "Traceback" not in first + second


def test_the_command_deploys_with_ray_and_sigterm_ends_it(folder, talker):
    words = ["serve", str(folder), "--ray", "--replicas", "1", "--most-replicas", "2", "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "curvekit.cli", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        lines = iter(process.stdout.readline, "")
        curl = next((line for line in lines if line.startswith("curl http://127.0.0.1:")), None)
        assert curl is not None, "it ended without a line of curl"
        answer = json.loads(subprocess.run(curl, shell=True, capture_output=True, check=True, timeout=60).stdout)
        expected = generate(*talker, ["The river"], max_new_tokens=20, temperature=0.8, top_p=0.9, seed=0)[0]
        assert answer["continuation"] == expected
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()
