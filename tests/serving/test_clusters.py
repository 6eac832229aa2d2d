"""The service on a local Ray: two replicas, one of which is killed under load, and no request is lost or wrong."""

from __future__ import annotations

import json
import socket
import threading
import time

import httpx
import pytest

from curvekit.generation.streams import generate
from curvekit.serving.orders import Limits

pytestmark = pytest.mark.slow
ray = pytest.importorskip("ray", reason="the extra ray is not installed: pip install 'curvekit[ray]'")
SETTINGS = {"max_new_tokens": 60, "temperature": 0.9, "top_p": 0.9}


@pytest.fixture(scope="module")
def cluster(talker, tmp_path_factory):
    """The address of two replicas of the talker on a Ray of this machine."""
    from ray import serve

    from curvekit.serving.clusters import deployed

    folder = tmp_path_factory.mktemp("cluster") / "talker"
    model, tokenizer = talker
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        options = {"num_cpus": 0.5}
        serve.run(deployed([str(folder)], Limits(), replicas=2, options=options), name="curvekit")
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
