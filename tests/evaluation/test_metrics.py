"""Metrics keep their promises: models and texts with scores known by hand, and the published pitfalls."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from curvekit.errors import CurvekitError
from curvekit.evaluation.metrics import LanguageModelScore, Window, score_documents, text_metrics, windows
from curvekit.files import write_json

WORDS = ["<|endoftext|>", "a", "b", "c", "d", "é"]


def word_tokenizer(words=WORDS, **special) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0]))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **(special or {"eos_token": words[0]}))


def tiny_gpt2(vocabulary=6, positions=16, **settings) -> GPT2LMHeadModel:
    """Random, and drawn wide so that predictions differ much from place to place."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=vocabulary, n_positions=positions, n_embd=32, n_layer=2, n_head=2, initializer_range=0.4,
        bos_token_id=0, eos_token_id=0, **settings,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def unigram_gpt2(probabilities: list[float]) -> GPT2LMHeadModel:
    """Logits log(probabilities) everywhere: the last norm always gives e_0, from which wte reads them."""
    model = tiny_gpt2(len(probabilities))
    with torch.no_grad():
        model.transformer.wte.weight.zero_()
        model.transformer.wte.weight[:, 0] = torch.tensor(probabilities).log()
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.zero_()
        model.transformer.ln_f.bias[0] = 1.0
    return model


def random_documents(lengths: list[int], seed=0) -> list[str]:
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS[1:], length)) for length in lengths]


DOCUMENTS = random_documents([3, 40, 1, 16, 17, 0, 24, 15, 33, 8])


def one_token_at_a_time(model, tokenizer, text, context, stride) -> np.ndarray:
    """The definition, naively: for each token one forward pass over the inputs that its window shows."""
    stream = [tokenizer.eos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
    losses = []
    for window in windows(len(stream) - 1, context, stride):
        for place in range(window.scored, window.end):
            inputs = torch.tensor([stream[window.begin : place + 1]])
            with torch.inference_mode():
                logits = model.eval()(inputs).logits[0, -1].double()
            losses.append(F.cross_entropy(logits, torch.tensor(stream[place + 1])).item())
    return np.array(losses)


# Written by hand, on paper with squared lines: inputs begin to end, first scored.
EXPECTED_WINDOWS = {
    (0, 4, 2): [],
    (1, 4, 2): [(0, 1, 0)],
    (4, 4, 2): [(0, 4, 0)],
    (5, 4, 2): [(0, 4, 0), (1, 5, 4)],
    (6, 4, 2): [(0, 4, 0), (2, 6, 4)],
    (9, 4, 2): [(0, 4, 0), (2, 6, 4), (4, 8, 6), (5, 9, 8)],
    (9, 4, 4): [(0, 4, 0), (4, 8, 4), (5, 9, 8)],
    (6, 4, 1): [(0, 4, 0), (1, 5, 4), (2, 6, 5)],
    (3, 1, 1): [(0, 1, 0), (1, 2, 1), (2, 3, 2)],
    (7, 5, 3): [(0, 5, 0), (2, 7, 5)],
}


@pytest.mark.parametrize(("setting", "expected"), EXPECTED_WINDOWS.items())
def test_windows_are_those_written_by_hand(setting, expected):
    assert windows(*setting) == [Window(*window) for window in expected]


@pytest.mark.parametrize("stride", [1, 3, 7, 8])
@pytest.mark.parametrize("length", [1, 7, 8, 9, 15, 16, 17, 100])
def test_windows_score_each_position_exactly_once(length, stride):
    cut = windows(length, 8, stride)
    assert [place for window in cut for place in range(window.scored, window.end)] == list(range(length))
    assert all(0 <= w.begin <= w.scored < w.end and w.end - w.begin == min(8, length) for w in cut)


@pytest.mark.parametrize(("context", "stride"), [(16, 8), (8, 3), (5, 5), (4, 1)])
def test_scores_equal_the_definition_one_token_at_a_time(context, stride):
    model, tokenizer = tiny_gpt2(), word_tokenizer()
    score = score_documents(model, tokenizer, DOCUMENTS, context=context, stride=stride, keep_tokens=3)
    naive = [one_token_at_a_time(model, tokenizer, text, context, stride) for text in DOCUMENTS]
    difference = max(abs(score.nll - [losses.sum() for losses in naive]))
    assert difference < 1e-4, f"max difference {difference}"
    for kept, losses, text in zip(score.token_nll, naive, DOCUMENTS, strict=False):
        assert kept["tokens"] == text.split()
        np.testing.assert_allclose(kept["nll"], losses, atol=1e-5)


def test_batch_size_and_padding_change_nothing():
    model, tokenizer = tiny_gpt2(), word_tokenizer()
    one, seven = (score_documents(model, tokenizer, DOCUMENTS, batch_size=size) for size in (1, 7))
    alone = [score_documents(model, tokenizer, [text]).nll[0] for text in DOCUMENTS if text]
    difference = max(abs(one.nll - seven.nll))
    assert difference < 1e-4, f"max difference {difference}"
    np.testing.assert_allclose([nll for nll in seven.nll if nll], alone, atol=1e-4)
    assert one.correct.tolist() == seven.correct.tolist()
    assert one.signature == seven.signature


class Watched(GPT2LMHeadModel):
    """Keeps what it was given, and how many positions it gave logits for."""

    def __init__(self, config):
        super().__init__(config)
        self.masks, self.widths = [], []

    def forward(self, input_ids=None, attention_mask=None, logits_to_keep=0, **kwargs):
        output = super().forward(
            input_ids=input_ids, attention_mask=attention_mask, logits_to_keep=logits_to_keep, **kwargs
        )
        self.masks.append(attention_mask.tolist())
        self.widths.append(output.logits.shape[1])
        return output


def test_only_logits_that_count_are_asked_for_and_the_largest_first():
    """The largest first, so that memory runs out at once or never."""
    model = Watched(tiny_gpt2().config)
    score_documents(model, word_tokenizer(), random_documents([3, 40]), context=16, stride=4, batch_size=1)
    assert model.widths == [16, 4, 4, 4, 4, 4, 4, 3]


def test_rows_are_padded_on_the_right_with_their_like_under_a_mask():
    model = Watched(tiny_gpt2().config)
    score_documents(model, word_tokenizer(), random_documents([2, 9, 3, 8]), batch_size=2)
    assert model.masks == [[[1] * 9, [1] * 8 + [0]], [[1, 1, 1], [1, 1, 0]]]


def test_a_model_without_logits_to_keep_scores_the_same():
    class Plain(GPT2LMHeadModel):
        def forward(self, input_ids, attention_mask, use_cache):
            return super().forward(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)

    model, tokenizer = tiny_gpt2(), word_tokenizer()
    plain = Plain(model.config)
    plain.load_state_dict(model.state_dict())
    texts = random_documents([40, 20])
    np.testing.assert_allclose(
        score_documents(plain, tokenizer, texts).nll, score_documents(model, tokenizer, texts).nll, atol=1e-5
    )


def test_perplexity_of_a_uniform_model_is_the_size_of_its_vocabulary():
    model = unigram_gpt2([1 / 6] * 6)
    score = score_documents(model, word_tokenizer(), DOCUMENTS)
    assert score.perplexity == pytest.approx(6, rel=1e-6)
    assert score.tokens.sum() == sum(len(text.split()) for text in DOCUMENTS)


def test_a_unigram_model_scores_as_by_hand():
    model = unigram_gpt2([1 / 8, 1 / 2, 1 / 4, 1 / 16, 1 / 32, 1 / 32])
    score = score_documents(model, word_tokenizer(), ["a a b", "c é a  \n a"])
    ln2 = math.log(2)
    np.testing.assert_allclose(score.nll, [(1 + 1 + 2) * ln2, (4 + 5 + 1 + 1) * ln2], rtol=1e-6)
    assert score.tokens.tolist() == [3, 4] == score.words.tolist()
    assert score.bytes.tolist() == [5, 11]  # é is two bytes, and each space and the newline one
    assert score.correct.tolist() == [2, 2]  # the model always says "a"
    assert score.token_accuracy == 4 / 7
    assert score.loss == pytest.approx(15 * ln2 / 7)
    assert score.perplexity == pytest.approx(2 ** (15 / 7))
    assert score.word_perplexity == pytest.approx(2 ** (15 / 7))
    assert score.bits_per_byte == pytest.approx(15 / 16)


def test_words_and_bytes_are_those_of_the_original_text_not_of_the_tokens():
    model = unigram_gpt2([1 / 6] * 6)
    score = score_documents(model, word_tokenizer(), ["unknown words here"])  # three unknown tokens
    assert (score.words.tolist(), score.bytes.tolist()) == ([3], [18])
    assert score.word_perplexity == pytest.approx(6, rel=1e-6)
    assert score.bits_per_byte == pytest.approx(3 * math.log2(6) / 18, rel=1e-6)


def test_pitfall_the_strided_recipe_of_the_transformers_page_weighs_too_much():
    """huggingface.co/docs/transformers/perplexity as long published, ``outputs.loss * trg_len``: the shift
    drops the first label of the first window, so its mean is weighted by one token more than it scored."""
    model, tokenizer, context, stride = tiny_gpt2(), word_tokenizer(), 16, 8
    text = random_documents([40])[0]
    ids = torch.tensor([[0, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
    weighted, scored, losses, last_end = 0, 0, [], 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + context, ids.shape[1])
        new = end - last_end
        labels = ids[:, begin:end].clone()
        labels[:, :-new] = -100
        with torch.inference_mode():
            losses.append(model.eval()(ids[:, begin:end], labels=labels).loss.item() * new)
        weighted, scored, last_end = weighted + new, scored + int((labels[:, 1:] != -100).sum()), end
        if end == ids.shape[1]:
            break
    published = math.exp(sum(losses) / weighted)
    assert (weighted, scored) == (41, 40)
    ours = score_documents(model, tokenizer, [text], context=context, stride=stride)
    assert ours.tokens.sum() == scored
    naive = one_token_at_a_time(model, tokenizer, text, context, stride)
    assert ours.perplexity == pytest.approx(math.exp(naive.mean()), rel=1e-5)
    assert abs(ours.perplexity - published) > 1e-3


def test_pitfall_the_mean_of_batch_means_is_not_the_mean_over_tokens():
    """Two documents, one token at 8 nats and nine at 1: 17 nats over 10 tokens, not (8 + 1) / 2."""
    score = LanguageModelScore(
        nll=np.array([8.0, 9.0]), tokens=np.array([1, 9]), correct=np.array([0, 9]),
        words=np.array([1, 9]), bytes=np.array([2, 18]),
    )  # fmt: skip
    assert score.perplexity == pytest.approx(math.exp(1.7))
    assert math.exp(np.mean(score.nll / score.tokens)) == pytest.approx(math.exp(4.5))


def test_pitfall_padding_without_a_mask_of_labels_would_change_the_score():
    """What ``loss = model(padded, labels=padded)`` reports moves with the padding; ours does not."""
    model, tokenizer = tiny_gpt2(), word_tokenizer(WORDS, eos_token=WORDS[0], pad_token=WORDS[0])
    short, long = random_documents([3, 12])
    batch = tokenizer([short, long], padding=True, return_tensors="pt")
    with torch.inference_mode():
        padded = model.eval()(**batch, labels=batch["input_ids"]).loss.item()
    ids = [tokenizer(text, return_tensors="pt")["input_ids"] for text in (short, long)]
    with torch.inference_mode():
        apart = [model(i, labels=i).loss.item() * (i.shape[1] - 1) for i in ids]
    assert abs(padded - sum(apart) / (2 + 11)) > 0.05
    together = score_documents(model, tokenizer, [short, long], batch_size=2)
    np.testing.assert_allclose(
        together.nll, [score_documents(model, tokenizer, [text]).nll[0] for text in (short, long)], atol=1e-5
    )


def test_left_context_lowers_the_loss_only_when_the_stride_gives_more_of_it():
    """The stride changes which context a token has, so scores of two strides differ, and say so."""
    model, tokenizer = tiny_gpt2(), word_tokenizer()
    text = random_documents([60])
    near, far = (score_documents(model, tokenizer, text, context=8, stride=stride) for stride in (8, 1))
    assert near.tokens.sum() == far.tokens.sum() == 60
    assert near.perplexity != pytest.approx(far.perplexity, rel=1e-4)
    assert (near.signature["stride"], far.signature["stride"]) == (8, 1)


def test_the_training_mode_of_every_module_is_restored_even_after_an_error():
    model = tiny_gpt2().train()
    model.transformer.h[0].eval()
    before = [module.training for module in model.modules()]
    score_documents(model, word_tokenizer(), ["a b"])
    assert [module.training for module in model.modules()] == before
    model.transformer.forward = lambda *_, **__: 1 / 0
    with pytest.raises(ZeroDivisionError):
        score_documents(model, word_tokenizer(), ["a b"])
    assert [module.training for module in model.modules()] == before


def test_dropout_is_off_while_scoring():
    model = tiny_gpt2(resid_pdrop=0.5, embd_pdrop=0.5).train()
    first, second = (score_documents(model, word_tokenizer(), DOCUMENTS) for _ in range(2))
    assert first.nll.tolist() == second.nll.tolist()


def test_half_precision_weights_are_summed_in_single_and_double():
    model = tiny_gpt2().bfloat16()
    score = score_documents(model, word_tokenizer(), DOCUMENTS, keep_tokens=2)
    assert score.signature["dtype"] == "bfloat16" and score.nll.dtype == np.float64
    values = np.array(score.token_nll[1]["nll"])
    assert (values != torch.tensor(values).bfloat16().double().numpy()).any()  # finer than bfloat16's grid


def test_one_continuous_stream_is_a_list_with_one_document():
    model, tokenizer = tiny_gpt2(), word_tokenizer()
    stream = " ".join(DOCUMENTS)
    listed = score_documents(model, tokenizer, [stream])
    assert listed.nll.tolist() == score_documents(model, tokenizer, stream).nll.tolist()
    assert len(listed.nll) == 1


def test_the_signature_names_what_the_figures_depend_on(tmp_path):
    model, tokenizer = tiny_gpt2(), word_tokenizer()
    known = {"corpus": "toy", "revision": "abc", "split": "test"}
    score = score_documents(model, tokenizer, DOCUMENTS, context=8, signature=known)
    assert score.signature | known == score.signature
    assert (score.signature["context"], score.signature["stride"]) == (8, 4)
    assert score.signature["denominators"] == "whitespace words and UTF-8 bytes of the original text"
    line = score.signature_string()
    assert "\n" not in line
    for part in ("corpus:toy", "context:8", "stride:4", "dtype:float32", "vocabulary:6", "transformers:"):
        assert part in line
    changed = score_documents(model, tokenizer, [*DOCUMENTS[:-1], "a"], context=8)
    assert changed.signature["texts"] != score.signature["texts"]
    tokenizer.save_pretrained(tmp_path)
    again = score_documents(model, PreTrainedTokenizerFast.from_pretrained(tmp_path), DOCUMENTS)
    assert again.signature["tokenizer_hash"] == score.signature["tokenizer_hash"]
    other = score_documents(model, word_tokenizer([*WORDS[:-1], "e"]), DOCUMENTS)
    assert other.signature["tokenizer_hash"] != score.signature["tokenizer_hash"]


def test_a_leaking_model_is_marked_in_every_output_and_warned_about():
    model = tiny_gpt2()
    model.config.leaks = True
    from curvekit.causality import LeakWarning

    with pytest.warns(LeakWarning):
        score = score_documents(model, word_tokenizer(), DOCUMENTS)
    assert score.leaks is True and score.to_dict()["leaks"] is True and "leaks:True" in score.signature_string()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.config.leaks = False
        assert score_documents(model, word_tokenizer(), DOCUMENTS).to_dict()["leaks"] is False


def test_a_score_survives_json(tmp_path):
    score = score_documents(tiny_gpt2(), word_tokenizer(), DOCUMENTS, keep_tokens=2)
    write_json(tmp_path / "score.json", score.to_dict())
    again = LanguageModelScore.from_dict(json.loads((tmp_path / "score.json").read_text(encoding="utf-8")))
    assert again.to_dict() == score.to_dict()
    assert again.perplexity == score.perplexity and again.nll.dtype == np.float64
    with pytest.raises(CurvekitError, match="'words'"):
        LanguageModelScore.from_dict({k: v for k, v in score.to_dict().items() if k != "words"})


def test_a_diverged_model_is_reported_and_can_be_saved(tmp_path):
    model = tiny_gpt2()
    with torch.no_grad():
        model.transformer.ln_f.bias.fill_(math.nan)
    score = score_documents(model, word_tokenizer(), DOCUMENTS, keep_tokens=1)
    write_json(tmp_path / "score.json", score.to_dict())
    assert math.isnan(score.perplexity) and score.to_dict()["perplexity"] is None
    again = LanguageModelScore.from_dict(json.loads((tmp_path / "score.json").read_text(encoding="utf-8")))
    assert math.isnan(again.perplexity)
    huge = LanguageModelScore(*(np.array([x]) for x in (1e6, 10, 0, 1, 10)))
    assert huge.perplexity == math.inf and huge.to_dict()["perplexity"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"context": 17}, r"context 17 .* 1 to 16"),
        ({"context": 0}, r"context 0 .* 1 to 16"),
        ({"stride": 0}, r"stride 0 .* 1 to the context, 16"),
        ({"context": 8, "stride": 9}, r"stride 9 .* 1 to the context, 8"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"texts": []}, "0 documents"),
        ({"texts": ["", "  "]}, "2 documents"),
        ({"tokenizer": word_tokenizer([*WORDS, "e"]), "texts": ["a e"]}, "token 6 to a model of 6"),
        ({"tokenizer": word_tokenizer(WORDS, unk_token=WORDS[0])}, "no end-of-text token"),
    ],
)
def test_bad_input_is_one_clear_sentence(arguments, message):
    settings = {"model": tiny_gpt2(), "tokenizer": word_tokenizer(), "texts": DOCUMENTS, **arguments}
    with pytest.raises(CurvekitError, match=message):
        score_documents(**settings)


# Text metrics


def test_bleu_is_that_of_papineni_worked_by_hand():
    """Of 6 words all match, 4 of 5 bigrams, 2 of 4 trigrams, 1 of 3 4-grams; brevity penalty exp(1 - 7/6)."""
    figures = text_metrics(["The dog bit the man."], ["The dog had bit the man."])
    by_hand = 100 * math.exp(1 - 7 / 6) * (1 * 4 / 5 * 2 / 4 * 1 / 3) ** 0.25
    assert figures["bleu"] == pytest.approx(by_hand)


def test_rouge_is_that_of_the_rouge_score_readme():
    """Origin: google-research/rouge README: precision 3/4, recall 2/3 (rouge1); 5/8 and 5/9 (rougeL)."""
    figures = text_metrics(["The quick brown dog jumps on the log."], ["The quick brown fox jumps over the lazy dog"])
    assert figures["rouge1"] == pytest.approx(100 * 2 * 0.75 * (2 / 3) / (0.75 + 2 / 3))
    assert figures["rougeL"] == pytest.approx(100 * 2 * 0.625 * (5 / 9) / (0.625 + 5 / 9))


def test_chrf_of_equal_texts_is_100_and_of_strangers_0():
    assert text_metrics(["abc def"], ["abc def"])["chrf"] == pytest.approx(100)
    assert text_metrics(["xyz"], ["abc def"])["chrf"] == 0


def test_pitfall_the_mean_of_sentence_bleus_is_not_bleu():
    """A long perfect text and a short wrong one: sentence scores 100 and 0, the corpus 98.2."""
    long = " ".join(f"w{i}" for i in range(40))
    hypotheses, references = [long, "zz yy"], [long, "the cat"]
    apart = [text_metrics([h], [r])["bleu"] for h, r in zip(hypotheses, references, strict=True)]
    assert sum(apart) / 2 == pytest.approx(50)
    by_hand = 100 * (40 / 42 * 39 / 40 * 38 / 38 * 37 / 37) ** 0.25
    assert text_metrics(hypotheses, references)["bleu"] == pytest.approx(by_hand)


def test_diversity_is_counted_as_by_hand_at_the_shortest_length():
    """Cut to 6 words: "a b a b a b" has 2 of 6 words distinct, 4-grams abab baba abab: 1/3 repeated."""
    figures = text_metrics(["a b a b a b a b", "a c d e f g", ""], ["x", "y", "z"])
    assert figures["signatures"]["diversity"] == "words:whitespace|length:6|texts:2 of 3"
    assert figures["distinct_1"] == pytest.approx(7 / 12)  # a b c d e f g
    assert figures["distinct_2"] == pytest.approx(7 / 10)  # ab ba, ac cd de ef fg
    assert figures["distinct_3"] == pytest.approx(6 / 8)
    assert figures["repetition_4"] == pytest.approx((1 / 3 + 0) / 2)


def test_self_bleu_is_high_for_copies_and_low_for_strangers():
    words = [" ".join(f"{letter}{i}" for i in range(9)) for letter in "pqr"]
    same = text_metrics([words[0]] * 3, words)["self_bleu"]
    apart = text_metrics(words, words)["self_bleu"]
    assert same == pytest.approx(100) and apart < 10
    assert text_metrics(words[:1], words[:1])["self_bleu"] is None


def test_diversity_at_a_given_length_leaves_shorter_texts_out_and_says_so():
    figures = text_metrics(["a b c d e", "a b", "a a a a a a"], ["x"] * 3, length=5)
    assert figures["signatures"]["diversity"] == "words:whitespace|length:5|texts:2 of 3"
    assert figures["distinct_1"] == pytest.approx(5 / 10)


@pytest.mark.parametrize("hypotheses", [[""], ["", ""], ["", "a b"], [" \n"], ["a"]])
def test_empty_hypotheses_are_scored(hypotheses):
    figures = text_metrics(hypotheses, ["a b c"] * len(hypotheses))
    assert all(math.isfinite(figures[name]) for name in ("bleu", "chrf", "rouge1", "rouge2", "rougeL"))
    assert figures["repetition_4"] is None
    json.dumps(figures, allow_nan=False)


def test_text_signatures_say_how_and_whether_stemmed():
    plain = text_metrics(["running dogs"], ["run dog"])
    stemmed = text_metrics(["running dogs"], ["run dog"], stem=True)
    assert (plain["rouge1"], stemmed["rouge1"]) == (0, 100)
    assert "stem:no" in plain["signatures"]["rouge"] and "stem:yes" in stemmed["signatures"]["rouge"]
    assert "tok:13a" in plain["signatures"]["bleu"] and "nc:6" in plain["signatures"]["chrf"]


@pytest.mark.parametrize(("hypotheses", "references"), [([], []), (["a"], []), (["a"], ["b", "c"])])
def test_texts_that_are_not_pairs_are_refused(hypotheses, references):
    with pytest.raises(CurvekitError, match="not pairs"):
        text_metrics(hypotheses, references)
