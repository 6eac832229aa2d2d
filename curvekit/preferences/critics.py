"""Critics: a rule, a local model, or any endpoint that speaks OpenAI's dialect; each finds faults, revises, prefers.

A small model is a weak critic. So its verdict is not read out of what it writes: it is the likelier of *Yes* and *No*
as the first word of its answer, and between two answers it is asked twice, in both orders, so that a liking for the
first one cancels out. How far its verdicts agree with the rules is measured (:func:`agreement`) and shown.
"""

from __future__ import annotations

import itertools
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch

from curvekit.errors import CurvekitError, first_line
from curvekit.modes import evaluating
from curvekit.preferences.constitution import Constitution, Principle
from curvekit.preferences.encoding import prompt_ids
from curvekit.preferences.policies import write
from curvekit.preferences.ratings import wilson
from curvekit.preferences.rules import Rule, sentence_ends

TRIES = 4  # of a request that may succeed when it is given again
_AGAIN = {408, 409, 429, 500, 502, 503, 504}
LARGEST = 2**22  # bytes of an endpoint's answer


class Verdict(NamedTuple):
    """Whether an answer breaks a principle, and what the critic says of it."""

    fault: bool
    text: str


class Critic(Protocol):
    """Finds faults, revises, and prefers one answer to another."""

    name: str

    def critique(self, principle: Principle, prompt: str, answer: str) -> Verdict: ...

    def revise(self, principle: Principle, prompt: str, answer: str, critique: str) -> str: ...

    def prefer(self, constitution: Constitution, prompt: str, first: str, second: str) -> str: ...


def question(principle: Principle, prompt: str, answer: str) -> str:
    """What a critic is asked about an answer."""
    return f"{_told(prompt, answer)}\n\n{principle.critique} Answer Yes or No first, then say why in one sentence."


def request(principle: Principle, prompt: str, answer: str, critique: str) -> str:
    """What a critic is asked to write."""
    said = f"\n\nCritique: {critique}" if critique else ""
    return f"{_told(prompt, answer)}{said}\n\n{principle.revision} Write only the new answer."


def choice(constitution: Constitution, prompt: str, first: str, second: str) -> str:
    """What a critic is asked about two answers."""
    faults = "\n".join(f"- {each.critique}" for each in constitution.principles)
    return (
        f"Text: {prompt}\n\nAnswer A: {first}\n\nAnswer B: {second}\n\nThese are faults of an answer:\n{faults}\n\n"
        "Which answer has fewer of these faults? Answer A or B."
    )


def _told(prompt: str, answer: str) -> str:
    return f"Text: {prompt}\n\nAnswer: {answer}"


class RuleCritic:
    """The rules themselves: it finds what a program can find, and revises by leaving sentences out."""

    name = "rules"

    def critique(self, principle: Principle, prompt: str, answer: str) -> Verdict:
        rule = _rule_of(principle)
        kept = rule.kept(answer)
        return Verdict(not kept, f"It {'keeps' if kept else 'breaks'} the rule: {rule.asks}.")

    def revise(self, principle: Principle, prompt: str, answer: str, critique: str) -> str:
        """The longest beginning of whole sentences that keeps the rule, else the sentences that do; else the answer."""
        rule = _rule_of(principle)
        for end in reversed(sentence_ends(answer)):
            if rule.kept(answer[:end]):
                return answer[:end]
        ends = [0, *sentence_ends(answer)]
        kept = [answer[a:b] for a, b in itertools.pairwise(ends) if rule.kept(answer[a:b])]
        return "".join(kept) or answer

    def prefer(self, constitution: Constitution, prompt: str, first: str, second: str) -> str:
        scores = [sum(_rule_of(each)(text) for each in constitution.principles) for text in (first, second)]
        return "tie" if scores[0] == scores[1] else "first" if scores[0] > scores[1] else "second"


def _rule_of(principle: Principle) -> Rule:
    found = principle.checked_by()
    if found is None:
        raise CurvekitError(
            f"the principle {principle.name!r} has no rule, and the critic is rules alone; give it one, or take a "
            "model as critic"
        )
    return found


class LocalCritic:
    """A model of this machine; one with a chat template is asked as its user would ask it."""

    def __init__(self, name: str, model: Any, tokenizer: Any, tokens: int = 80, seed: int = 0) -> None:
        self.name, self.model, self.tokenizer = name, model, tokenizer
        self.tokens, self.seed = tokens, seed
        self.chat = bool(getattr(tokenizer, "chat_template", None))

    def critique(self, principle: Principle, prompt: str, answer: str) -> Verdict:
        asked = question(principle, prompt, answer)
        yes, no = self._odds(asked, ("Yes", "No"))
        word = "Yes" if yes > no else "No"
        return Verdict(yes > no, f"{word}. ({yes - no:+.2f} nats for Yes)")

    def revise(self, principle: Principle, prompt: str, answer: str, critique: str) -> str:
        ids = self._ids(request(principle, prompt, answer, critique), self.tokens)
        return write(self.model, self.tokenizer, [ids], self.tokens, self.seed, 0.7).answers[0].text.strip()

    def prefer(self, constitution: Constitution, prompt: str, first: str, second: str) -> str:
        a, b = self._odds(choice(constitution, prompt, first, second), ("A", "B"))
        c, d = self._odds(choice(constitution, prompt, second, first), ("A", "B"))
        margin = (a - b) + (d - c)
        return "tie" if margin == 0 else "first" if margin > 0 else "second"

    def _ids(self, text: str, room: int) -> list[int]:
        from curvekit.generation.streams import positions_of

        ids = prompt_ids(self.tokenizer, text, self.chat)
        if len(ids) + room > positions_of(self.model):
            raise CurvekitError(
                f"the critic {self.name!r} has {positions_of(self.model)} positions, and is asked something of "
                f"{len(ids)} tokens; lower answer_tokens, or take a larger critic"
            )
        return ids

    @torch.no_grad()
    def _odds(self, text: str, words: Sequence[str]) -> list[float]:
        """Log-probabilities of the first tokens of these words, as the first of the answer."""
        ids = torch.tensor([self._ids(text, 1)], device=self.model.device)
        with evaluating(self.model):
            found = self.model(input_ids=ids, logits_to_keep=1).logits[0, -1].float().log_softmax(-1)
        lead = "" if self.chat else " "
        firsts = [self.tokenizer(lead + word, add_special_tokens=False)["input_ids"][0] for word in words]
        return [float(found[token]) for token in firsts]


class EndpointCritic:
    """A chat model behind ``POST {url}/chat/completions``, as OpenAI's API and many servers offer it.

    Args:
        url: up to and without ``/chat/completions``, such as ``http://127.0.0.1:8000/v1``.
        model: its name there.
        key: sent as a bearer token, never written down.
        seconds: to wait for an answer.
    """

    def __init__(
        self, url: str, model: str, key: str | None = None, tokens: int = 80, seconds: float = 60.0, pause: float = 1.0
    ) -> None:
        if not re.match(r"https?://[^/]", url):
            raise CurvekitError(f"{url[:60]!r} is no address of an endpoint; give one such as http://127.0.0.1:8000/v1")
        self.url, self.model, self.tokens = url.rstrip("/"), model, tokens
        self.name = f"{model} at {self.url}"
        self._key, self._seconds, self._pause = key, seconds, pause

    def critique(self, principle: Principle, prompt: str, answer: str) -> Verdict:
        said = self._ask(question(principle, prompt, answer))
        return Verdict(_first_word(said, ("yes", "no"), self.name) == "yes", said)

    def revise(self, principle: Principle, prompt: str, answer: str, critique: str) -> str:
        return self._ask(request(principle, prompt, answer, critique)).strip()

    def prefer(self, constitution: Constitution, prompt: str, first: str, second: str) -> str:
        said = [
            _first_word(self._ask(choice(constitution, prompt, *pair)), ("a", "b"), self.name)
            for pair in ((first, second), (second, first))
        ]
        if said[0] == said[1]:  # the same place in both orders: it likes the place
            return "tie"
        return "first" if said[0] == "a" else "second"

    def _ask(self, text: str) -> str:
        body: dict[str, Any] = {"model": self.model, "messages": [{"role": "user", "content": text}]}
        body |= {"temperature": 0, "max_tokens": self.tokens}
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = json.dumps(body).encode()
        call = urllib.request.Request(f"{self.url}/chat/completions", data, headers)
        reason = ""
        for attempt in range(TRIES):
            if attempt:
                time.sleep(self._pause * 2 ** (attempt - 1))
            try:
                with urllib.request.urlopen(call, timeout=self._seconds) as answer:
                    return _content(answer.read(LARGEST), self.url)
            except urllib.error.HTTPError as error:
                reason = f"{error.code} {error.reason}"
                if error.code not in _AGAIN:
                    break
            except (OSError, TimeoutError) as error:
                reason = str(getattr(error, "reason", "")) or first_line(error)
        raise CurvekitError(
            f"the critic at {self.url} does not answer ({reason}); see that it runs and knows {self.model!r}, and give "
            "the same command again, it goes on"
        )


def _content(data: bytes, url: str) -> str:
    try:
        found: Mapping[str, Any] = json.loads(data)
        text = found["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise CurvekitError(
            f"the endpoint at {url} answers otherwise than OpenAI's chat does ({first_line(error)}); give another"
        ) from error
    if not isinstance(text, str):
        raise CurvekitError(f"the endpoint at {url} answers with {ascii(text)[:40]} in the place of a text")
    return text


def _first_word(text: str, known: Sequence[str], name: str) -> str:
    """The first of the known words that stands in a text."""
    found = re.search(rf"\b({'|'.join(known)})\b", text.lower())
    if found is None:
        raise CurvekitError(
            f"the critic {name} was asked for {' or '.join(known)} and says {text[:60]!r}; take another model"
        )
    return found[1]


def agreement(verdicts: Sequence[tuple[bool, bool]]) -> dict[str, float | int | None]:
    """How far a critic's verdicts agree with a rule's: ``(critic finds a fault, rule is broken)`` each.

    Returns:
        ``answers, agreement, low, high``: the share that agrees, with Wilson's interval; ``kappa``: Cohen's, which is 0
        for a critic that guesses as often as it finds faults, and None where one of the two never varies; ``found``:
        the share of broken rules that the critic finds, ``blamed``: of kept ones that it blames.
    """
    total = len(verdicts)
    agreed = sum(critic == rule for critic, rule in verdicts)
    low, high = wilson(agreed, total)
    share = agreed / total if total else 0.0
    said, broken = (sum(each[i] for each in verdicts) / total if total else 0.0 for i in (0, 1))
    chance = said * broken + (1 - said) * (1 - broken)
    faults = [critic for critic, rule in verdicts if rule]
    clean = [critic for critic, rule in verdicts if not rule]
    return {
        "answers": total,
        "agreement": share,
        "low": low,
        "high": high,
        "kappa": (share - chance) / (1 - chance) if chance < 1 else None,
        "found": sum(faults) / len(faults) if faults else None,
        "blamed": sum(clean) / len(clean) if clean else None,
    }
