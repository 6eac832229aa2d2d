"""Flags and settings: every field of a run's settings is a flag, and what is given comes back as it was meant."""

from __future__ import annotations

import json
import shlex
from dataclasses import fields

import pytest

from curvekit.cli import main, parser
from curvekit.cli.pretrain import _CHOSEN
from curvekit.cli.settings import config, given
from curvekit.errors import CurvekitError
from curvekit.training.fields import as_flags
from curvekit.training.settings import PRETRAINING, RunConfig


def test_every_setting_is_a_flag_of_train_with_its_help(capsys):
    with pytest.raises(SystemExit) as end:
        main(["train", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0
    for setting in fields(RunConfig):
        assert f"--{setting.name.replace('_', '-')} " in shown
        assert setting.metadata["help"].split(" (default")[0] in shown


def test_flags_go_over_the_file_and_the_file_over_the_defaults(tmp_path):
    (tmp_path / "settings.json").write_text(json.dumps({"steps": 7, "batch_size": 3, "model": {"degree": 3}}))
    arguments = parser().parse_args(["train", "--config", str(tmp_path / "settings.json"), "--steps", "9"])
    assert config(arguments) == RunConfig(steps=9, batch_size=3, model={"degree": 3})


def test_pretraining_takes_the_file_of_a_run_but_for_what_it_chooses_itself(tmp_path):
    file = tmp_path / "config.json"
    words = ["pretrain", "--data-dir", "data", "--config", str(file), "--steps", "9"]
    file.write_text(json.dumps(RunConfig(recipe="gpt2", scratch=True, batch_size=3).to_dict()))
    found = given(parser().parse_args(words), without=_CHOSEN, defaults=PRETRAINING)
    assert found["steps"] == 9 and found["batch_size"] == 3 and not {*_CHOSEN} - {"data_dir"} & set(found)
    file.write_text(json.dumps(RunConfig(recipe="curve", scratch=True).to_dict()))
    with pytest.raises(CurvekitError, match="says recipe 'curve', which is 'gpt2' here; leave it out"):
        given(parser().parse_args(words), without=_CHOSEN, defaults=PRETRAINING)


def test_what_json_would_read_otherwise_is_quoted():
    model = {"a": "x", "b": "1", "c": 1, "d": True, "e": ["point"], "f": "true", "g": "a b"}
    assert parser().parse_args(["train", *as_flags({"model": model})]).model == model


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--model", "degree=3", "place=0.25", "window=centred"], {"degree": 3, "place": 0.25, "window": "centred"}),
        (["--model", '{"degree": 3}', "--model", "channels=[\"point\"]"], {"degree": 3, "channels": ["point"]}),
    ],
)  # fmt: skip
def test_model_settings_are_pairs_or_json(flags, expected):
    assert parser().parse_args(["train", *flags]).model == expected


def test_model_settings_that_are_no_json_object_are_refused(capsys):
    with pytest.raises(SystemExit):
        parser().parse_args(["train", "--model", "{degree: 3}"])
    assert "'{degree: 3}' is no JSON object" in capsys.readouterr().err


@pytest.mark.parametrize(("flags", "expected"), [(["--compile"], True), (["--compile", "false"], False)])
def test_a_switch_can_be_turned_on_and_off(flags, expected):
    assert parser().parse_args(["train", *flags]).compile is expected


def test_the_command_that_a_report_prints_is_one_that_the_parser_takes(tmp_path):
    from curvekit.reports.execution import _command

    wanted = RunConfig(corpus="a b.txt", compile=True, model={"degree": 3}, steps=5, learning_rate=1e-3)
    words = shlex.split(_command(wanted, ["gpt2", "curve"], [0, 1], tmp_path, ["a b.ipynb"], {"keys": 16, "x": [1]}))
    arguments = parser().parse_args(words[1:])
    given = {each.name: getattr(arguments, each.name) for each in fields(RunConfig) if hasattr(arguments, each.name)}
    assert RunConfig(**given) == wanted
    assert (arguments.recipes, arguments.seeds, arguments.out) == (["gpt2", "curve"], ["0", "1"], tmp_path)
    assert [str(path) for path in arguments.notebooks] == ["a b.ipynb"] and arguments.parameter == {
        "keys": 16,
        "x": [1],
    }
