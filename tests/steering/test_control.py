"""Controls: settings that cannot work are one sentence, and a text is one for its seed, however it is asked for."""

from __future__ import annotations

import functools
import json
import time

import pytest
import torch

from curvekit.bases.opening import open_model
from curvekit.errors import CurvekitError
from curvekit.generation.batching import Batcher
from curvekit.generation.sampling import Sampling
from curvekit.generation.streams import complete, generate, stream
from curvekit.steering.attributes import fit_attribute
from curvekit.steering.control import Control
from curvekit.steering.vectors import difference_of_means

PROMPTS = ["The river", "She read the letter twice before she put", "", "A bank is also the side of a river."]
SETTINGS = {"max_new_tokens": 6, "seed": 3, "top_k": 50}


@pytest.fixture(scope="module")
def voice(tiny_base):
    model, tokenizer = open_model(tiny_base)
    with torch.no_grad():
        model.transformer.wte.weight.mul_(8)
    return model, tokenizer


@pytest.fixture(scope="module")
def controls(voice, tiny_base, tiny_texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    model, tokenizer = voice
    difference_of_means(model, tokenizer, tiny_texts[:8], tiny_texts[8:16], 1).save(folder / "vector")
    labels = ["river" if "river" in text else "none" for text in tiny_texts]
    fit_attribute(model, tokenizer, tiny_texts, labels).save(folder / "attribute")
    return {
        "bag": Control(bag=("river", "bank"), step_size=2.0),
        "attribute": Control(attribute=str(folder / "attribute"), label="river", step_size=5.0),
        "vector": Control(vector=str(folder / "vector"), vector_scale=20.0),
        "experts": Control(expert=str(tiny_base), expert_weight=-0.5),
        "guidance": Control(preface="A bank is a place for money.", guidance_scale=2.0),
        "preface": Control(preface="A bank is a place for money."),
    }


WAYS = ("bag", "attribute", "vector", "experts", "guidance", "preface")


@pytest.mark.parametrize("way", WAYS)
def test_a_steered_text_is_one_for_its_seed_alone_in_a_batch_streamed_and_served(voice, controls, way):
    model, tokenizer = voice
    control = controls[way]
    rows = list(complete(model, tokenizer, PROMPTS, control=control, **SETTINGS))
    texts = [row.text for row in rows]
    assert texts != generate(model, tokenizer, PROMPTS, **SETTINGS), "it steers"
    assert generate(model, tokenizer, PROMPTS, batch_size=3, control=control.to_dict(), **SETTINGS) == texts
    for row in rows:
        settings = SETTINGS | {"seed": row.seed, "control": control}
        assert "".join(piece.text for piece in stream(model, tokenizer, row.prompt, **settings)) == row.text
    assert generate(model, tokenizer, PROMPTS[:1], num_return_sequences=2, control=control, **SETTINGS)[0] == texts[0]
    batcher = Batcher(model, tokenizer)
    try:
        served = [batcher.add(r.prompt, Sampling(**SETTINGS | {"seed": r.seed, "control": control})) for r in rows]
        plain = batcher.add(PROMPTS[0], Sampling(**SETTINGS))
        deadline = time.monotonic() + 60
        while not all(each.over for each in (*served, plain)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert [each.completion(tokenizer).text for each in served] == texts
        assert plain.completion(tokenizer).text == generate(model, tokenizer, PROMPTS[:1], **SETTINGS)[0]
    finally:
        batcher.close()


def test_a_control_that_changes_nothing_writes_the_same_text(voice, controls):
    model, tokenizer = voice
    plain = generate(model, tokenizer, PROMPTS, **SETTINGS)
    assert generate(model, tokenizer, PROMPTS, control=Control(), **SETTINGS) == plain
    idle = Control(**controls["bag"].to_dict() | {"step_size": 0.0})
    assert generate(model, tokenizer, PROMPTS, control=idle, **SETTINGS) == plain


def test_what_stands_before_a_prompt_stays_when_the_prompt_is_too_long(voice):
    model, tokenizer = voice
    control = Control(preface="A bank is a place for money.")
    (row,) = complete(model, tokenizer, ["The river was low. " * 30], control=control, **SETTINGS)
    assert row.truncated > 50
    long = " ".join(["word"] * 60)
    with pytest.raises(CurvekitError, match="codes and preface are .* tokens, and there is room for 58"):
        generate(model, tokenizer, ["x"], control=Control(preface=long), **SETTINGS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bog": ["a"]}, "unknown setting of a control 'bog'; did you mean 'bag'"),
        ({"bag": "love"}, "bag is 'love'; give a list of words"),
        ({"bag": [" "]}, "the bag holds an empty word"),
        ({"codes": ["a]b"]}, "without brackets"),
        ({"step_size": float("nan")}, "step_size is nan"),
        ({"iterations": 2.5}, "iterations is 2.5; give a whole number"),
        ({"gm_scale": 2}, "gm_scale is 2; give 0 to 1"),
        ({"antiexpert": "mini"}, "give expert too"),
        ({"label": "x"}, "give attribute too"),
        ({"guidance_scale": 2}, "nothing stands before the prompt"),
        ({"preface": "x", "negative": "y"}, "give guidance_scale too"),
        ({"vector": "a" * 300}, "longer than a file's"),
    ],
)
def test_a_setting_that_cannot_work_is_one_sentence(settings, message):
    with pytest.raises(CurvekitError, match=message):
        Control.from_dict(settings)


@pytest.mark.parametrize(
    ("control", "message"),
    [
        ({"codes": ["poem"]}, "this model was trained with none"),
        ({"vector": "nowhere"}, "there is no steering vector nowhere"),
        ({"attribute": "nowhere", "label": "x"}, "there is no attribute model nowhere"),
        ({"expert": "nowhere"}, "unknown base 'nowhere'"),
        ({"expert": "mini"}, "has another vocabulary"),
        ({"bag": ["extraordinary"]}, r"no word of the bag is one token of this model: 'extraordinary' is ' ' \+"),
        (3, "give a Control, or an object"),
    ],
)
def test_what_a_control_names_is_checked_before_the_first_token(voice, control, message):
    with pytest.raises(CurvekitError, match=message):
        generate(*voice, ["The river"], max_new_tokens=4, control=control)


def test_a_file_of_another_kind_or_model_is_refused(voice, controls, tiny_bases, tmp_path):
    model, tokenizer = voice
    bag = controls["attribute"]
    with pytest.raises(CurvekitError, match="is no steering vector; name the file of one"):
        generate(model, tokenizer, [""], max_new_tokens=4, control={"vector": bag.attribute})
    with pytest.raises(CurvekitError, match="label is not given; name what is sought: none, river"):
        generate(model, tokenizer, [""], max_new_tokens=4, control={"attribute": bag.attribute})
    with pytest.raises(CurvekitError, match="did you mean 'river'"):
        generate(model, tokenizer, [""], max_new_tokens=4, control={"attribute": bag.attribute, "label": "rivr"})
    other, theirs = open_model(tiny_bases["llama"])
    with pytest.raises(CurvekitError, match="was made from the states of another model"):
        generate(other, theirs, [""], max_new_tokens=4, control={"vector": controls["vector"].vector})
    (tmp_path / "vector").write_bytes(b"x" * 100)
    with pytest.raises(CurvekitError, match="is no steering vector, or cut off"):
        generate(model, tokenizer, [""], max_new_tokens=4, control={"vector": str(tmp_path / "vector")})


def test_words_of_several_tokens_are_named_with_their_pieces(voice):
    model, tokenizer = voice
    with pytest.warns(UserWarning, match=r"1 of 2 words of the bag are no single token, left out: 'extraordinary' is"):
        generate(model, tokenizer, [""], max_new_tokens=2, control={"bag": ["river", "extraordinary"]})


def test_beams_go_with_codes_and_a_preface_alone(voice):
    with pytest.raises(CurvekitError, match="num_beams is 2"):
        Sampling(num_beams=2, control={"bag": ["river"]})
    assert generate(*voice, ["The"], max_new_tokens=3, num_beams=2, control={"preface": "A bank"})


def test_a_control_is_the_same_as_json(tmp_path):
    control = Control(codes=("a", "b"), bag=("x",), step_size=0.5)
    path = tmp_path / "control.json"
    path.write_text(json.dumps(control.to_dict()))
    assert Control.read(path) == control and set(control.to_dict()) == {"codes", "bag", "step_size"}
    path.write_text('{"bga": []}')
    with pytest.raises(CurvekitError, match=r"control\.json: unknown setting"):
        Control.read(path)


@pytest.mark.parametrize(("way", "most"), [("preface", 1), ("vector", 1), ("experts", 2), ("guidance", 2), ("bag", 11)])
def test_a_token_costs_no_more_forwards_than_is_promised(voice, controls, way, most):
    """In forwards of one token, a backward counted as two: codes and vectors one, mixing two, PPLM eleven."""
    model, tokenizer = voice
    costs: list[int] = []
    forward = type(model).forward

    @functools.wraps(forward)
    def counted(self, *args, **kwargs):
        costs.append(3 if torch.is_grad_enabled() else 1)
        return forward(self, *args, **kwargs)

    type(model).forward = counted
    try:
        settings = {"control": controls[way], "temperature": 0}
        generate(model, tokenizer, PROMPTS[:1], max_new_tokens=4, **settings)
        few = sum(costs)
        costs.clear()
        generate(model, tokenizer, PROMPTS[:1], max_new_tokens=9, **settings)
    finally:
        type(model).forward = forward
    assert (sum(costs) - few) / 5 == most
