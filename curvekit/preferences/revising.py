"""The loop of a constitution: draft, critique, revise, a principle at a time, every line of it kept.

A folder holds ``drafts.jsonl`` and ``rounds.jsonl``, a line for each answer and principle, written when it is done; so
whatever is killed goes on after its last line. ``revisions.jsonl`` has draft and last revision as a pair,
``feedback.jsonl`` the critic's preferences between two answers, ``agreement.json`` how far it agrees with the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from curvekit.errors import CurvekitError
from curvekit.files import append_jsonl, read_json, read_jsonl, write_json, write_jsonl
from curvekit.ownership import Kind, json_with, mark, marker, require, rows_with
from curvekit.preferences.constitution import Constitution
from curvekit.preferences.critics import Critic, agreement
from curvekit.preferences.gathering import Answer, Preference

DRAFT = {"prompt": str, "draft": str, "ended": bool}
ROUND = {"round": int, "number": int, "principle": str, "before": str, "fault": bool, "critique": str, "after": str}
FEEDBACK = {"prompt": str, "first": str, "second": str, "answer": str, "first_ended": bool, "second_ended": bool}
LOOP = Kind(
    "constitution",
    "a constitution's folder",
    {
        "constitution.json": json_with("name", "principles"),
        "critic.json": json_with("critic", only=True),
        "drafts.jsonl": rows_with("prompt", "draft"),
        "rounds.jsonl": rows_with("round", "principle", "before", "after"),
        "feedback.jsonl": rows_with("prompt", "first", "second"),
        "revisions.jsonl": rows_with("prompt", "chosen", "rejected"),
        "preferred.jsonl": rows_with("prompt", "chosen", "rejected"),
        "agreement.json": json_with("critic", "principles"),
    },
    proofs=("constitution.json",),
)
Write = Callable[[Sequence[str]], list[Answer]]
Say = Callable[[str], object]


def open_loop(folder: Path, constitution: Constitution, critic: Critic) -> None:
    """Make the folder, or find in it the same constitution and critic.

    Raises:
        CurvekitError: it is another's, or holds another constitution or another critic's work.
    """
    require(folder, LOOP)
    folder.mkdir(parents=True, exist_ok=True)
    if not marker(folder):
        mark(folder, LOOP.name)
    wanted = {"constitution.json": _plain(constitution), "critic.json": {"critic": critic.name}}
    for name, value in wanted.items():
        path = folder / name
        if path.exists() and read_json(path) != value:
            raise CurvekitError(
                f"{folder} was begun with another {name.removesuffix('.json')}; take it again, or another folder"
            )
        if not path.exists():
            write_json(path, value)


def _plain(constitution: Constitution) -> dict[str, Any]:
    found = asdict(constitution)
    return found | {"principles": list(found["principles"])}


def revise(
    folder: Path, constitution: Constitution, critic: Critic, prompts: Sequence[str], write: Write, say: Say = print
) -> list[Preference]:
    """Draft an answer to each prompt, revise it by each principle, and return draft and revision where they differ.

    Raises:
        CurvekitError: the critic cannot answer; what was done before is kept.
    """
    drafts = read_jsonl(folder / "drafts.jsonl", DRAFT)
    if [row["prompt"] for row in drafts] != list(prompts):
        if drafts:
            raise CurvekitError(f"{folder} was begun with other prompts; take them again, or another folder")
        say(f"drafting {len(prompts)} answers")
        drafts = [
            {"prompt": prompt, "draft": answer.text, "ended": answer.ended}
            for prompt, answer in zip(prompts, write(prompts), strict=True)
        ]
        write_jsonl(folder / "drafts.jsonl", drafts)
    done = _whole(folder / "rounds.jsonl", ROUND)
    answers = [row["draft"] for row in drafts]
    for each in done:
        answers[each["number"]] = each["after"]
    total = len(drafts) * len(constitution.principles)
    if done and len(done) < total:
        say(f"goes on after {len(done)} of {total} critiques")
    for place in range(len(done), total):
        number_of_round, number = divmod(place, len(drafts))
        principle = constitution.principles[number_of_round]
        if number == 0:
            say(f"round {number_of_round + 1} of {len(constitution.principles)}: {principle.name}")
        prompt, before = drafts[number]["prompt"], answers[number]
        verdict = critic.critique(principle, prompt, before)
        after = critic.revise(principle, prompt, before, verdict.text) if verdict.fault else before
        row: dict[str, Any] = {
            "round": number_of_round,
            "number": number,
            "principle": principle.name,
            "prompt": prompt,
        }
        row |= {"before": before, "fault": verdict.fault, "critique": verdict.text, "after": after or before}
        if (rule := principle.checked_by()) is not None:
            row |= {"broken_before": not rule.kept(before), "broken_after": not rule.kept(after or before)}
        append_jsonl(folder / "rounds.jsonl", row)
        answers[number] = row["after"]
    known = {"kind": "revision", "constitution": constitution.fingerprint(), "critic": critic.name}
    pairs = [
        Preference(draft["prompt"], answer, draft["draft"], True, bool(draft["ended"]), known | {"number": number})
        for number, (draft, answer) in enumerate(zip(drafts, answers, strict=True))
        if answer != draft["draft"]
    ]
    write_jsonl(folder / "revisions.jsonl", (each.to_dict() for each in pairs))
    write_json(folder / "agreement.json", measured(folder, constitution, critic))
    return pairs


def measured(folder: Path, constitution: Constitution, critic: Critic) -> dict[str, Any]:
    """How far the critic agrees with the rules, and what share of answers kept each before and after revision."""
    rows = read_jsonl(folder / "rounds.jsonl", ROUND)
    found = []
    for principle in constitution.principles:
        own = [row for row in rows if row["principle"] == principle.name and "broken_before" in row]
        if own:
            told = agreement([(row["fault"], row["broken_before"]) for row in own])
            kept = {f"kept_{when}": 1 - sum(row[f"broken_{when}"] for row in own) / len(own) for when in _WHEN}
            found.append({"principle": principle.name, "rule": principle.rule, **told, **kept})
    return {"critic": critic.name, "principles": found}


_WHEN = ("before", "after")


def feedback(
    folder: Path, constitution: Constitution, critic: Critic, prompts: Sequence[str], write: Write, say: Say = print
) -> list[Preference]:
    """Two answers to each prompt, and which the critic prefers; ties teach nothing and are left out.

    Raises:
        CurvekitError: the critic prefers none of any two; or it cannot answer, and what was done before is kept.
    """
    path = folder / "feedback.jsonl"
    rows = _whole(path, FEEDBACK)
    left = list(prompts)[len(rows) :]
    if left:
        say(f"asking {critic.name} about two answers to each of {len(left)} prompts")
        answers = write([prompt for prompt in prompts for _ in range(2)])
        for number, prompt in list(enumerate(prompts))[len(rows) :]:
            first, second = answers[2 * number], answers[2 * number + 1]
            row: dict[str, Any] = {"prompt": prompt, "first": first.text, "second": second.text}
            row |= {"first_ended": first.ended, "second_ended": second.ended}
            same = first.text == second.text
            row["answer"] = "tie" if same else critic.prefer(constitution, prompt, first.text, second.text)
            append_jsonl(path, row)
            rows.append(row)
    pairs = []
    for number, row in enumerate(rows):
        if row["answer"] == "tie":
            continue
        chosen, rejected = ("first", "second") if row["answer"] == "first" else ("second", "first")
        provenance = {"kind": "feedback", "constitution": constitution.fingerprint(), "critic": critic.name}
        pairs.append(
            Preference(
                row["prompt"], row[chosen], row[rejected], row[f"{chosen}_ended"], row[f"{rejected}_ended"],
                provenance | {"number": number},
            )
        )  # fmt: skip
    if not pairs:
        raise CurvekitError(f"{critic.name} prefers neither of any two answers, which teaches nothing; take another")
    write_jsonl(folder / "preferred.jsonl", (each.to_dict() for each in pairs))
    return pairs


def _whole(path: Path, shape: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a file that grows, without a last line that a kill cut off."""
    rows = read_jsonl(path, shape)
    if path.exists():
        write_jsonl(path, rows)
    return rows
