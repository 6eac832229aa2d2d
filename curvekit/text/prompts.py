r"""Examples to tokens: turns by the base's chat template or by a plain one, with what is scored and what fits.

Plain, an example is one document: the end-of-text token, the prompt, and the answer with an end-of-text token behind
it; a dialogue has a line a turn, ``User: ...`` and ``Assistant: ...``, and its answers end with the line. By a chat
template the same turns stand as the base has learned them. Either way each piece is tokenised by itself, so that a
model is asked for exactly the tokens that it was trained on.

Labels are the tokens of the answers and what ends them, -100 elsewhere. What does not fit is cut where the task says
(``Task.cut``): to the field's beginning, or to windows of it that overlap by half.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from curvekit.errors import CurvekitError, first_line
from curvekit.text.tasks import Example, Task, Turn
from curvekit.text.tokenization import start_token

FORMS = ("auto", "plain", "chat")
NAMES = {"user": "User:", "assistant": "Assistant:", "system": "System:"}
_LEAST = 8  # tokens of a field that is cut


@dataclass(frozen=True)
class Encoded:
    """Token ids and labels of one length; ``cut`` tells that not all of the example is in it."""

    ids: list[int]
    labels: list[int]
    cut: bool = False

    @property
    def scored(self) -> int:
        """How many tokens count."""
        return sum(label != -100 for label in self.labels)


class Prompter:
    """How the examples of a task become tokens of a model.

    Args:
        task: whose examples they are.
        tokenizer: the model's own.
        room: tokens that an example may have, answer included.
        form: ``chat`` by the tokeniser's chat template, ``plain`` without, ``auto`` by the template if it has one.

    Raises:
        CurvekitError: ``chat`` of a tokeniser without a template.
    """

    def __init__(self, task: Task, tokenizer: Any, room: int, form: str = "auto") -> None:
        has = bool(getattr(tokenizer, "chat_template", None))
        if form == "chat" and not has:
            raise CurvekitError("form is 'chat', and the tokeniser has no chat template; use 'plain'")
        self.task, self.tokenizer, self.room = task, tokenizer, room
        self.chat = has and form != "plain"

    @property
    def stop(self) -> tuple[str, ...]:
        """What ends an answer besides the end-of-text token."""
        return () if self.chat else self.task.stop

    @property
    def fingerprint(self) -> str:
        """12 hexadecimal digits that change with the prompt: template, form, chat template."""
        template = self.tokenizer.chat_template if self.chat else str(NAMES)
        return hashlib.sha256(f"{self.task.template}\0{template}\0{self.stop}".encode()).hexdigest()[:12]

    # What is trained and scored

    def encode(self, example: Example, train: bool = True) -> list[Encoded]:
        """The example with its answers scored: one piece, or of a dialogue that is too long several.

        Of windows it is the first that holds the answer; where none does, the first of all, in training nothing.
        """
        if self.task.kind == "dialogue":
            return list(self._pieces(example.turns))
        spots = list(self._fitted(example, len(self._answer(example.target))))
        if len(spots) == 1:
            return [self._joined(spots[0], example.target, cut=spots[0] != example.turns[0].text)]
        holding = [spot for spot in spots if example.target in spot]
        if not holding and train and self.task.windows:
            return []
        return [self._joined((holding or spots)[0], example.target, cut=True)]

    def continued(self, prompt: list[int], answer: str) -> Encoded:
        """A prompt and an answer of one's choice, which is scored; a prompt too long for both loses its beginning."""
        ids = self._answer(answer)[: self.room - 1]
        prompt = prompt[-(self.room - len(ids)) :]
        return Encoded([*prompt, *ids], [-100] * len(prompt) + ids)

    # What is asked

    def ask(self, example: Example, new_tokens: int | None = None) -> list[list[int]]:
        """The prompt's token ids, up to where the answer begins; several where it is read window by window."""
        reserve = self.task.new_tokens if new_tokens is None else new_tokens
        if self.task.kind == "dialogue":
            return [self.history(example.turns[:-1], reserve)]
        return [self._prompt([Turn("user", spot)]) for spot in self._fitted(example, reserve)]

    def history(self, turns: Sequence[Turn], reserve: int) -> list[int]:
        """Turns up to the assistant's next; the earliest are left out, and at last cut, where they do not fit."""
        kept = list(turns)
        while len(ids := self._prompt(kept)) > self.room - reserve and len(kept) > 2:
            first = 1 if kept[0].role == "system" else 0
            if len(kept) - first <= 2:
                break
            del kept[first : first + 2]
        return ids[-max(1, self.room - reserve) :]

    # By hand

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def _prompt(self, turns: Sequence[Turn]) -> list[int]:
        if self.chat:
            return self._ids(self._rendered(turns, True))
        if self.task.kind != "dialogue":
            return [start_token(self.tokenizer), *self._ids(turns[0].text)]
        lines = "".join(f"{NAMES[turn.role]} {turn.text}\n" for turn in turns)
        return [start_token(self.tokenizer), *self._ids(lines), *self._ids(NAMES["assistant"])]

    def _answer(self, text: str) -> list[int]:
        """The tokens of an answer to one prompt, with what ends it."""
        end = self.tokenizer.eos_token_id
        if self.chat:
            return [*self._ids(text), end]
        head = self.task.template[: self.task.template.rindex("{")] if "{" in self.task.template else " "
        return [*self._ids(f"{' ' if head.endswith(' ') else ''}{text}"), end]

    def _joined(self, prompt: str, answer: str, cut: bool) -> Encoded:
        found = self.continued(self._prompt([Turn("user", prompt)]), answer)
        return Encoded(found.ids, found.labels, cut)

    def _rendered(self, turns: Sequence[Turn], asks: bool) -> str:
        """Turns by the chat template, as text."""
        messages = [{"role": turn.role, "content": turn.text} for turn in turns]
        try:
            return self.tokenizer.apply_chat_template(messages, add_generation_prompt=asks, tokenize=False)
        except Exception as error:  # a template raises what it likes
            raise CurvekitError(
                f"the chat template cannot take these turns ({first_line(error)}); use form 'plain'"
            ) from error

    def _turns(self, turns: Sequence[Turn]) -> Encoded:
        """A whole dialogue, each answer scored."""
        ids: list[int] = [] if self.chat else [start_token(self.tokenizer)]
        labels = [-100] * len(ids)

        def add(text: str, scored: bool) -> None:
            new = self._ids(text)
            ids.extend(new)
            end = new.index(self.tokenizer.eos_token_id) + 1 if self.tokenizer.eos_token_id in new else len(new)
            labels.extend(new[:end] + [-100] * (len(new) - end) if scored else [-100] * len(new))

        done = ""
        for number, turn in enumerate(turns):
            if self.chat:
                if turn.role != "assistant":
                    continue
                before, after = self._rendered(turns[:number], True), self._rendered(turns[: number + 1], False)
                if not (before.startswith(done) and after.startswith(before)):
                    raise CurvekitError("the chat template writes earlier turns anew at each turn; use form 'plain'")
                add(before[len(done) :], False)
                add(after[len(before) :], True)
                done = after
            elif turn.role == "assistant":
                add(NAMES["assistant"], False)
                add(f" {turn.text}\n", True)
            else:
                add(f"{NAMES[turn.role]} {turn.text}\n", False)
        return Encoded(ids, labels)

    def _pieces(self, turns: Sequence[Turn], cut: bool = False) -> Iterator[Encoded]:
        """The dialogue, or halves of it that fit, each of which begins with a user's turn."""
        found = self._turns(turns)
        if len(found.ids) <= self.room:
            yield Encoded(found.ids, found.labels, cut)
            return
        middle = len(turns) // 2
        places = [p for p in range(1, len(turns)) if turns[p].role == "user" and turns[p - 1].role == "assistant"]
        if not places:
            labels = found.labels[-self.room :]
            yield Encoded(found.ids[-self.room :], [-100, *labels[1:]], True)
            return
        place = min(places, key=lambda p: abs(p - middle))
        yield from self._pieces(turns[:place], True)
        yield from self._pieces(turns[place:], True)

    def _fitted(self, example: Example, reserve: int) -> Iterator[str]:
        """The prompt, with the field that is cut shortened, or window by window, so that ``reserve`` tokens fit too."""
        prompt, task = example.turns[0].text, self.task
        excess = len(self._prompt([Turn("user", prompt)])) + reserve - self.room
        if excess <= 0:
            yield prompt
            return
        text = example.fields.get(task.cut or "", "")
        offsets = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)[
            "offset_mapping"
        ]
        size = len(offsets) - excess - 2  # cut elsewhere, a text may have a token or two more
        if size < min(_LEAST, len(offsets)) or not offsets:
            raise CurvekitError(
                f"the template leaves no room for the answer: the prompt has {excess + self.room - reserve:,} tokens, "
                f"of which {len(offsets):,} may be cut, the answer {reserve:,}, and there is room for {self.room:,}; "
                "shorten the template or raise block_size or context"
            )
        starts = range(0, len(offsets), max(1, size // 2)) if task.windows else range(1)
        for start in starts:
            end = min(start + size, len(offsets))
            start = max(0, end - size)
            part = text[offsets[start][0] : offsets[end - 1][1]]
            yield task.prompt({**example.fields, str(task.cut): part})
            if end == len(offsets):
                return
