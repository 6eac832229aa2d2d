"""What ships of a pretraining: plain GPT-2 files anyone can load, and a card of figures measured from those files.

``card.json`` holds the figures, ``README.md`` shows them. Nothing in either is typed by hand, and
``curvekit card`` measures them again.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

from curvekit.bases.building import MINI, base_fields
from curvekit.bases.opening import load_model
from curvekit.bases.tokenizer import saved_tokenizer
from curvekit.bases.weights import load_checked
from curvekit.errors import CurvekitError
from curvekit.evaluation.metrics import score_documents
from curvekit.evaluation.results import markdown_table
from curvekit.files import read_json, write_json, write_text
from curvekit.generation.streams import generate
from curvekit.ownership import MARKER, Kind, broken, json_with, recover, replaced, require, text_with
from curvekit.text.corpora import load_corpus
from curvekit.text.duplicates import LEAST as RUNS
from curvekit.text.duplicates import WORDS
from curvekit.text.packing import pack
from curvekit.training.checkpoints import writing
from curvekit.training.pretraining import LEAST, UNKNOWN, Rows, gather
from curvekit.training.runs import Run, load_run

SHOWN = ("perplexity", "word_perplexity", "bits_per_byte", "token_accuracy")
_CONTEXT = 512  # tokens of a window; each adds half of them
_SHIPPED = (
    *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    *("card.json", "README.md"),
)
BASE = Kind(
    "base",
    "a base's folder",
    {
        "card.json": json_with("parameters", "figures", "tried", "training", "sources"),
        "config.json": json_with("model_type", "n_layer", "vocab_size"),
        "README.md": text_with("pretrained for curvekit"),
    },
    proofs=("card.json",),
)
_FEW = 6  # documents of each kind on which all that was tried is compared
_HISTORY = 8  # rows of the table of the validation loss over training
_PROMPTS, _PROMPT_TOKENS, _SAMPLE_TOKENS, _TEMPERATURE, _TOP_P = 6, 32, 120, 0.8, 0.95


def publish(run: Run, folder: str | Path, data_dir: str | Path, announce: Callable[[str], object] = print) -> None:
    """:func:`ship`, and with it ``card.json`` and ``README.md``, measured from what ships.

    The other finished runs in the run's parent folder are what was tried; all are measured on the same texts.

    Raises:
        CurvekitError: as :func:`ship`; or ``data_dir`` holds other texts than the run's corpus holds out.
    """
    folder, rows_of, corpus = Path(folder).resolve(), gather(data_dir), load_corpus(run.folder.parent / "corpus")
    for split in ("validation", "test"):
        if list(corpus[split]["text"]) != [row["text"] for row in rows_of[split]]:
            raise CurvekitError(f"{data_dir} has other {split} texts than {run.folder.parent / 'corpus'} was made with")
    require_place(folder)
    with writing(folder), replaced(folder, BASE.name) as new:
        _save(run, new)
        _write_card(run, new, folder.name, rows_of, announce)


def ship(run: Run, folder: str | Path) -> None:
    """Write the model of a finished pretraining run to ``folder``: GPT-2 in fp16 safetensors, and its tokeniser.

    ``AutoModelForCausalLM.from_pretrained(folder)`` gives float32, which is what the weights are computed in;
    generation never writes the tokens of WikiText's ``<unk>``. A base that shipped there before is replaced as a
    whole, with its card.

    Raises:
        CurvekitError: the run is not finished, or is no plain GPT-2; the folder holds something else.
    """
    folder = Path(folder).resolve()
    require_place(folder)
    with writing(folder), replaced(folder, BASE.name) as new:
        _save(run, new)


def require_place(folder: str | Path) -> None:
    """Refuse a folder that holds anything but a base that shipped there before; put that back first if a kill took it.

    Raises:
        CurvekitError: what it holds of another's, or what was changed in the base since it was written.
    """
    folder = Path(folder)
    recover(folder)
    if folder.exists() and not folder.is_dir():
        raise CurvekitError(f"{folder} is a file; name a folder to ship to")
    require(folder, BASE)
    if folder.exists():
        others = sorted(path.name for path in folder.iterdir() if path.name not in (*_SHIPPED, MARKER))
        if others:
            raise CurvekitError(f"{folder} holds {others[0]}, which is no part of a base; name a new or empty folder")
        if changed := broken(folder, only=True):
            raise CurvekitError(f"{folder} would be replaced, but {changed}; move it, or name another folder")


def _save(run: Run, folder: Path) -> None:
    if run.metrics["recipe"] != "gpt2":
        raise CurvekitError(f"{run.folder} is of the recipe {run.metrics['recipe']!r}; a base that ships is plain gpt2")
    trained, tokenizer = run.model(), run.tokenizer()
    model = GPT2LMHeadModel(GPT2Config(**base_fields(trained.config) | {"use_cache": True}))
    model.load_state_dict(trained.state_dict())
    model.generation_config.suppress_tokens = [tokenizer.convert_tokens_to_ids(piece) for piece in UNKNOWN]
    model.half().save_pretrained(folder)
    write_json(folder / "config.json", read_json(folder / "config.json") | {"dtype": "float32"})
    tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # for all who may read the package


def measure(folder: str | Path, data_dir: str | Path, announce: Callable[[str], object] = print) -> dict[str, Any]:
    """Score a saved GPT-2, with a curve or without, on the held-out articles and stories of ``pretraining.gather``.

    Articles are scored in plain typography, ``<unk>`` included, and counted in the words and bytes of the text as
    WikiText publishes it, which is how lm-evaluation-harness counts.
    """
    return measured(*loaded(folder), Path(folder).resolve().name, gather(data_dir), announce)


def measured(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    rows_of: Rows,
    announce: Callable[[str], object],
    documents: int | None = None,
) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    tokenizer.name_or_path = name  # a signature names no folder of this machine
    context = min(_CONTEXT, model.config.max_position_embeddings)
    for split in ("validation", "test"):
        for source in ("wikitext-2", "stories"):
            announce(f"scoring {source}, {split}")
            chosen = [row for row in rows_of[split] if row["source"] == source][:documents]
            score = score_documents(
                model,
                tokenizer,
                [row["text"] for row in chosen],
                context=context,
                stride=context // 2,
                progress=True,
                signature={"model": name, "corpus": source, "split": split},
            )
            score.words = np.array([len(row["original"].split()) for row in chosen])
            score.bytes = np.array([len(row["original"].encode()) for row in chosen])
            figures[f"{source} {split}"] = {
                **{name: getattr(score, name) for name in SHOWN},
                "documents": len(chosen),
                "tokens": int(score.tokens.sum()),
                "signature": score.signature_string(),
            }
    return figures


def continuations(
    model: Any, tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, str]]
) -> list[dict[str, str]]:
    """Continuations of how the first held-out articles and stories begin, drawn once with seed 0: none is chosen."""
    prompts = []
    for row in rows[:_PROMPTS]:
        ids = tokenizer(row["text"], add_special_tokens=False, verbose=False)["input_ids"][:_PROMPT_TOKENS]
        prompts.append(str(tokenizer.decode(ids)))
    texts = generate(
        model, tokenizer, prompts, max_new_tokens=_SAMPLE_TOKENS, temperature=_TEMPERATURE, top_p=_TOP_P, seed=0
    )
    return [{"prompt": prompt, "continuation": text} for prompt, text in zip(prompts, texts, strict=True)]


def _write_card(run: Run, folder: Path, name: str, rows_of: Rows, announce: Callable[[str], object]) -> None:
    model, tokenizer = loaded(folder)
    tried = [_tried(load_run(path.parent), rows_of, announce) for path in run.folder.parent.glob("*/metrics.json")]
    tried.sort(key=lambda row: (-row["tokens"], row["bits_per_byte"]["stories validation"]))
    card = {
        "parameters": run.metrics["parameters"],
        "vocabulary": model.config.vocab_size,
        "shape": {name: getattr(model.config, name) for name in MINI},
        "figures": measured(model, tokenizer, name, rows_of, announce),
        "samples": continuations(model, tokenizer, rows_of["test"]),
        "tried": tried,
        "training": {name: run.metrics[name] for name in _OF_TRAINING},
        "history": _history(run),
        "settings": {name: value for name, value in run.config.results().items() if name not in ("base", "corpus")},
        "sources": read_json(run.folder.parent / "corpus" / "sources.json"),
        "machine": f"{_machine()}, {torch.get_num_threads()} threads",
    }
    write_json(folder / "card.json", card)
    write_text(folder / "README.md", markdown(card))


_OF_TRAINING = ("steps", "train_tokens", "train_seconds", "tokens_per_second", "precision")
_TEMPLATE = """# mini

A GPT-2 of {parameters:,} parameters ({n_layer} layers, {n_embd} wide, {n_head} heads, {n_positions} positions) with a
byte-level BPE of {vocabulary:,} entries, pretrained for curvekit so that fine-tuning means something on a machine
without a network. English prose only; for research and demonstration.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("curvekit/assets/mini")
tokenizer = AutoTokenizer.from_pretrained("curvekit/assets/mini")
```

## Figures

{figures}

Windows of {context} tokens, each adding half of them. Articles are scored in plain typography, `<unk>` included, and
counted in the words and bytes of the text as WikiText publishes it (lm-evaluation-harness). Measured from the files in
this folder by `curvekit card curvekit/assets/mini --data-dir DATA`; the signature of each row stands in `card.json`.

## Training

{training}

{history}

A pass is the training text once. The loss is that of the validation documents scored while it trained.

## Data

{sources}

The novels and stories are in the public domain; their edition's work is CC0 (Standard Ebooks). WikiText-2 is
CC BY-SA. WikiText's spaced punctuation, ` @-@ ` and headings were put back into plain typography. Its `<unk>` is a
vocabulary entry of its own, learned where it stands, so that WikiText's test text can be scored, and suppressed when
the model writes. Training paragraphs of {least} characters or more that also stand in a held-out text, or in `pydocs`,
were left out; there were {paragraphs_removed}. A story that otherwise shares half of a training paragraph of {words}
words or more is held out no more and does not train: the split `neither`.

## What was tried

{tried}

Bits a byte, all on the same texts: the first {few} articles and the first {few} stories of each split. Shape,
vocabulary, optimiser, learning rate and dropout were chosen among the runs of the fewest tokens, by validation; as many
passes were then made as the time allowed.

## Samples

The beginnings of the first held-out documents, continued once with seed 0, temperature {temperature}, top-p {top_p}.
None was chosen. An arrow marks where the model goes on.

{samples}

## Limits

- It has read {tokens:,} tokens, a tiny part of what models in use have read: sentences are mostly English, paragraphs
  wander, names and facts are made up.
- Its prose is of the 19th and early 20th century, its facts are Wikipedia's of 2016, and so are its prejudices.
- It knows no code, no mathematics and no language but English.
- Perplexities of WikiText with `<unk>` compare with nothing measured on the raw text.
"""


def markdown(card: dict[str, Any]) -> str:
    """The card as a page."""
    settings, training = card["settings"], card["training"]
    figures = [
        {"text": name}
        | {shown.replace("_", " "): f"{figure[shown]:.4f}" for shown in SHOWN}
        | {"tokens": f"{figure['tokens']:,}"}
        for name, figure in card["figures"].items()
    ]
    sources = [
        {"split": split, "source": source} | {name: f"{count:,}" for name, count in counts.items()}
        for split, of_split in card["sources"].items()
        if isinstance(of_split, dict)
        for source, counts in of_split.items()
    ]
    history = [
        {"tokens seen": f"{row['tokens']:,}", "passes": f"{row['passes']:.2f}", "validation loss": f"{row['loss']:.4f}"}
        for row in card["history"]
    ]
    told = {
        "machine": card["machine"],
        "tokens seen": f"{training['train_tokens']:,}",
        "time in training steps": f"{training['train_seconds'] / 60:.0f} minutes",
        "steps": f"{training['steps']:,} of {settings['batch_size']} x {settings['block_size']} tokens",
        "optimiser": settings["optimizer"],
        "learning rate": f"{settings['learning_rate']:g}, {settings['warmup']:.0%} warm-up, cosine to 0",
        "weight decay, clipping, dropout": f"{settings['weight_decay']}, {settings['clip']}, {settings['dropout']}",
        "matrices in": training["precision"],
        "seed": str(settings["seed"]),
    }
    written = "\n\n---\n\n".join(continued(each["prompt"], each["continuation"]) for each in card["samples"])
    return _TEMPLATE.format(
        parameters=card["parameters"],
        vocabulary=card["vocabulary"],
        **card["shape"],
        figures=markdown_table(figures),
        context=_CONTEXT,
        training=markdown_table([{"": name, "value": value} for name, value in told.items()]),
        history=markdown_table(history),
        sources=markdown_table(sources),
        paragraphs_removed=card["sources"]["paragraphs_removed"],
        least=LEAST,
        words=RUNS + WORDS - 1,
        tried=markdown_table([_tried_row(row) for row in card["tried"]]),
        few=_FEW,
        temperature=_TEMPERATURE,
        top_p=_TOP_P,
        samples=written,
        tokens=training["train_tokens"],
    )


def continued(prompt: str, text: str, arrow: str = "⟶") -> str:
    """A prompt and what follows it, as a quotation in Markdown."""
    return f"> {quoted(prompt)} **{arrow}**{quoted(text)}"


def quoted(text: str) -> str:
    """Text as Markdown shows it, in a quotation: nothing in it is markup."""
    return re.sub(r"([\\`*_\[\]<>#|~])", r"\\\1", text).replace("\n", "\n>\n> ")


def _history(run: Run) -> list[dict[str, Any]]:
    """The validation loss at evenly spaced steps, with the tokens seen until then and the passes that they are."""
    config, seen = run.config, {row["step"]: row["tokens"] for row in run.history if "tokens" in row}
    text = load_corpus(run.folder.parent / "corpus")["train"]
    a_pass = len(pack(text, run.tokenizer(), config.block_size)) * config.block_size
    rows = [row for row in run.history if "validation_loss" in row and row["step"] in seen]
    chosen = rows[:: -max(1, len(rows) // _HISTORY)][::-1]  # the last is among them
    return [
        {"tokens": seen[row["step"]], "passes": seen[row["step"]] / a_pass, "loss": row["validation_loss"]}
        for row in chosen
    ]


def _tried(run: Run, rows_of: Rows, announce: Callable[[str], object]) -> dict[str, Any]:
    """What a run tried, and what it reached on the first held-out documents of each kind."""
    announce(f"measuring what was tried: {run.folder.name}")
    config, metrics = run.config, run.metrics
    shape = read_json(run.folder / "model" / "config.json")
    reached = measured(run.model(), run.tokenizer(), run.folder.name, rows_of, announce, _FEW)
    return {
        "run": run.folder.name,
        "corpus": Path(config.corpus).name,
        "shape": {name: shape[name] for name in MINI},
        "vocabulary": len(run.tokenizer()),
        "parameters": metrics["parameters"],
        "optimizer": config.optimizer,
        "learning_rate": config.learning_rate,
        "dropout": config.dropout,
        "tokens": metrics["train_tokens"],
        "bits_per_byte": {name: figure["bits_per_byte"] for name, figure in reached.items()},
    }


def _tried_row(tried: Mapping[str, Any]) -> dict[str, str]:
    return {
        "run": tried["run"],
        "trained on": "this corpus" if tried["corpus"] == "corpus" else f"{tried['corpus']} alone",
        "layers x width": f"{tried['shape']['n_layer']} x {tried['shape']['n_embd']}",
        "vocabulary": f"{tried['vocabulary']:,}",
        "parameters": f"{tried['parameters']:,}",
        "optimiser": f"{tried['optimizer']}, {tried['learning_rate']:g}",
        "dropout": f"{tried['dropout']:g}",
        "tokens seen": f"{tried['tokens']:,}",
    } | {name: f"{value:.4f}" for name, value in tried["bits_per_byte"].items()}


def _machine() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return torch.cpu.get_capabilities().get("cpu_name", platform.machine())


def loaded(folder: str | Path) -> tuple[Any, PreTrainedTokenizerBase]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = saved_tokenizer(folder, Path(folder).name)
    what = f"the base in {folder}"
    if read_json(Path(folder) / "config.json").get("model_type") == GPT2Config.model_type:
        model = load_checked(GPT2LMHeadModel, folder, what, local_files_only=True, dtype=torch.float32)
    else:
        model = load_model(folder)
    return model.float().to(device), tokenizer
