"""Tasks: rows are checked by file, line and key; splits share nothing; a template says what is asked and answered."""

from __future__ import annotations

import pytest
from taskrows import dialogues, questions, write

from curvekit.errors import CurvekitError
from curvekit.text.rows import load_rows
from curvekit.text.tasks import TASKS, find_task, template_fields

QA = "{context} Q: {question} A: {answers}"


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "squad_qa", train=questions(40), test=questions(10, seed=1))


def test_a_named_task_reads_its_folder_and_holds_validation_rows_out(folder):
    rows = load_rows(TASKS["squad_qa"], data_dir=folder.parent)
    assert (len(rows.train) + len(rows.validation), len(rows.test)) == (40, 10) and rows.validation
    example = rows.test[0]
    assert example.source.endswith(f"Question: {example.fields['question']}\nAnswer:")
    assert example.target == example.references[0] and example.target in example.fields["context"]
    assert load_rows(TASKS["squad_qa"], data_dir=folder).revision == rows.revision


def test_rows_that_share_a_group_stay_on_one_side(tmp_path):
    rows = [{**row, "context": questions(4)[n % 4]["context"] + " all of it red blue green white black grey."}
            for n, row in enumerate(questions(60))]  # fmt: skip
    split = load_rows(TASKS["squad_qa"], data_dir=write(tmp_path, train=rows, test=questions(3, seed=2)))
    contexts = [{example.fields["context"] for example in part} for part in (split.train, split.validation)]
    assert not contexts[0] & contexts[1]


def test_a_test_row_that_stands_in_the_training_rows_is_counted_and_left_out(tmp_path):
    told = []
    copy = {**questions(40)[3], "question": questions(40)[3]["question"].upper() + "?!"}
    folder = write(tmp_path, train=questions(40), test=[*questions(5, seed=1), copy])
    rows = load_rows(TASKS["squad_qa"], data_dir=folder, announce=told.append)
    assert rows.left_out == 1 and len(rows.test) == 5
    assert "1 of 6 test rows stand in the training rows" in told[0]
    only = write(tmp_path / "only", train=questions(40), test=[copy])
    with pytest.raises(CurvekitError, match="no test row that is not in the training rows"):
        load_rows(TASKS["squad_qa"], data_dir=only)


def test_rows_of_ones_own_are_one_file_and_a_template(tmp_path):
    write(tmp_path, rows=questions(50))
    task = find_task(str(tmp_path / "rows.jsonl"), QA.replace(" Q:", "\\nQ:"))
    rows = load_rows(task, tmp_path / "rows.jsonl")
    sizes = [len(rows.split(name)) for name in ("train", "validation", "test")]
    assert sum(sizes) == 50 and all(sizes) and task.kind == "answer"
    assert "\nQ: What colour" in rows.test[0].source
    talk = find_task(str(write(tmp_path / "talk", train=dialogues(9), test=dialogues(3, seed=1))))
    assert talk.kind == "dialogue" and load_rows(talk, tmp_path / "talk").test[0].target.startswith("It is ")


def test_a_choice_of_ones_own_knows_the_labels_of_its_training_rows(tmp_path):
    folder = write(tmp_path, train=questions(60), test=questions(5, seed=1))
    task = find_task(str(folder), QA, "choice")
    assert load_rows(task, folder).task.labels == ("black", "blue", "green", "grey", "red", "white")
    write(folder, test=[{**questions(1, seed=3)[0], "answers": "mauve"}])
    with pytest.raises(CurvekitError, match="'mauve', which no training row has"):
        load_rows(task, folder)


def test_what_an_encoder_decoder_takes_is_the_same_example(tmp_path):
    folder = write(tmp_path, train=dialogues(9), test=dialogues(2, seed=1))
    example = load_rows(TASKS["topical_chat"], data_dir=folder).test[0]
    assert example.source.splitlines()[1] == "Assistant: Hello." and "User: What colour" in example.source
    assert example.target.startswith("It is")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"context": "a", "answers": ["a"]}, "no key 'question' (it has 'context', 'answers')"),
        ({"context": "a", "question": "b", "answers": []}, "has an empty answer"),
        ({"context": "a", "question": "b", "answers": [" "]}, "has an empty answer"),
        ({"context": "a", "question": "b", "answers": ["red"]}, "'red', which does not stand in its 'context'"),
        ({"context": None, "question": "b", "answers": ["a"]}, "under 'context' None; expected text"),
        ([1], "expected a JSON object"),
    ],
)
def test_a_row_that_cannot_be_taken_is_named_by_line_and_key(tmp_path, row, says):
    folder = write(tmp_path, train=[*questions(4), row], test=questions(2, seed=1))
    with pytest.raises(CurvekitError) as error:
        load_rows(TASKS["squad_qa"], data_dir=folder)
    assert says in str(error.value) and "train.jsonl, line 5" in str(error.value)


@pytest.mark.parametrize(
    ("turns", "says"),
    [
        ([("user", "a"), ("user", "b"), ("assistant", "c")], "turn 2: user speaks twice in a row"),
        ([("user", "a"), ("robot", "b")], "turn 2, is"),
        ([("user", "a"), ("assistant", " ")], "turn 2, is empty"),
        ([("user", "a")], "has no answer"),
        ([], "no key 'turns' with a list"),
    ],
)
def test_a_dialogue_that_cannot_be_taken_is_named_by_turn(tmp_path, turns, says):
    bad = {"turns": [{"role": role, "text": text} for role, text in turns]}
    folder = write(tmp_path, train=[*dialogues(4), bad], test=dialogues(2, seed=1))
    with pytest.raises(CurvekitError, match=says):
        load_rows(TASKS["sgd_dialogues"], data_dir=folder)


def test_a_label_outside_the_set_is_refused(tmp_path):
    rows = [{"context": "a", "question": f"b{n}", "answers": ["yes"]} for n in range(5)]
    folder = write(tmp_path, train=rows, test=[{**rows[0], "question": "c", "answers": ["maybe"]}])
    with pytest.raises(CurvekitError, match="'maybe'; strategyqa knows 'yes', 'no'"):
        load_rows(TASKS["strategyqa"], data_dir=folder)


@pytest.mark.parametrize("template", ["{a}", "no field", "{a} {b} end", "{a {b}", "{0} {b}", "{a!r} {b}", "{a} {a}"])
def test_a_template_without_a_question_and_a_last_answer_is_refused(template):
    with pytest.raises(CurvekitError, match="template is"):
        template_fields(template)


def test_names_and_folders_that_are_not_there_say_so(tmp_path):
    with pytest.raises(CurvekitError, match="did you mean 'squad_qa'"):
        find_task("squad")
    with pytest.raises(CurvekitError, match=r"no train.jsonl"):
        load_rows(TASKS["squad_qa"], data_dir=write(tmp_path / "half", test=questions(2)))
    with pytest.raises(CurvekitError, match="does not hold scitldr"):
        load_rows(TASKS["scitldr"], data_dir=tmp_path)
    with pytest.raises(CurvekitError, match="is on no hub"):
        load_rows(TASKS["topical_chat"])
    with pytest.raises(CurvekitError, match="give a template"):
        find_task(str(tmp_path), None, "summary")


def test_rows_come_from_the_hub_where_no_folder_is_named(monkeypatch):
    import datasets

    from curvekit.bases import hub

    def load_dataset(repository, config, split, revision):
        assert repository == "rajpurkar/squad"
        rows = questions(20, seed=split == "validation")
        return [{**row, "answers": {"text": row["answers"]}} for row in rows]

    monkeypatch.setattr(hub, "require", lambda *_: None)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    rows = load_rows(TASKS["squad_qa"])
    assert len(rows.test) == 20 and rows.source == "the hub's rajpurkar/squad"
