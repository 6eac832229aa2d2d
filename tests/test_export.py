"""Every recipe leaves torch: torch.export takes it, and ONNX computes each of its parts, by the attention's formula."""

from __future__ import annotations

import pytest
import torch
from tiny import PARTS, WHOLE, builder, everywhere

from curvekit.recipes import RECIPES

IDS = torch.randint(1, 300, (3, 12), generator=torch.Generator().manual_seed(0))
OTHERS = torch.randint(1, 300, (2, 20), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def make(base, tiny_encoder, tiny_tokenizer):
    return builder(base, tiny_encoder, tiny_tokenizer)


class Logits(torch.nn.Module):
    """A model's logits alone, which is what is exported."""

    def __init__(self, model) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask=None):
        return self.model(input_ids, attention_mask=attention_mask, use_cache=False).logits


def same(a, b, bound):
    difference = (a - b).abs().max().item()
    assert difference < bound, f"max_diff {difference:.2e}"


@everywhere(PARTS, parts=WHOLE)
@torch.no_grad()
def test_torch_export_takes_every_part_for_any_batch_and_length(make, recipe):
    model, free = Logits(make(recipe)), torch.export.Dim.AUTO
    program = torch.export.export(model, (IDS,), dynamic_shapes=({0: free, 1: free},), strict=False)
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not any("curvekit" in name for name in operators), "where it is loaded, our operators are not known"
    for ids in (IDS, OTHERS):
        same(program.module()(ids), model(ids), 1e-5)


@everywhere(["self-curve", "curve-causal", "sink"])
@torch.no_grad()
def test_torch_export_takes_a_padded_batch(make, recipe):
    model, mask = Logits(make(recipe)), torch.ones_like(IDS)
    mask[1, :4] = 0
    program = torch.export.export(model, (IDS, mask), strict=False)
    for given in (mask, mask.flip(0)):
        same(program.module()(IDS, given), model(IDS, given), 1e-5)


def test_the_parts_are_those_of_all_recipes():
    causal = [name for name in RECIPES if RECIPES[name].get("context") != "bidirectional"]
    for setting in ("source", "context", "attention", "curve_weights", "mixer", "learn_place"):
        each = {str(RECIPES[name].get(setting)) for name in causal}
        missing = each - {str(RECIPES[name].get(setting)) for name in PARTS}
        assert not missing, (setting, missing)


@pytest.mark.slow
@everywhere(PARTS, parts=WHOLE, quick=WHOLE)
@torch.no_grad()
def test_onnx_computes_what_torch_computes(make, recipe, tmp_path):
    import onnxruntime

    model, mask = Logits(make(recipe)), torch.ones_like(IDS)
    mask[1, :4] = 0
    file = tmp_path / "model.onnx"
    torch.onnx.export(model, (IDS, mask), dynamo=True, verbose=False).save(file)
    session = onnxruntime.InferenceSession(file)
    for given in (mask, torch.ones_like(mask)):
        inputs = {node.name: each.numpy() for node, each in zip(session.get_inputs(), (IDS, given), strict=True)}
        found = torch.from_numpy(session.run(None, inputs)[0])
        same(found[given.bool()], model(IDS, given)[given.bool()], 1e-4)
