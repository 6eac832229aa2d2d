"""``curvekit attribute``: a linear attribute model on a model's hidden states, for PPLM."""

from __future__ import annotations

import argparse

from curvekit.cli.flags import Commands, command, path
from curvekit.cli.rows import add_rows, held_out_rows, rows
from curvekit.files import checked_path


def add(commands: Commands) -> None:
    each = command(
        commands,
        "attribute",
        run,
        "train a linear attribute model on a model's hidden states, to steer by",
        "  curvekit attribute smollm2 train.jsonl --test test.jsonl --out sentiment.safetensors\n"
        "  curvekit generate smollm2 'The film' --attribute sentiment.safetensors --label positive",
    )
    each.add_argument("model", metavar="RUN_OR_BASE", help="the model that will be steered")
    add_rows(each)
    each.add_argument("--out", type=path, required=True, metavar="FILE", help="where it is written, as safetensors")


def run(arguments: argparse.Namespace) -> None:
    from curvekit.bases.opening import open_model
    from curvekit.steering.attributes import fit_attribute, require_labels
    from curvekit.steering.parts import require_place
    from curvekit.steering.states import mean_states

    require_place(checked_path(arguments.out), "attribute model")
    train, test = rows(arguments), held_out_rows(arguments)
    require_labels([row.label for row in train])
    model, tokenizer = open_model(arguments.model)
    texts, labels = zip(*train, strict=True)
    attribute = fit_attribute(model, tokenizer, texts, labels, progress=True)
    attribute.save(arguments.out)
    print(f"{'labels':<18}{', '.join(attribute.labels)}")
    print(f"{'rows':<18}{len(train):,}")
    if test:
        means = mean_states(model, tokenizer, [row.text for row in test], progress=True)
        found = attribute.log_probabilities(means).argmax(-1).tolist()
        right = [attribute.labels[place] == row.label for place, row in zip(found, test, strict=True)]
        most = max(sum(row.label == label for row in test) for label in {row.label for row in test})
        print(f"{'accuracy':<18}{sum(right) / len(right):.4f} on {len(test):,} held-out rows "
              f"(always the commonest label: {most / len(test):.4f})")  # fmt: skip
    print(f"{'written':<18}{arguments.out}")
