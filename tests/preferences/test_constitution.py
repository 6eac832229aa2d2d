"""Constitutions: what one may say, the loop that keeps all of its work, and how far its critics can be trusted."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch

from curvekit.cli.constitution import EXAMPLE
from curvekit.errors import CurvekitError
from curvekit.files import read_json, read_jsonl
from curvekit.preferences.constitution import Constitution, Principle, read_constitution
from curvekit.preferences.critics import EndpointCritic, LocalCritic, RuleCritic, Verdict, agreement
from curvekit.preferences.gathering import Answer, read_pairs
from curvekit.preferences.revising import feedback, open_loop, revise
from curvekit.preferences.settings import PreferenceConfig

FINISHES = Principle("finishes", "Does it break off?", "End it.", "full_sentence")
NUMBERS = Principle("no numbers", "Are there digits?", "Leave them out.", "no_numbers")
PLAIN = Constitution("plain", (FINISHES, NUMBERS))
DRAFTS = {
    "a": " was low in the summer. The boats lay on",
    "b": " lay on the sand. In 1910 the river rose again.",
    "c": " went on and on.",
}


def drafted(prompts):
    return [Answer(DRAFTS[prompt], False) for prompt in prompts]


def written(path, text):
    path.write_text(text)
    return path


def test_the_example_is_a_constitution_whose_every_rule_is_one():
    found = read_constitution(EXAMPLE)
    assert len(found.principles) == 6 and all(each.checked_by() for each in found.principles)


HEAD = "name: x\nprinciples:\n  - name: a\n    critique: Is it?\n    revision: Mend it.\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (HEAD + "    rules: no_numbers\n", "unknown key of .* principle 1 'rules'; did you mean 'rule'"),
        ("principle: []\n", "unknown key .*'principle'; did you mean 'principles'"),
        (HEAD + "    rule: no_number\n", "unknown rule 'no_number'; did you mean 'no_numbers'"),
        ("principles:\n  - name: a\n    critique: x\n", "principle 1, has no 'revision'"),
        ("principles: []\n", "has no list of principles"),
        ("- a\n- b\n", "holds list; expected the keys name and principles"),
        ("a: [", "is no YAML"),
        (HEAD + "  - name: a\n    critique: x\n    revision: y\n", "two principles called 'a'"),
        ("!!python/object:os.system {}", "is no YAML"),
    ],
)
def test_a_constitution_that_is_none_is_told_in_a_sentence(tmp_path, text, told):
    with pytest.raises(CurvekitError, match=told):
        read_constitution(written(tmp_path / "it.yaml", text))


def test_rules_find_faults_and_leave_sentences_out():
    critic = RuleCritic()
    assert critic.critique(FINISHES, "a", DRAFTS["a"]) == Verdict(True, "It breaks the rule: ends in a full sentence.")
    assert critic.revise(FINISHES, "a", DRAFTS["a"], "") == " was low in the summer."
    assert critic.revise(NUMBERS, "b", DRAFTS["b"], "") == " lay on the sand."
    assert critic.revise(NUMBERS, "b", "1 2 3", "") == "1 2 3"
    assert critic.prefer(PLAIN, "x", DRAFTS["a"], DRAFTS["c"]) == "second"
    with pytest.raises(CurvekitError, match="has no rule, and the critic is rules alone"):
        critic.critique(Principle("kind", "Is it unkind?", "Be kind."), "a", "b")


def loop(folder, critic=None):
    critic = critic or RuleCritic()
    open_loop(folder, PLAIN, critic)
    return revise(folder, PLAIN, critic, list(DRAFTS), drafted, say=lambda _: None)


def test_the_loop_keeps_draft_critique_and_revision_of_every_principle(tmp_path):
    pairs = loop(tmp_path / "loop")
    rounds = read_jsonl(tmp_path / "loop" / "rounds.jsonl")
    assert [(row["round"], row["number"]) for row in rounds] == [(r, n) for r in range(2) for n in range(3)]
    assert rounds[0]["before"] == DRAFTS["a"] and rounds[0]["after"] == " was low in the summer."
    assert rounds[3]["before"] == rounds[0]["after"], "a round revises what the one before left"
    assert [(pair.rejected, pair.chosen) for pair in pairs] == [
        (DRAFTS["a"], " was low in the summer."),
        (DRAFTS["b"], " lay on the sand."),
    ]
    assert pairs[0].provenance["kind"] == "revision" and pairs[0].chosen_ended and not pairs[0].rejected_ended
    assert read_pairs(tmp_path / "loop" / "revisions.jsonl").pairs == pairs


class Stops(RuleCritic):
    """Fails after so many critiques, as a server does that goes down."""

    def __init__(self, after):
        self.left = after

    def critique(self, *arguments):
        if not self.left:
            raise CurvekitError("the critic is gone")
        self.left -= 1
        return super().critique(*arguments)


@pytest.mark.parametrize("after", [1, 3, 5])
def test_a_loop_that_was_stopped_goes_on_after_its_last_line(tmp_path, after):
    whole = loop(tmp_path / "whole")
    with pytest.raises(CurvekitError, match="is gone"):
        loop(tmp_path / "loop", Stops(after))
    rounds = tmp_path / "loop" / "rounds.jsonl"
    assert len(read_jsonl(rounds)) == after
    rounds.write_text(rounds.read_text() + '{"round": 1, "num')  # a kill in the middle of a line
    fewer = Stops(6 - after)
    assert loop(tmp_path / "loop", fewer) == whole and fewer.left == 0, "nothing is asked twice"
    assert rounds.read_bytes() == (tmp_path / "whole" / "rounds.jsonl").read_bytes()


def test_another_constitution_critic_or_prompts_are_refused(tmp_path):
    loop(tmp_path)
    with pytest.raises(CurvekitError, match="begun with another constitution"):
        open_loop(tmp_path, Constitution("plain", (FINISHES,)), RuleCritic())
    other = RuleCritic()
    other.name = "someone else"
    with pytest.raises(CurvekitError, match="begun with another critic"):
        open_loop(tmp_path, PLAIN, other)
    with pytest.raises(CurvekitError, match="begun with other prompts"):
        revise(tmp_path, PLAIN, RuleCritic(), ["a"], drafted, say=lambda _: None)


def test_feedback_prefers_and_leaves_ties_out(tmp_path):
    open_loop(tmp_path, PLAIN, RuleCritic())
    answers = [Answer(DRAFTS["a"], False), Answer(DRAFTS["c"], True), *[Answer("same", False)] * 2]
    (pair,) = feedback(tmp_path, PLAIN, RuleCritic(), ["x", "y"], lambda _: answers, say=lambda _: None)
    assert (pair.chosen, pair.rejected, pair.chosen_ended) == (DRAFTS["c"], DRAFTS["a"], True)
    assert [row["answer"] for row in read_jsonl(tmp_path / "feedback.jsonl")] == ["second", "tie"]


def test_agreement_is_measured_against_chance():
    always = agreement([(True, True)] * 6 + [(True, False)] * 4)
    assert always["agreement"] == 0.6 and always["kappa"] == pytest.approx(0) and always["blamed"] == 1
    right = agreement([(True, True)] * 5 + [(False, False)] * 5)
    assert right["kappa"] == 1 and right["found"] == 1 and right["blamed"] == 0 and right["low"] < 1
    assert agreement([(False, False)] * 3)["kappa"] is None


def test_the_critics_agreement_is_written_down(tmp_path):
    class Blames(RuleCritic):
        name = "blames all"

        def critique(self, principle, prompt, answer):
            return Verdict(True, "Yes.")

        def revise(self, principle, prompt, answer, critique):
            return answer

    loop(tmp_path, Blames())
    found = read_json(tmp_path / "agreement.json")
    assert found["critic"] == "blames all"
    first = found["principles"][0]
    assert first["rule"] == "full_sentence" and first["found"] == 1 and first["blamed"] == 1 and first["kappa"] == 0
    assert first["agreement"] == pytest.approx(1 / 3) and first["kept_before"] == pytest.approx(2 / 3)


# A critic behind HTTP


class Fake(BaseHTTPRequestHandler):
    """A chat endpoint: what it says follows from what it is asked; it fails as often as its server is told to."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, self.headers.get("Authorization"), body))
        if self.server.failures:
            self.send_response(self.server.failures.pop(0))
            self.end_headers()
            return
        asked = body["messages"][0]["content"]
        said = self.server.say(asked)
        answer = json.dumps({"choices": [{"message": {"role": "assistant", "content": said}}]}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.raw or answer)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = HTTPServer(("127.0.0.1", 0), Fake)
    server.asked, server.failures, server.raw = [], [], b""
    server.say = lambda asked: "Yes, it does." if "Yes or No" in asked else "B" if "A or B" in asked else " mended "
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    yield server
    server.shutdown()
    server.server_close()


def test_an_endpoint_is_asked_in_openais_dialect(server):
    critic = EndpointCritic(server.url, "large", key="secret", pause=0)
    assert critic.critique(FINISHES, "a", "b") == Verdict(True, "Yes, it does.")
    assert critic.revise(FINISHES, "a", "b", "Yes.") == "mended"
    assert critic.prefer(PLAIN, "x", "one", "two") == "tie", "B in both orders is a liking for the place"
    path, key, body = server.asked[0]
    assert path == "/v1/chat/completions" and key == "Bearer secret"
    assert body["model"] == "large" and body["temperature"] == 0 and body["messages"][0]["role"] == "user"
    assert "secret" not in critic.name


def test_an_endpoint_prefers_what_it_names_in_both_orders(server):
    server.say = lambda asked: "Answer A." if asked.index("good") < asked.index("bad") else "I choose B"
    assert EndpointCritic(server.url, "m", pause=0).prefer(PLAIN, "x", "bad", "good") == "second"


def test_an_endpoint_that_is_busy_is_asked_again_and_one_that_refuses_is_not(server):
    critic = EndpointCritic(server.url, "m", pause=0)
    server.failures = [503, 429]
    assert critic.critique(FINISHES, "a", "b").fault and len(server.asked) == 3
    server.failures = [401]
    with pytest.raises(CurvekitError, match="does not answer \\(401"):
        critic.critique(FINISHES, "a", "b")
    assert len(server.asked) == 4


@pytest.mark.parametrize("raw", [b"<html>", b'{"choices": []}', b'{"choices": [{"message": {"content": null}}]}'])
def test_an_endpoint_of_another_dialect_is_told(server, raw):
    server.raw = raw
    with pytest.raises(CurvekitError, match="the endpoint at http.* answers"):
        EndpointCritic(server.url, "m", pause=0).revise(FINISHES, "a", "b", "")


def test_a_critic_that_says_neither_is_refused(server):
    server.say = lambda asked: "Perhaps."
    with pytest.raises(CurvekitError, match="was asked for yes or no and says 'Perhaps.'"):
        EndpointCritic(server.url, "m", pause=0).critique(FINISHES, "a", "b")


def test_an_endpoint_that_is_not_there_is_a_sentence():
    with pytest.raises(CurvekitError, match="does not answer .*give the same command again"):
        EndpointCritic("http://127.0.0.1:9/v1", "m", pause=0, seconds=1).critique(FINISHES, "a", "b")
    with pytest.raises(CurvekitError, match="no address of an endpoint"):
        EndpointCritic("file:///etc/passwd", "m")


def test_a_local_model_decides_by_the_likelier_word_and_in_both_orders(tiny_bases, tiny_tokenizer, monkeypatch):
    from curvekit.bases.opening import open_model

    model, tokenizer = open_model(str(tiny_bases["gpt2"]))
    critic = LocalCritic("tiny", model, tokenizer, tokens=4)
    monkeypatch.setattr("curvekit.preferences.critics.question", lambda *_: "The river")
    verdict = critic.critique(FINISHES, "x", "y")
    ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer("The river")["input_ids"]]])
    with torch.no_grad():
        logits = model(ids).logits[0, -1]
    yes, no = (tokenizer(f" {word}", add_special_tokens=False)["input_ids"][0] for word in ("Yes", "No"))
    assert verdict.fault == bool(logits[yes] > logits[no])
    asked = []
    monkeypatch.setattr(critic, "_odds", lambda text, words: asked.append(text) or [0.0, -1.0])  # it likes the first
    assert critic.prefer(PLAIN, "x", "one", "two") == "tie" and len(asked) == 2
    assert isinstance(critic.revise(FINISHES, "x", "y", ""), str) if len(ids[0]) < 20 else True


def test_constitutional_ai_runs_from_end_to_end(tiny_base, tiny_corpus, tmp_path):
    from curvekit.preferences.constituting import constitute

    brief = Constitution("brief", (Principle("brief", "Is it long?", "Shorten it.", "at_most_words:1"),))

    class Cuts(RuleCritic):
        def revise(self, principle, prompt, answer, critique):
            return " " + " ".join(answer.split()[:1])

    config = PreferenceConfig(
        base=str(tiny_base), corpus=str(tiny_corpus), prompt_tokens=20, answer_tokens=8, prompt_count=8,
        test_prompts=4, steps=2, batch_size=4, eval_documents=2, block_size=16, rank=2,
    )  # fmt: skip
    said = []
    done = constitute(config, brief, Cuts(), tmp_path, progress="none", say=said.append)
    assert done["sft"].finished and done["dpo"].finished
    assert done["dpo"].config.base == str(tmp_path / "tuned")
    assert {pair.provenance["kind"] for pair in done["dpo"].pairs} == {"feedback"}
    assert {pair.provenance["kind"] for pair in done["sft"].pairs} == {"revision"}
    assert done["agreement"]["principles"][0]["agreement"] == 1
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    constitute(config, brief, Cuts(), tmp_path, progress="none", say=said.append)
    assert before == {path: path.stat().st_mtime_ns for path in before}, "what is done is not done again"
