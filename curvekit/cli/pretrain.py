"""``curvekit pretrain``: a small base of one's own, and the place it ships to."""

from __future__ import annotations

import argparse
from pathlib import Path

from curvekit.cli.flags import Commands, command, path
from curvekit.cli.printing import print_metrics, say
from curvekit.cli.settings import add_settings, given
from curvekit.training.settings import PRETRAINING

_CHOSEN = (  # here, and so without a flag
    *("recipe", "base", "corpus", "data_dir", "scratch", "tokenizer", "freeze", "encoder", "context"),
    *("task", "template", "judged", "form", "adapter", "rank", "alpha", "targets", "adapter_dropout"),
)


def add(commands: Commands) -> None:
    each = command(
        commands,
        "pretrain",
        run,
        "pretrain a small base on novels, stories and articles; given again after a stop, it goes on",
        "  curvekit pretrain --data-dir data\n"
        "  nohup curvekit pretrain --data-dir data --ship mini > pretrain.log 2>&1 &\n"
        "  curvekit pretrain --data-dir data --name deep --model n_layer=6 n_embd=256 n_head=4",
        "curvekit pretrain --data-dir FOLDER [--out FOLDER] [--name NAME] [--ship FOLDER] [SETTING ...]",
    )
    each.add_argument(
        "--data-dir",
        type=path,
        required=True,
        metavar="FOLDER",
        help="holds books/*.txt, stories/stories.txt and wikitext-2/",
    )
    each.add_argument(
        "--out",
        type=path,
        default=Path("runs/pretrain"),
        metavar="FOLDER",
        help="corpus, vocabulary and runs (default: %(default)s)",
    )
    each.add_argument(
        "--name", default="mini", help="of this run, beside others with other settings (default: %(default)s)"
    )
    each.add_argument(
        "--ship",
        type=path,
        metavar="FOLDER",
        help="write the trained model and its card there; a base that shipped there before is replaced",
    )
    add_settings(each, without=_CHOSEN, defaults=PRETRAINING)


def run(arguments: argparse.Namespace) -> None:
    from curvekit.training.cards import publish, require_place
    from curvekit.training.pretraining import pretrain

    settings = given(arguments, without=_CHOSEN, defaults=PRETRAINING) | {"data_dir": arguments.data_dir}
    if arguments.ship:
        require_place(arguments.ship)  # before hours of training
    done = pretrain(out=arguments.out, name=arguments.name, announce=say, **settings)
    print_metrics(done.metrics)
    print(f"{'run':<18}{done.folder}")
    if arguments.ship:
        publish(done, arguments.ship, arguments.data_dir, announce=say)
        print(f"{'shipped':<18}{arguments.ship}")
