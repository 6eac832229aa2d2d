"""``curvekit vector``: a steering vector, the difference of means of a model's states at a layer."""

from __future__ import annotations

import argparse

from curvekit.cli.flags import Commands, command, path
from curvekit.cli.rows import add_rows, rows
from curvekit.errors import CurvekitError, pick
from curvekit.files import checked_path


def add(commands: Commands) -> None:
    each = command(
        commands,
        "vector",
        run,
        "make a steering vector: the difference of a model's mean states of two kinds of rows",
        "  curvekit vector smollm2 train.jsonl --label positive --layer 15 --out positive.safetensors\n"
        "  curvekit generate smollm2 'The film' --vector positive.safetensors --vector-scale 2",
    )
    each.add_argument("model", metavar="RUN_OR_BASE", help="the model that will be steered")
    add_rows(each, test=False)
    each.add_argument("--label", required=True, metavar="TEXT", help="of the rows that the vector points to")
    each.add_argument("--layer", type=int, metavar="N", help="the block, from 0, after which it is added (default: "
                      "the one in the middle)")  # fmt: skip
    each.add_argument("--out", type=path, required=True, metavar="FILE", help="where it is written, as safetensors")


def run(arguments: argparse.Namespace) -> None:
    from curvekit.bases.opening import open_model
    from curvekit.steering.parts import require_place
    from curvekit.steering.states import block_of, blocks_of
    from curvekit.steering.vectors import difference_of_means

    require_place(checked_path(arguments.out), "steering vector")
    train = rows(arguments)
    pick(arguments.label, sorted({row.label for row in train}), "label")
    model, tokenizer = open_model(arguments.model)
    layer = len(blocks_of(model)) // 2 if arguments.layer is None else arguments.layer
    block_of(model, layer)
    ahead = [row.text for row in train if row.label == arguments.label]
    behind = [row.text for row in train if row.label != arguments.label]
    if not behind:
        raise CurvekitError(f"every row has the label {arguments.label!r}; give rows of another kind too")
    vector = difference_of_means(model, tokenizer, ahead, behind, layer, progress=True)
    vector.save(arguments.out)
    print(f"{'rows':<18}{len(ahead):,} {arguments.label}, {len(behind):,} others")
    print(f"{'layer':<18}{layer} of 0 to {len(blocks_of(model)) - 1}")
    print(f"{'length':<18}{float(vector.direction.norm()):.4f}")
    print(f"{'written':<18}{arguments.out}")
