"""``curvekit explore``: what a corpus is made of, before anything is trained on it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from curvekit.cli.flags import Commands, command, listed, path
from curvekit.cli.printing import say
from curvekit.files import write_json

if TYPE_CHECKING:
    from curvekit.text.exploration import Exploration


def add(commands: Commands) -> None:
    each = command(
        commands,
        "explore",
        run,
        "look at a corpus first: lengths, characters, words, repeats, tokens a word, examples",
        "  curvekit explore pydocs\n"
        "  curvekit explore stories --data-dir path/to/stories --out reports/stories\n"
        "  curvekit explore path/to/texts --tokenizers mini smollm2 gpt2 characters bpe",
    )
    each.add_argument("corpus", metavar="CORPUS", help="a corpus's name, a file, a folder, or the folder of a task")
    each.add_argument(
        "--data-dir", type=path, metavar="FOLDER", help="folder with the corpus's files, instead of the hub"
    )
    each.add_argument(
        "--tokenizers",
        nargs="+",
        default=["mini"],
        metavar="NAME",
        help="bases whose tokenisers are measured; characters and bpe are learned from the corpus (default: mini)",
    )
    each.add_argument("--vocabulary", type=int, default=8192, metavar="N", help="entries of a learned bpe")
    each.add_argument(
        "--aligned",
        action="store_true",
        help="CORPUS is a folder of translations, line by line (text.de.txt, text.en.txt, ...): "
        "what each tokeniser asks of each language",
    )
    each.add_argument("--seed", type=int, default=0, metavar="N", help="of the examples (default: 0)")
    each.add_argument(
        "--out", type=path, metavar="FOLDER", help="also write exploration.json and the figures as SVG and PNG"
    )


def run(arguments: argparse.Namespace) -> None:
    from curvekit.text.exploration import explore, tokenizers_by_name

    named = listed(arguments.tokenizers)
    if arguments.aligned:
        _aligned(arguments, named)
        return
    if arguments.out:
        _require_place(arguments.out)
    found = explore(
        arguments.corpus,
        arguments.data_dir,
        tokenizers_by_name(named, arguments.vocabulary),
        arguments.seed,
        announce=say,
    )
    print("\n".join(_lines(found)))
    if arguments.out:
        from curvekit import figures
        from curvekit.figures.corpora import pictures

        write_json(arguments.out / "exploration.json", found.summary())
        for name, figure in pictures(found).items():
            figures.save(figure, name, arguments.out)
        say(f"written: {arguments.out}")


def _require_place(folder: Any) -> None:
    from curvekit.ownership import json_with, require_file

    require_file(folder / "exploration.json", json_with("corpus", "zipf_exponent"))


def _lines(found: Exploration) -> list[str]:
    counts, exponent, once = found.zipf()
    lines = []
    for name, each in found.splits.items():
        middle = sorted(each.lengths)[len(each.lengths) // 2] if len(each.lengths) else 0
        lines.append(
            f"{name:<18}{each.documents:,} documents, {each.words:,} words, {each.characters:,} characters, "
            f"{each.bytes:,} bytes; {middle:,} words in the middle one"
        )
        if any(each.repeats):
            lines.append(f"{'':<18}{each.repeats[0]:,} repeat an earlier one exactly, {each.repeats[1]:,} nearly")
        if any(each.leaked):
            lines.append(f"{'':<18}{each.leaked[0]:,} stand in a held-out split exactly, {each.leaked[1]:,} nearly")
    letters = sum(found.scripts.values()) or 1
    shares = ", ".join(f"{script} {n / letters:.2%}" for script, n in found.scripts.most_common(6))
    lines.append(f"{'scripts':<18}{shares or 'no letters'}")
    rare = found.rare_characters
    shown = " ".join(character for character, _ in rare[:40] if character.isprintable())
    lines.append(f"{'characters':<18}{len(found.characters):,} different, {len(rare):,} fewer than ten times: {shown}")
    for kind, (n, around) in found.wrong.items():
        lines.append(f"{'':<18}{n:,} {kind}, such as in {around!r}")
    lines.append(
        f"{'words':<18}{len(counts):,} different, {once:.0%} of them once; Zipf's exponent {exponent:.2f}; of the last "
        f"split's words {found.unseen[0]:.1%} are not in train"
    )
    for name, figure in found.tokens.items():
        lines.append(
            f"{'tokens, ' + name:<18}{figure['per_word']:.2f} a word, {figure['per_character']:.2f} a character, "
            f"{figure['bytes_per_token']:.2f} bytes each; {figure['cut']:.0%} of the words in pieces"
        )
    ends = ", ".join(f"{rule} {n:,}" for rule, n in found.trailers.items())
    lines.append(f"{'trailers':<18}{ends or 'no document ends in one'}")
    for title, text in found.examples.items():
        lines += ["", f"{title}:", *(f"    {line}" for line in text.splitlines())]
    return lines


def _aligned(arguments: argparse.Namespace, named: list[str]) -> None:
    from curvekit.evaluation.languages import aligned_files, prices
    from curvekit.evaluation.results import markdown_table
    from curvekit.text.exploration import tokenizers_by_name

    texts = aligned_files(arguments.corpus)
    lines = [line for text in texts.values() for line in text.splitlines()]  # what is learned, is from all of them
    made = {name: make(lines) for name, make in tokenizers_by_name(named, arguments.vocabulary).items()}
    found = prices(texts, made)
    print(
        markdown_table(
            [
                {"language": language}
                | {
                    name: f"{each[language]['premium']:.2f} ({each[language]['per_word']:.2f} a word)"
                    for name, each in found.items()
                }
                for language in texts
            ]
        )
    )
    if arguments.out:
        from curvekit import figures
        from curvekit.figures.corpora import price_of_languages

        write_json(arguments.out / "prices.json", found)
        figures.save(price_of_languages(found), "prices", arguments.out)
        say(f"written: {arguments.out}")
