"""Packing and padding: nothing is lost unsaid, memory stays flat, half files are never believed, equal streams are
made once."""

from __future__ import annotations

import copy
import json
import pickle
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from curvekit.errors import CurvekitError
from curvekit.text import packing
from curvekit.text.documents import as_dataset
from curvekit.text.packing import PackedBlocks, pack, pad, tokenizer_fingerprint


class ByteTokenizer:
    """A token a byte, with no backend of the tokenizers library; ``shift`` moves all tokens up."""

    eos_token_id = 0
    bos_token_id = None

    def __init__(self, shift: int = 1) -> None:
        self.shift = shift

    def __len__(self) -> int:
        return self.shift + 256

    def get_vocab(self) -> dict[str, int]:
        return {f"byte {i}": i + self.shift for i in range(256)}

    def __call__(self, texts, **options):
        return {"input_ids": [[byte + self.shift for byte in text.encode()] for text in texts]}


def stream(texts, tokenizer) -> list[int]:
    """The stream as one reads it off the definition."""
    ids = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [token for document in ids for token in (tokenizer.eos_token_id, *document)]


def concatenated(blocks: PackedBlocks) -> list[int]:
    return [token for block in blocks for token in block["input_ids"].tolist()]


# The stream and its blocks


@pytest.mark.parametrize("block_size", [2, 7, 64])
@pytest.mark.parametrize("named", [True, False])
def test_the_blocks_joined_are_the_stream_but_for_the_last_partial_block(
    tiny_texts, tiny_tokenizer, tmp_path, block_size, named
):
    expected = stream(tiny_texts, tiny_tokenizer)
    blocks = pack(tiny_texts, tiny_tokenizer, block_size, tmp_path / "a.tokens" if named else None)
    assert blocks.tokens == len(expected)
    assert len(blocks) == len(expected) // block_size
    assert concatenated(blocks) == expected[: len(blocks) * block_size]
    assert blocks.stream.tolist() == expected  # the rest is not used, and not lost either
    assert expected.count(tiny_tokenizer.eos_token_id) == len(tiny_texts)


def test_a_block_is_input_and_labels_that_a_trainer_takes(tiny_texts, tiny_tokenizer):
    blocks = pack(tiny_texts, tiny_tokenizer, 16)
    block = blocks[0]
    assert block["input_ids"].dtype == torch.long and block["input_ids"].shape == (16,)
    assert torch.equal(block["input_ids"], block["labels"])
    block["labels"][:] = -100
    assert (blocks[0]["labels"] >= 0).all() and (block["input_ids"] >= 0).all()
    assert torch.equal(blocks[-1]["input_ids"], blocks[len(blocks) - 1]["input_ids"])
    with pytest.raises(IndexError):
        blocks[len(blocks)]


def test_lists_datasets_columns_and_generators_give_the_same_stream(tiny_texts, tiny_tokenizer):
    expected = stream(tiny_texts, tiny_tokenizer)
    dataset = as_dataset(tiny_texts)
    for texts in (tiny_texts, dataset, dataset["text"], (text for text in tiny_texts), dataset.to_iterable_dataset()):
        assert pack(texts, tiny_tokenizer, 8).stream.tolist() == expected


def test_a_whole_corpus_or_a_single_string_is_refused(tiny_tokenizer):
    for wrong in ("a string", {"train": ["a"], "test": ["b"]}):
        with pytest.raises(TypeError, match="one split"):
            pack(wrong, tiny_tokenizer, 8)


@pytest.mark.parametrize("size", [20, 64, 333])
def test_cutting_a_long_document_changes_no_token(tiny_texts, tiny_tokenizer, monkeypatch, size):
    text = "  \n\n".join(tiny_texts) + " x1 2 ... (a) — déjà vu , it 's\t\tend\n \n" + "unbroken" * 50 + " tail"
    whole = stream([text], tiny_tokenizer)
    monkeypatch.setattr(packing, "_PIECE", size)
    assert len(list(packing._pieces(text))) > 5
    assert "".join(packing._pieces(text)) == text
    assert pack([text, text], tiny_tokenizer, 8).stream.tolist() == whole + whole


def test_padding_and_truncation_of_an_earlier_call_leave_no_trace(tiny_texts, tiny_tokenizer, tmp_path):
    used = copy.deepcopy(tiny_tokenizer)
    used(tiny_texts[:2], padding="max_length", truncation=True, max_length=5)
    assert tokenizer_fingerprint(used) == tokenizer_fingerprint(tiny_tokenizer)
    assert pack(tiny_texts, used, 8).stream.tolist() == stream(tiny_texts, tiny_tokenizer)


def test_tokens_take_two_bytes_and_large_vocabularies_four(tiny_texts, tiny_tokenizer, tmp_path):
    assert pack(tiny_texts, tiny_tokenizer, 8).stream.dtype == np.uint16
    blocks = pack(tiny_texts, ByteTokenizer(70_000), 8)
    assert blocks.stream.dtype == np.uint32
    assert blocks.stream.tolist() == stream(tiny_texts, ByteTokenizer(70_000))


# Padded examples


@pytest.mark.parametrize("block_size", [2, 20, 40, 512])
def test_a_padded_example_is_one_document_between_ends_of_text(tiny_texts, tiny_tokenizer, tmp_path, block_size):
    texts = [*tiny_texts[:5], "", "A river.", tiny_texts[5] * 9]
    end = tiny_tokenizer.eos_token_id
    examples = pad(texts, tiny_tokenizer, block_size, tmp_path / "a.tokens")
    documents = [tiny_tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert len(examples) == len(texts)
    for example, ids in zip(examples, documents, strict=True):
        expected = [end, *ids, end][:block_size]
        length = len(expected)
        assert example["input_ids"].tolist() == expected + [end] * (block_size - length)
        assert example["attention_mask"].tolist() == [1] * length + [0] * (block_size - length)
        assert example["labels"].tolist() == expected + [-100] * (block_size - length)
    assert examples.cut == sum(1 + len(ids) > block_size for ids in documents)
    assert examples.tokens_cut == sum(max(0, 1 + len(ids) - block_size) for ids in documents)
    share = examples.tokens_cut / examples.tokens
    assert str(examples) == (
        f"{examples.cut} of 8 documents are longer than {block_size} tokens and were cut: "
        f"{share:.0%} of all tokens are left out"
    )


def test_packed_and_padded_read_the_same_file(tiny_texts, tiny_tokenizer, tmp_path, monkeypatch):
    blocks = pack(tiny_texts, tiny_tokenizer, 16, tmp_path / "a.tokens")
    unnamed = pickle.loads(pickle.dumps(pad(tiny_texts, tiny_tokenizer, 512)))
    monkeypatch.setattr(packing, "_write", lambda *_: pytest.fail("tokenised again"))
    examples = pad(tiny_texts, tiny_tokenizer, 512, tmp_path / "a.tokens")
    assert examples.stream.tolist() == blocks.stream.tolist() and examples.cut == 0
    copied = pickle.loads(pickle.dumps(examples))
    assert len(pickle.dumps(examples)) < 1000
    for name in ("input_ids", "attention_mask", "labels"):
        assert torch.equal(copied[3][name], examples[3][name])
    assert torch.equal(unnamed[-1]["input_ids"], examples[len(examples) - 1]["input_ids"])


def test_a_long_document_that_was_tokenised_in_pieces_is_one_example(tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(packing, "_PIECE", 20)
    examples = pad(["the river was low " * 30, "the boats"], tiny_tokenizer, 64)
    assert len(examples) == 2 and examples.cut == 1


# Memory


def peak_of_packing(documents: int, path: Path) -> float:
    """Megabytes of Python memory at the highest, for documents of 100 kB that exist only while they are read."""
    tracemalloc.start()
    try:
        blocks = pack((f"{i:04} " * 20_000 for i in range(documents)), ByteTokenizer(), 256, path)
        assert blocks.tokens == documents * (5 * 20_000 + 1)
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_corpus(tmp_path):
    small, large = peak_of_packing(12, tmp_path / "small"), peak_of_packing(96, tmp_path / "large")
    assert large < 1.2 * small, f"{small:.1f} MB for 1.2 MB of text, {large:.1f} MB for 9.6 MB"


def test_memory_does_not_grow_with_a_document(tmp_path, monkeypatch):
    longest = []

    class Watching(ByteTokenizer):
        def __call__(self, texts, **options):
            longest.append(sum(map(len, texts)))
            return super().__call__(texts)

    pack(["word " * 500_000], Watching(), 256)
    assert max(longest) <= packing._BATCH + packing._PIECE + 5


def test_workers_open_the_file_again_instead_of_receiving_it(tiny_texts, tiny_tokenizer, tmp_path):
    blocks = pack(tiny_texts * 20, tiny_tokenizer, 16, tmp_path / "a.tokens")
    sent = pickle.dumps(blocks)
    assert len(sent) < 1000 < blocks.stream.nbytes
    loader = torch.utils.data.DataLoader(pickle.loads(sent), batch_size=4, num_workers=1)
    loaded = torch.cat([batch["input_ids"].flatten() for batch in loader]).tolist()
    assert loaded == concatenated(blocks)
    unnamed = pack(tiny_texts, tiny_tokenizer, 16)
    assert concatenated(pickle.loads(pickle.dumps(unnamed))) == concatenated(unnamed)


def test_a_copy_notices_that_its_file_was_written_anew(tiny_texts, tiny_tokenizer, tmp_path):
    sent = pickle.dumps(pack(tiny_texts, tiny_tokenizer, 16, tmp_path / "a.tokens"))
    pack(tiny_texts[:30], tiny_tokenizer, 16, tmp_path / "a.tokens")
    with pytest.raises(CurvekitError, match="written anew"):
        pickle.loads(sent)


# The file


def test_the_file_is_safetensors(tiny_texts, tiny_tokenizer, tmp_path):
    blocks = pack(tiny_texts, tiny_tokenizer, 8, tmp_path / "a.tokens")
    saved = load_file(tmp_path / "a.tokens")
    assert saved["tokens"].tolist() == blocks.stream.tolist()
    begins = saved["starts"].tolist()
    assert len(begins) == len(tiny_texts) and {blocks.stream[i] for i in begins} == {tiny_tokenizer.eos_token_id}


def test_equal_texts_and_tokeniser_are_tokenised_once(tiny_texts, tiny_tokenizer, tmp_path, monkeypatch):
    path = tmp_path / "a.tokens"
    first = pack(tiny_texts, tiny_tokenizer, 8, path)
    monkeypatch.setattr(packing, "_write", lambda *_: pytest.fail("tokenised again"))
    again = pack(as_dataset(tiny_texts), copy.deepcopy(tiny_tokenizer), 8, path)
    assert concatenated(again) == concatenated(first)
    longer = pack(tiny_texts, tiny_tokenizer, 32, path)  # the stream does not depend on the block size
    assert concatenated(longer) == first.stream.tolist()[: len(longer) * 32]


@pytest.mark.parametrize("change", ["text", "border", "tokeniser", "cut off", "no starts"])
def test_a_file_of_something_else_is_not_used(tiny_texts, tiny_tokenizer, tmp_path, change):
    path, texts, tokenizer = tmp_path / "a.tokens", list(tiny_texts), tiny_tokenizer
    pack(texts, tokenizer, 8, path)
    if change == "text":
        texts[-1] += "!"
    elif change == "border":
        texts[0] += texts.pop(1)
    elif change == "tokeniser":
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.add_tokens(["river"])
    elif change == "cut off":
        path.write_bytes(path.read_bytes()[:-10])
    else:  # as an earlier version wrote it
        data = path.read_bytes()
        header = json.loads(data[8:512])
        size = header.pop("starts")["data_offsets"][0]
        path.write_bytes(data[:8] + json.dumps(header).encode().ljust(504) + data[512 : 512 + size])
    assert pack(texts, tokenizer, 8, path).stream.tolist() == stream(texts, tokenizer)


def test_a_kill_in_the_middle_leaves_the_old_file(tiny_texts, tmp_path, monkeypatch):
    path = tmp_path / "a.tokens"
    blocks = pack(tiny_texts, ByteTokenizer(), 8, path)
    code = (
        f"import sys; sys.path[:0] = {[str(Path(__file__).parent), str(Path(packing.__file__).parents[1])]!r}\n"
        "from test_packing import *\n"
        f"pack(('word ' * 50_000 for _ in iter(int, 1)), ByteTokenizer(), 8, {str(path)!r}, progress=False)"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 120
    while sum(file.stat().st_size for file in tmp_path.iterdir()) < 10 * blocks.stream.nbytes:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    monkeypatch.setattr(packing, "_write", lambda *_: pytest.fail("the old file was not believed"))
    assert concatenated(pack(tiny_texts, ByteTokenizer(), 8, path)) == concatenated(blocks)


def test_a_failure_in_the_middle_leaves_nothing_behind(tiny_texts, tiny_tokenizer, tmp_path):
    def texts():
        yield from tiny_texts
        raise RuntimeError("the disk of the corpus fell out")

    with pytest.raises(RuntimeError, match="fell out"):
        pack(texts(), tiny_tokenizer, 8, tmp_path / "a.tokens")
    assert list(tmp_path.iterdir()) == []


# Complaints


@pytest.mark.parametrize("named", [True, False])
def test_a_corpus_shorter_than_a_block_says_both_numbers(tiny_tokenizer, tmp_path, named):
    count = len(stream(["Too short."], tiny_tokenizer))
    with pytest.raises(CurvekitError, match=f"has {count} tokens, fewer than one block of 1,024"):
        pack(["Too short."], tiny_tokenizer, 1024, tmp_path / "a.tokens" if named else None)
    assert list(tmp_path.iterdir()) == []


def test_a_corpus_too_short_for_a_longer_block_is_found_out_on_reuse(tiny_tokenizer, tmp_path):
    pack(["Too short for that."], tiny_tokenizer, 2, tmp_path / "a.tokens")
    with pytest.raises(CurvekitError, match="fewer than one block of 1,024"):
        pack(["Too short for that."], tiny_tokenizer, 1024, tmp_path / "a.tokens")


def test_a_file_of_the_user_s_is_not_overwritten(tiny_texts, tiny_tokenizer, tmp_path):
    (tmp_path / "train.txt").write_text("\n".join(tiny_texts))
    with pytest.raises(CurvekitError, match="is no token stream"):
        pack(tiny_texts, tiny_tokenizer, 8, tmp_path / "train.txt")
    assert (tmp_path / "train.txt").read_text() == "\n".join(tiny_texts)


def test_blocks_of_nothing_and_tokenisers_without_an_end_are_refused(tiny_texts, tiny_tokenizer):
    with pytest.raises(CurvekitError, match="a block of 1 tokens"):
        pack(tiny_texts, tiny_tokenizer, 1)
    endless = ByteTokenizer()
    endless.eos_token_id = None
    with pytest.raises(CurvekitError, match="no end-of-text token"):
        pack(tiny_texts, endless, 8)


def test_a_log_gets_plain_lines_and_silence_on_request(tiny_texts, tiny_tokenizer, monkeypatch, capsys):
    clock = iter(range(0, 10**6, 6))
    monkeypatch.setattr(packing.time, "monotonic", lambda: next(clock))
    pack(tiny_texts, tiny_tokenizer, 8, progress=False)
    assert capsys.readouterr().err == ""
    pack(tiny_texts, tiny_tokenizer, 8)
    lines = capsys.readouterr().err
    assert "packing: 1 documents\n" in lines and "\r" not in lines
