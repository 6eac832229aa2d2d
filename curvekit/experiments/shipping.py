"""What ships of a ladder: a candidate's trained weights as a base with its curve, and a card measured from its files.

    python -m curvekit.experiments.shipping RESULTS WEIGHTS FOLDER --candidate NAME --data-dir DATA

``transformers`` loads the folder once curvekit is imported, ``curvekit generate mini-curve`` writes with it, and
``curvekit card`` measures it anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from curvekit.bases.building import MINI
from curvekit.bases.hub import SHIPPED
from curvekit.bases.tokenizer import base_tokenizer
from curvekit.errors import CurvekitError, as_command
from curvekit.evaluation.results import markdown_table
from curvekit.experiments.ladder import PLAIN, load_results, restored
from curvekit.files import read_json, write_json, write_text
from curvekit.ownership import replaced
from curvekit.text.corpora import text_revision
from curvekit.training.cards import BASE, SHOWN, continuations, continued, loaded, measured, require_place
from curvekit.training.checkpoints import writing
from curvekit.training.pretraining import UNKNOWN, gather

_BESIDE = "mini"  # the base that has the same shape, tokeniser, texts and steps, and no curve
_RUNG, _SEED = "long", 0
_SPLITS = {"validation": "validation", "test": "test", "other": "tiny Shakespeare"}


def ship(
    results: str | Path,
    weights: str | Path,
    folder: str | Path,
    candidate: str,
    data_dir: str | Path,
    announce: Callable[[str], object] = print,
) -> None:
    """Write a base of the long rung: configuration, half precision weights with the encoder's table, tokeniser, card.

    Args:
        results: the file of :func:`curvekit.experiments.ladder.collect` with the run of the weights.
        weights: what ``ladder run long --weights`` kept of it, without the encoder's table, which is built anew.
        folder: where to; a base that shipped there before is replaced as a whole.
        candidate: its name.
        data_dir: as ``curvekit pretrain`` was given; its held-out texts must be the ladder's.

    Raises:
        CurvekitError: there is no such run, the weights are not its, or the texts are others.
    """
    folder = Path(folder).resolve()
    require_place(folder)
    finalists = load_results(results, _RUNG)
    if candidate not in finalists or finalists[candidate][0]["seed"] != _SEED:
        raise CurvekitError(f"{results} has no run of {candidate!r} at the rung {_RUNG}; it has {sorted(finalists)}")
    result = finalists[candidate][0]
    rows_of = gather(data_dir)
    for split in ("validation", "test"):
        if text_revision([row["text"] for row in rows_of[split]]) != result["corpus"]["revisions"][split]:
            raise CurvekitError(f"{data_dir} has other {split} texts than the ladder was scored on")
    tokenizer = base_tokenizer(_BESIDE)
    model = restored(weights, candidate, _SEED, tokenizer)
    model.generation_config.suppress_tokens = [tokenizer.convert_tokens_to_ids(piece) for piece in UNKNOWN]
    with writing(folder), replaced(folder, BASE.name) as new:
        model.half().save_pretrained(new)
        write_json(new / "config.json", read_json(new / "config.json") | {"dtype": "float32"})
        tokenizer.save_pretrained(new)
        (new / "model.safetensors").chmod(0o644)
        card = _card(result, finalists, new, folder.name, rows_of, announce)
        write_json(new / "card.json", card)
        write_text(new / "README.md", markdown(card))


def _card(
    result: Mapping[str, Any],
    finalists: Mapping[str, Any],
    folder: Path,
    name: str,
    rows_of: Any,
    announce: Callable[[str], object],
) -> dict[str, Any]:
    model, tokenizer = loaded(folder)
    settings = {**result["settings"], "optimizer": "muon", "recipe": result["recipe"]}
    beside = read_json(SHIPPED[_BESIDE] / "card.json")
    return {
        "name": name,
        "recipe": result["recipe"],
        "parameters": model.num_parameters(),
        "trained_parameters": result["trainable_parameters"],
        "vocabulary": model.config.vocab_size,
        "shape": {each: getattr(model.config, each) for each in MINI},
        "figures": measured(model, tokenizer, name, rows_of, announce),
        "beside": {_BESIDE: {text: {m: of[m] for m in SHOWN} for text, of in beside["figures"].items()}},
        "samples": continuations(model, tokenizer, rows_of["test"]),
        "tried": [
            {"candidate": each, **{split: score["loss"] for split, score in runs[0]["scores"].items()}}
            for each, runs in finalists.items()
        ],
        "training": {each: result[each] for each in ("tokens", "seconds", "order")},
        "settings": settings,
        "sources": beside["sources"],
        "machine": result["device"],
    }


_TEMPLATE = """# {name}

A GPT-2 of `mini`'s shape ({n_layer} layers, {n_embd} wide, {n_head} heads, {n_positions} positions, the same
byte-level BPE of {vocabulary:,} entries) with a curve, pretrained for curvekit from random weights as the recipe
`{recipe}`: point, tangent and curvature of a curve through BERT's static embeddings at the
input, a curve through the hidden states before attention and before the MLP of every block, and SoftEMax in the
attention. It read what `mini` read, for as many steps.
{parameters:,} parameters, of which {trained_parameters:,} were trained; the others are the encoder's table, which ships
with it. English prose only; for research and demonstration.

```python
import curvekit
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("curvekit/assets/{name}")
tokenizer = AutoTokenizer.from_pretrained("curvekit/assets/{name}")
```

`curvekit generate {name} "Once"` writes with it, `curvekit train --base {name}` fine-tunes it with its curve. Without
its curve (`--recipe plain`) it is a poor model: it was never one.

## Figures

{figures}

The same measure as `mini`'s card, whose figures stand beside: windows of 512 tokens, each adding half of them, articles
counted in the words and bytes of the text as WikiText publishes it. Measured from the files in this folder by `curvekit
card curvekit/assets/{name} --data-dir DATA`; the signature of each row stands in `card.json`.

## Training

{training}

The run is one of the ladder's long rung, see `reports/which-curve/`. Beside it there, on the same texts and windows (no
model has read Shakespeare):

{tried}

One seed. The ladder's `plain` is trained by the same code as this base, `mini` by the Trainer on another machine.

## Data

The texts of `mini`, see its card: novels and stories in the public domain (Standard Ebooks, CC0) and WikiText-2 (CC
BY-SA) in plain typography. The encoder's table is averaged from MiniLM's word embeddings
(sentence-transformers/all-MiniLM-L6-v2, Apache 2.0), which saw far more text than this base.

## Samples

The beginnings of the first held-out documents, continued once with seed 0, temperature 0.8, top-p 0.95. None was
chosen. An arrow marks where the model goes on.

{samples}

## Limits

Those of `mini`: it has read {tokens:,} tokens, its paragraphs wander, its prose and prejudices are of another century.
It needs curvekit; other tools that read GPT-2 files do not know its curve.
"""


def markdown(card: Mapping[str, Any]) -> str:
    """The card as a page."""
    (beside,) = card["beside"].values()
    figures = [
        {
            "text": text,
            "perplexity": f"{figure['perplexity']:.2f}",
            f"{_BESIDE}'s perplexity": f"{beside[text]['perplexity']:.2f}",
            "bits a byte": f"{figure['bits_per_byte']:.4f}",
            f"{_BESIDE}'s bits a byte": f"{beside[text]['bits_per_byte']:.4f}",
        }
        for text, figure in card["figures"].items()
    ]
    settings, training = card["settings"], card["training"]
    told = {
        "steps": f"{settings['steps']:,} of {settings['batch_size']} x {settings['block_size']} tokens",
        "tokens seen": f"{training['tokens']:,}",
        "optimiser": settings["optimizer"],
        "learning rate": f"{settings['learning_rate']:g}, {settings['warmup']:.0%} warm-up, cosine to 0",
        "weight decay, clipping, dropout": f"{settings['weight_decay']}, {settings['clip']:g}, 0",
        "matrices in": settings["precision"],
        "seed": str(settings["seed"]),
        "machine": f"{card['machine']}, shared with other runs: {training['seconds']:.0f} seconds",
    }
    tried = [
        {"candidate": row["candidate"]}
        | {f"{text}, nats a token": f"{row[split]:.4f}" for split, text in _SPLITS.items() if split in row}
        for row in sorted(card["tried"], key=lambda row: row["candidate"] != PLAIN)
    ]
    written = "\n\n---\n\n".join(continued(each["prompt"], each["continuation"]) for each in card["samples"])
    return _TEMPLATE.format(
        **{name: card[name] for name in ("name", "recipe", "parameters", "trained_parameters", "vocabulary")},
        **card["shape"],
        figures=markdown_table(figures),
        training=markdown_table([{"": name, "value": value} for name, value in told.items()]),
        tried=markdown_table(tried),
        samples=written,
        tokens=training["tokens"],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m curvekit.experiments.shipping``."""
    parser = argparse.ArgumentParser(prog="curvekit.experiments.shipping", description=(__doc__ or "").splitlines()[0])
    for name in ("results", "weights", "folder"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--candidate", required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    given = parser.parse_args(arguments)
    ship(given.results, given.weights, given.folder, given.candidate, given.data_dir)


if __name__ == "__main__":
    as_command(main)
