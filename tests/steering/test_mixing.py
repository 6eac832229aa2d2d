"""Mixed logits and vectors: the formulas, two adapters in one batch, and guidance for rows of unequal length."""

from __future__ import annotations

import pytest
import torch

from curvekit.bases.adapters import Lora, add_adapter, save_adapter
from curvekit.bases.building import build_model
from curvekit.bases.opening import open_model
from curvekit.steering.mixing import Experts, Guidance, guided
from curvekit.steering.reading import Reader
from curvekit.steering.vectors import SteeringVector, added, difference_of_means, moved


@pytest.fixture(scope="module")
def experts(tiny_base, tiny_tokenizer, tmp_path_factory):
    """Two adapters of the tiny base whose matrices are no zeros."""
    folders = []
    for seed in (1, 2):
        model = build_model("gpt2", str(tiny_base), tiny_tokenizer)
        add_adapter(model, str(tiny_base), Lora(rank=2), seed)
        torch.manual_seed(seed)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.5)
        folder = tmp_path_factory.mktemp(f"expert{seed}")
        save_adapter(model, folder)
        tiny_tokenizer.save_pretrained(folder)
        folders.append(str(folder))
    return folders


IDS = torch.tensor([[0, 0, 5, 9, 12], [0, 7, 8, 3, 2]])
MASK = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])


@torch.no_grad()
def test_experts_change_the_logits_by_their_difference_and_two_adapters_share_a_batch(
    experts, tiny_base, tiny_tokenizer
):
    base, _ = open_model(tiny_base)
    ahead, behind = (open_model(each)[0] for each in experts)
    mix = Experts(tiny_tokenizer, *experts, 0.7)
    assert mix.halves
    readers = [Reader(model) for model in (base, ahead, behind)]
    ids, mask = IDS, MASK
    for _ in range(3):
        z, plus, minus = (reader.logits(ids, mask) for reader in readers)
        mixed = mix(ids, mask, z)
        expected = torch.stack([row + 0.7 * (p - m) for row, p, m in zip(z, plus, minus, strict=True)])
        torch.testing.assert_close(mixed, expected, atol=1e-4, rtol=1e-4)
        ids, mask = mixed.argmax(-1)[:, None], torch.cat([mask, mask.new_ones(2, 1)], dim=1)
    alone = Experts(tiny_tokenizer, experts[0], None, 0.7)
    z, plus = Reader(base).logits(IDS, MASK), Reader(ahead).logits(IDS, MASK)
    torch.testing.assert_close(alone(IDS, MASK, z), z + 0.7 * (plus - z))
    apart = Experts(tiny_tokenizer, experts[0], str(tiny_base), 0.7)
    assert not apart.halves
    torch.testing.assert_close(apart(IDS, MASK, z), z + 0.7 * (plus - Reader(base).logits(IDS, MASK)))


@torch.no_grad()
@pytest.mark.parametrize("recipe", ["gpt2", "curve+softemax", "published"])
def test_guidance_is_its_formula_for_rows_of_unequal_length(make, recipe):
    model = make(recipe)
    ids, mask = torch.cat([torch.tensor([[20, 21], [20, 21]]), IDS], dim=1), torch.cat([MASK[:, :2] | 1, MASK], dim=1)
    guidance, reader = Guidance(model, 1.7, IDS, MASK), Reader(model)
    bare, bare_mask, new = IDS, MASK, ids
    for _ in range(3):
        logits = reader.logits(new, mask)
        found = guidance(ids, logits).log_softmax(-1)
        expected = guided(logits, Reader(model).logits(bare, bare_mask), 1.7).log_softmax(-1)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        new = found.argmax(-1)[:, None]
        ids, bare = torch.cat([ids, new], dim=1), torch.cat([bare, new], dim=1)
        mask, bare_mask = (torch.cat([each, each.new_ones(2, 1)], dim=1) for each in (mask, bare_mask))


@torch.no_grad()
def test_a_vector_is_added_after_its_block_and_is_gone_afterwards(make):
    model = make("curve")
    vector = SteeringVector(torch.randn(32), 1, "")
    before = model(IDS).logits
    seen = []
    handle = model.transformer.h[1].register_forward_hook(lambda m, i, out: seen.append(out))
    plain = model(IDS)
    with added(model, vector, 3.0):
        steered = model(IDS).logits
    handle.remove()
    assert torch.equal(model(IDS).logits, before) and torch.equal(plain.logits, before)
    states = moved(seen[0][0] if isinstance(seen[0], tuple) else seen[0], vector, 3.0)
    torch.testing.assert_close(steered, model.lm_head(model.transformer.ln_f(states)))
    assert not model.transformer.h[1]._forward_hooks


def test_the_vector_is_the_difference_of_the_means(make, tiny_tokenizer, tiny_texts):
    model = make("gpt2")
    vector = difference_of_means(model, tiny_tokenizer, tiny_texts[:3], tiny_texts[3:5], 0)

    def mean(texts):
        found = []
        for text in texts:
            ids = torch.tensor([[tiny_tokenizer.eos_token_id, *tiny_tokenizer(text)["input_ids"]][:64]])
            with torch.no_grad():
                found.append(model(ids, output_hidden_states=True).hidden_states[1][0, 1:].mean(0))
        return sum(found) / len(found)

    torch.testing.assert_close(vector.direction, mean(tiny_texts[:3]) - mean(tiny_texts[3:5]), atol=1e-5, rtol=1e-4)
