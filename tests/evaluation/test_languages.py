"""Languages: a score for each, the price a vocabulary asks, scripts that are what they are called, both directions."""

import pytest

from curvekit.cli.frame import main
from curvekit.errors import CurvekitError
from curvekit.evaluation.forgetting import gains
from curvekit.evaluation.languages import aligned_files, prices, score_languages
from curvekit.evaluation.metrics import score_documents
from curvekit.figures.shading import _lines_of, token_probabilities_html
from curvekit.reports.markup import texts
from curvekit.text.corpora import load_corpus

SAID = {
    "fr": "Le fleuve était bas en été, et les bateaux reposaient sur le sable, loin de tout.",
    "ru": "Летом река была мелкой, и лодки лежали на песке, далеко от всего.",
    "he": "בקיץ היה הנהר נמוך, והסירות שכבו על החול, הרחק מכל דבר אחר בעולם.",
}


@pytest.fixture
def languages(tmp_path):
    for language, text in SAID.items():
        folder = tmp_path / "languages" / language
        folder.mkdir(parents=True)
        for split, count in (("train", 30), ("test", 4)):
            (folder / f"{split}.txt").write_text("\n".join(f"{text} {split} {i * i}" for i in range(count)) + "\n")
    return tmp_path / "languages"


def test_every_language_has_its_score(languages, make, tiny_tokenizer):
    model = make("plain").eval()
    found = score_languages(model, tiny_tokenizer, languages, documents=2, context=64)
    assert list(found) == ["fr", "he", "ru"]
    texts = load_corpus(languages / "ru")["test"]["text"][:2]
    assert found["ru"].bits_per_byte == score_documents(model, tiny_tokenizer, texts, context=64).bits_per_byte
    with pytest.raises(CurvekitError, match="has no folder of a language"):
        score_languages(model, tiny_tokenizer, languages / "fr")


def test_the_command_scores_languages(languages, tiny_base, capsys):
    assert main(["evaluate", str(tiny_base), "--languages", str(languages), "--documents", "1"]) == 0
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines()] == ["fr", "he", "ru"] and "bits a byte" in said


def test_a_language_in_another_script_is_refused(languages, tmp_path, capsys):
    (languages / "fr" / "train.txt").write_text("\n".join(f"{SAID['ru']} {i}" for i in range(30)))
    with pytest.raises(CurvekitError, match=r"\(fr\) that is written in Latin, and 100% of its letters are Cyrillic"):
        load_corpus(languages / "fr")
    file = tmp_path / "text.ru.txt"
    file.write_text("\n".join(f"{SAID['fr']} {i}" for i in range(30)))
    assert main(["explore", str(file)]) == 2
    assert "(ru) that is written in Cyrillic, and 100% of its letters are Latin; mend" in capsys.readouterr().err


def test_mixed_encodings_are_named(languages):
    path = languages / "ru" / "train.txt"
    path.write_bytes(path.read_bytes() + SAID["ru"].encode("cp1251"))
    with pytest.raises(CurvekitError, match="is not UTF-8"):
        load_corpus(languages / "ru")


def test_a_price_is_tokens_over_those_of_the_reference(tmp_path, tiny_tokenizer, capsys):
    for language, text in (SAID | {"en": "In summer the river was low, and the boats lay on the sand."}).items():
        (tmp_path / f"said.{language}.txt").write_text(f"{text}\n{text}\n")
    texts = aligned_files(tmp_path)
    found = prices(texts, {"tiny": tiny_tokenizer})["tiny"]
    count = lambda language: 2 * len(tiny_tokenizer(texts[language].splitlines()[0])["input_ids"])  # noqa: E731
    assert found["en"]["premium"] == 1 and found["ru"]["premium"] == count("ru") / count("en") > 2
    assert found["ru"]["per_word"] == count("ru") / len(texts["ru"].split())
    assert main(["explore", str(tmp_path), "--aligned", "--tokenizers", "mini", "bpe", "--vocabulary", "300",
                 "--out", str(tmp_path / "out")]) == 0  # fmt: skip
    assert "| ru |" in capsys.readouterr().out.replace("  ", " ") and (tmp_path / "out/figures/prices.svg").exists()
    (tmp_path / "said.fr.txt").write_text("one line\n")
    with pytest.raises(CurvekitError, match="not aligned"):
        aligned_files(tmp_path)


def test_running_text_is_shown_from_the_side_it_begins_at():
    page = token_probabilities_html(["שלום"], [0.5], [[]], "עולם")
    assert '<div dir="auto"' in page and "שלום" in page
    assert '<td dir="auto"' in str(texts([{"who": "a model", "text": SAID["he"]}]))


def test_figures_lay_tokens_out_from_the_side_that_their_text_begins_at():
    right, left = ([box[0] for box in _lines_of(tokens)[0]] for tokens in (["שלום", " עולם"], ["hello", " world"]))
    assert right[0] > right[1] and left[0] < left[1]


def test_what_is_gained_here_and_lost_there_is_told_apart(make, tiny_tokenizer, tiny_texts):
    base, other = make("plain").eval(), make("plain").eval()
    import torch

    with torch.no_grad():
        other.get_output_embeddings().weight.mul_(1.5)
    domains = {"here": tiny_texts[:6], "there": [text.upper() for text in tiny_texts[:6]]}
    models = {"base": (base, tiny_tokenizer), "tuned": (other, tiny_tokenizer)}
    found = gains(models, domains, "base", context=64, samples=200)
    assert list(found) == ["tuned"] and [row["label"] for row in found["tuned"]] == ["here", "there"]
    for row, texts_ in zip(found["tuned"], domains.values(), strict=True):
        losses = [score_documents(m, tiny_tokenizer, texts_, context=64).loss for m in (other, base)]
        assert (
            row["difference"] == pytest.approx(losses[0] - losses[1]) and row["low"] <= row["difference"] <= row["high"]
        )
    with pytest.raises(CurvekitError, match="none of the models"):
        gains(models, domains, "bas")
