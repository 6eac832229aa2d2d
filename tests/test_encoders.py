"""The bridge gives each token its own WordPieces, and each context sees what it says."""

import pytest
import torch
from transformers.cache_utils import DynamicCache

from curvekit.bases.berts import load_bert, load_encoder, plain_bert
from curvekit.encoders import ContextEncoder, bridge, bridged_table
from curvekit.errors import CurvekitError
from curvekit.text.tokenization import train_bpe

WORDS = "the curve runs through unbelievable words , Xning and Yning Zning the straße 漢字 <|endoftext|> the end ."


@pytest.fixture(scope="module")
def minilm():
    return load_bert("minilm")


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe([WORDS] * 20, 500)


def test_the_packaged_encoder_is_the_real_minilm(minilm):
    model, wordpieces = minilm
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(22.6e6, rel=0.01)
    assert len(wordpieces) == 30522 and model.config.hidden_size == 384
    inputs = wordpieces(["a river bank", "a bank account", "money in the bank"], return_tensors="pt", padding=True)
    with torch.no_grad():
        states = model(**inputs).last_hidden_state
    place = (inputs["input_ids"] == wordpieces.convert_tokens_to_ids("bank")).nonzero()
    river, account, money = states[place[:, 0], place[:, 1]]
    near, far = (torch.cosine_similarity(account, other, dim=0) for other in (money, river))
    assert near > far, "'bank' in an account must lie nearer to money's than to a river's"


def test_every_token_has_its_own_wordpieces(minilm, tokenizer):
    pieces = bridge(tokenizer, minilm[1])
    assert len(pieces) == len(tokenizer)
    of = lambda token: minilm[1].convert_ids_to_tokens(pieces[tokenizer.convert_tokens_to_ids(token)])  # noqa: E731
    assert of("Ġthe") == ["the"]
    assert of("Ġthrough") == ["through"]
    assert of("Ġunbelievable") == ["unbelievable"]
    assert of("ning") == ["##ning"], "a token that goes on with a word is a continuation to BERT too"
    assert of("<|endoftext|>") == ["[SEP]"]
    assert of("Ġ") == []
    assert of("æ") == ["[UNK]"], "a byte that is no text by itself"


def test_a_tables_row_is_the_average_of_its_pieces():
    table = bridged_table(torch.arange(8.0).view(4, 2), [[0], [1, 3], [], [2, 2]])
    assert table.tolist() == [[0, 1], [4, 5], [0, 0], [4, 5]]


def test_a_bridged_bert_of_whole_words_is_that_bert(minilm, tokenizer):
    """Where every token is one WordPiece, the bridged encoder gives BERT's own states."""
    model, wordpieces = minilm
    text = " the end"
    bridged = load_encoder("minilm", tokenizer)
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    own = wordpieces(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert torch.allclose(bridged(ids).last_hidden_state, model(own).last_hidden_state, atol=1e-5)


def encoder_of(bert, context, **arguments):
    encoder = ContextEncoder(plain_bert(bert.config), context, **arguments)
    encoder.fill(bert)
    return encoder.eval()


@pytest.fixture(scope="module")
def tiny(tiny_encoder, tiny_tokenizer):
    return load_encoder(str(tiny_encoder), tiny_tokenizer)


def changed(encoder, position):
    ids = torch.randint(1, 100, (1, 9), generator=torch.Generator().manual_seed(0))
    other = ids.clone()
    other[0, position] = (ids[0, position] + 7) % 100
    with torch.no_grad():
        return (encoder(ids) - encoder(other)).abs().amax((0, 2)) > 0


def test_what_each_context_sees(tiny):
    assert changed(encoder_of(tiny, "static"), 4).tolist() == [i == 4 for i in range(9)]
    assert changed(encoder_of(tiny, "causal"), 4).tolist() == [i >= 4 for i in range(9)]
    assert changed(encoder_of(tiny, "bidirectional"), 4).all()


def test_a_frozen_encoder_stays_as_it_is_and_a_trainable_one_learns(tiny):
    ids = torch.arange(9)[None]
    frozen = encoder_of(tiny, "causal").train()
    assert not frozen(ids).requires_grad and torch.equal(frozen(ids), frozen(ids)), "its dropout must stay off"
    assert not any(p.requires_grad for p in frozen.parameters())
    open_ = encoder_of(tiny, "causal", trainable=True).train()
    open_(ids).sum().backward()
    assert open_.bert.embeddings.word_embeddings.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("padded", [False, True])
def test_one_more_word_behind_a_cache_is_what_the_modules_compute(tiny, padded, monkeypatch):
    encoder = encoder_of(tiny, "causal").eval()
    ids = torch.randint(1, 100, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    if padded:
        mask[0, :4] = mask[2, :1] = 0
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    steps = []
    monkeypatch.setattr(encoder, "_step", lambda *args: steps.append(1) or ContextEncoder._step(encoder, *args))

    def states(parts):
        cache, at, found = DynamicCache(), 0, []
        for size in parts:
            now = slice(at, at + size)
            found.append(encoder(ids[:, now], mask[:, : at + size], places[:, now], cache))
            at += size
        return torch.cat(found, 1)[mask.bool()]

    with torch.no_grad():
        by_step, whole = states([4, *[1] * 5]), states([9])
        assert len(steps) == 5
        monkeypatch.setattr(encoder, "_steps", lambda *_: False)
        by_module = states([4, *[1] * 5])
    assert len(steps) == 5 and torch.allclose(by_step, by_module, atol=1e-6)
    assert torch.allclose(by_step, whole, atol=1e-5)


def test_rows_beyond_the_tokenizer_are_zero(tiny_encoder, tiny_tokenizer):
    table = load_encoder(str(tiny_encoder), tiny_tokenizer, 512).embeddings.word_embeddings.weight
    assert table.shape[0] == 512 and (table[len(tiny_tokenizer) :] == 0).all()


def test_what_is_no_encoder_is_refused(tmp_path, tiny_base):
    with pytest.raises(CurvekitError, match="no encoder folder"):
        load_bert("./nowhere")
    with pytest.raises(CurvekitError, match="HF_HUB_OFFLINE is set"):
        load_bert("bert-base-uncased")
    with pytest.raises(CurvekitError, match="is a 'gpt2'"):
        load_bert(str(tiny_base))
    with pytest.raises(CurvekitError, match="no encoder"):
        load_bert(str(tmp_path))


def test_the_weights_are_read_from_safetensors_only(tmp_path, tiny_encoder):
    """A checkpoint that holds only a pickle is not opened."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_encoder / name).read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CurvekitError, match="safetensors"):
        load_bert(str(tmp_path))
