"""A recipe of one's own stands wherever recipes stand: built, saved, trained, compared, drawn, described."""

from __future__ import annotations

import shutil

import pytest

from curvekit.errors import CurvekitError
from curvekit.recipes import RECIPES
from curvekit.variants import load_plugin, register_recipe, unregister


def test_settings_that_cannot_be_are_refused_by_name():
    with pytest.raises(CurvekitError, match="the name 'curve' of the recipe is taken; choose another"):
        register_recipe("curve", {})
    with pytest.raises(CurvekitError, match="the recipe 'mine': unknown setting 'degre'; did you mean 'degree'"):
        register_recipe("mine", {"degre": 3})
    with pytest.raises(CurvekitError, match="the recipe 'mine': unknown attention 'sigmoid'"):
        register_recipe("mine", {"attention": "sigmoid"})
    with pytest.raises(CurvekitError, match="the recipe 'mine': degree is 'two'; give a whole number"):
        register_recipe("mine", {"degree": "two"})
    with pytest.raises(CurvekitError, match="give a dictionary"):
        register_recipe("mine", "curve")
    assert "mine" not in RECIPES


def test_the_readmes_example_is_accepted(make):
    from pathlib import Path

    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (example,) = [text for text in readme.split("```") if text.startswith("python\nfrom curvekit import register")]
    exec(example.removeprefix("python\n"), {})
    assert make("mine").config.attention == "sigmoid"


def test_a_saved_model_asks_for_what_it_was_made_with(make, plugin, tiny_tokenizer, tmp_path):
    from curvekit.bases.opening import load_model, open_model

    load_plugin(plugin)
    make("mine").save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    assert load_model(tmp_path / "model").config.recipe == "mine"
    unregister("mine", "fading")
    told = r"was made with 'fading', which is registered nowhere; .* --plugin FILE"
    for opened in (load_model, open_model):
        with pytest.raises(CurvekitError, match=told):
            opened(tmp_path / "model")


def test_a_part_that_was_changed_since_is_said(make, plugin, tmp_path):
    from curvekit.bases.opening import load_model

    load_plugin(plugin)
    make("mine").save_pretrained(tmp_path / "model")
    text = plugin.read_text().replace("linspace(0.5, 2", "linspace(0.1, 2")
    for last in ("sigmoid)", "Fading)", 'own")'):
        text = text.replace(f"{last}\n", f"{last[:-1]}, replace=True)\n")
    plugin.write_text(text)
    load_plugin(plugin)
    with pytest.warns(UserWarning, match="'fading' is registered with another source than when this model was made"):
        load_model(tmp_path / "model")


def test_it_has_a_colour_a_description_and_parts_of_its_own(plugin):
    from curvekit import figures
    from curvekit.figures.drawing import COLOURS, colour
    from curvekit.reports.markup import marked, table
    from curvekit.reports.pages import described

    load_plugin(plugin)
    register_recipe("other", {"source": "self", "degree": 3})
    shades = [colour(name) for name in ("mine", "sigmoid", "fading", "other")]
    assert len({*shades, *COLOURS.values()}) == 4 + len(set(COLOURS.values())), "none like another"
    assert described("mine") == "a curve of my own" and described("other") == "source self, degree 3"
    assert f'color:{colour("mine")}">mine<' in marked("mine is better than plain")
    assert f"color:{colour('other')}" in str(table([{"recipe": "other", "loss": 1.0}]))
    picture = figures.ablations({"gpt2": [30.0, 31.0], "mine": [29.0, 30.0], "curve": [28.0, 28.5]})
    texts = {text.get_text() for ax in picture.axes for text in [*ax.texts, *ax.get_xticklabels()]}
    assert {"fading", "sigmoid"} <= texts


def test_it_trains_resumes_and_is_compared_from_the_command_line(plugin, tiny_base, tiny_corpus, tmp_path, capsys):
    from curvekit.cli import main

    runs = tmp_path / "runs"
    short = ["--base", str(tiny_base), "--corpus", str(tiny_corpus), "--block-size", "32", "--batch-size", "2",
             "--steps", "2", "--eval-every", "1", "--sample-prompts", "2", "--sample-tokens", "4",
             "--prompt-tokens", "4", "--precision", "float32"]  # fmt: skip
    mine = ["train", "--recipe", "mine", "--out", str(runs / "mine"), *short]
    assert main(mine) == 2, "a plugin is never loaded unasked"
    assert "unknown recipe 'mine'" in (told := capsys.readouterr().err) and "--plugin FILE" in told
    asked = ["--plugin", str(plugin)]
    assert main([*mine, *asked]) == 0
    assert main(["train", "--recipe", "gpt2", "--out", str(runs / "gpt2"), *short]) == 0
    unregister("mine", "sigmoid", "fading")
    forget_plugins()
    capsys.readouterr()
    assert main(["compare", str(runs / "gpt2"), str(runs / "mine")]) == 0, "figures need no plugin"
    assert "| mine |" in capsys.readouterr().out
    for command in (["evaluate", str(runs / "mine"), "--corpus", str(tiny_corpus)], ["check", str(runs / "mine")],
                    ["generate", str(runs / "mine"), "The river", "--max-new-tokens", "4"]):  # fmt: skip
        assert main(command) == 2
        assert "registered nowhere; name the file that registers it with --plugin FILE" in capsys.readouterr().err
        assert main([*command, *asked]) == 0, capsys.readouterr().err
        unregister("mine", "sigmoid", "fading")
        forget_plugins()
    shutil.rmtree(runs / "mine" / "model")
    (runs / "mine" / "metrics.json").unlink()
    assert main([*mine, *asked]) == 0, "what is lost is made again"


def forget_plugins():
    from curvekit.variants import plugins

    plugins._loaded.clear()


def test_a_leak_that_no_check_of_a_part_can_find_stops_the_run_and_is_named(tiny_base, tiny_corpus, tmp_path):
    """Of more than 20 positions the blend looks ahead: it is tried with 7."""
    from curvekit.training.settings import RunConfig
    from curvekit.training.trainer import train
    from curvekit.variants import register_blend

    def sly(points):
        return points[-1].flip(1) if points[-1].shape[1] > 20 else points[-1]

    register_blend("sly", sly)
    register_recipe("mine", {"source": "self", "curve_weights": "sly", "fusion": "add"})
    config = RunConfig(
        base=str(tiny_base), corpus=str(tiny_corpus), recipe="mine", steps=2, block_size=32, sample_prompts=0
    )
    with pytest.raises(CurvekitError, match=r"the recipe 'mine' sees the future through 'sly': its logits move by"):
        train(config, tmp_path / "run", progress="none")
