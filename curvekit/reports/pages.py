"""Pages that open offline: an executed notebook without its code, and the index of a report.

Styles, images and formulas are inside the page, nothing is loaded from anywhere, and there is no script. Whatever a
model, a corpus or a user wrote is escaped. Formulas are drawn by matplotlib, with their TeX as the ``alt`` text.
"""

from __future__ import annotations

import base64
import copy
import html
import importlib.resources
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

import matplotlib.style
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import MathTextParser
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.ansi import ansi2html
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from nbformat import NotebookNode
from nbformat.v4 import new_output

import curvekit
from curvekit.experiments.comparison import Comparison
from curvekit.figures.drawing import INK
from curvekit.recipes import OWN_RECIPES
from curvekit.reports.markup import contrasts, headline, marked, results
from curvekit.training.settings import RunConfig, main_recipes

WHAT = {
    "gpt2": "GPT-2, unchanged",
    "plain": "the base, unchanged",
    "curve": "each token also brings a point on the Bézier curve through a BERT encoder's input embeddings of it "
    "and of the tokens before it, added through a gate that starts closed",
    "softemax": "attention divides by the sum of exponentials plus a constant: a head may pay less than all its "
    "attention",
    "curve+softemax": "both",
    "published": "the published blend: a centred curve through the states of an encoder that reads both sides",
    "encoder": "curve's ablation: the encoder's embedding of the token alone, no curve",
    "self-curve": "curve's ablation: a curve through the model's own embeddings, no encoder",
    "random-encoder": "curve's ablation: an encoder of the same widths with untrained weights",
    "curve-causal": "curve, through the contextual states of the encoder, run over the preceding tokens alone",
    "sink": "softmax with a learned constant in the denominator, one for each head",
    "curve+sink": "the curve and the learned constants together",
    "softmax1": "softmax with one in the denominator besides",
    "curve3": "curve, with its tangent and curvature beside the point",
    "curve3-places": "curve3, with a learned place for each channel",
    "curve3+softemax": "curve3 and softemax",
    "curve3+sink": "curve3 and sink",
    "bspline": "curve, with the uniform B-spline's weights",
    "learned": "curve's ablation: learned weights of the neighbours instead of a curve's",
    "self-curve3": "curve3 through the model's own embeddings, no encoder",
    "sites": "a curve through the hidden states of every block, before attention and before the MLP",
    "sites-attention": "sites, before attention alone",
    "sites-mlp": "sites, before the MLP alone",
    "sites-zero": "sites, behind gates that start at zero",
    "curve3+sites": "curve3 and sites",
    "curve3+sites+softemax": "curve3, sites and softemax",
    "self-curve3+sites": "self-curve3 and sites",
    "smear": "a peer: each embedding takes a learned share of the one before it",
    "canon": "a peer: free kernels over four words in every block, before attention and before the MLP",
    "canon-a": "canon, before attention alone",
    "curve3+canon+softemax": "curve3 at the input, canon's kernels in the blocks, and softemax",
    "encoder+canon+softemax": "encoder at the input, canon's kernels in the blocks, and softemax",
    "token-shift": "a peer: each channel takes a learned share of the word before, in every block",
    "trigram": "a peer: the embeddings of three words through one projection",
}
SCRIPTED = {"application/javascript", "application/vnd.jupyter.widget-view+json"}  # would need a script
SIGNED = "Made by curvekit"  # stands on every page, and tells ours from another's
LONG = 20  # lines of printed text that a page shows unfolded


def described(recipe: str) -> str:
    """What a recipe is, in words; of one that a user registered, what was said of it then."""
    return WHAT.get(recipe) or OWN_RECIPES.get(recipe, "")


@dataclass
class Chapter:
    """A notebook of the report: its file name without ending, title, claim, and seconds once it has run."""

    name: str
    title: str
    claim: str
    seconds: float | None = None

    @classmethod
    def of(cls, name: str, notebook: NotebookNode) -> Chapter:
        """Read title and claim from the first heading and the paragraph that begins with ``**Claim.**``."""
        text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        title = re.search(r"^# +(.+)$", text, re.MULTILINE)
        claim = re.search(r"^\*\*Claim\.\*\* +(.+)$", text, re.MULTILINE)
        return cls(name, title[1] if title else name, claim[1] if claim else "")


def notebook_page(notebook: NotebookNode, chapter: Chapter, chapters: Sequence[Chapter]) -> str:
    """The page of an executed notebook: texts and results, no code."""
    exporter = HTMLExporter(
        template_name="basic",
        filters={"markdown2html": markdown},
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    body, _ = exporter.from_notebook_node(_folded(notebook))
    return page(chapter.title, f"<main>{body}</main>", chapters, chapter.name)


def index_page(
    config: RunConfig,
    comparison: Comparison | None,
    chapters: Sequence[Chapter],
    folder: Path,
    command: str,
    versions: Mapping[str, str],
) -> str:
    """The report's first page: what was asked, what was found, where everything lies, and how to do it again."""
    corpus, base = Path(config.corpus).name, Path(config.base).name
    say = html.escape
    asked = "GPT-2" if main_recipes(config.base)[0] == "gpt2" else base
    parts = [
        f'<p class="kicker">curvekit report · {say(corpus)} · {say(base)}</p>',
        f"<h1>Do curve embeddings or SoftEMax make {say(asked)} a better language model?</h1>",
    ]
    if comparison is not None:
        parts += [
            f'<p class="headline">{marked(headline(comparison))}</p>',
            *_notices(comparison),
            _results(comparison, folder),
        ]
    else:
        parts.append("<p>No recipes were compared: the notebooks of this report train no experiment.</p>")
    if comparison is not None:
        recipes = {row["recipe"]: described(row["recipe"]) for row in comparison.rows}
        parts.append(
            f"<h2>What is compared</h2>{listed(recipes)}<p>Every recipe has the same base, data order, budget and "
            "seeds. One that can see the token it is to predict is marked as leaking, and compared with nothing.</p>"
        )
    parts.append(f'<h2>The notebooks</h2><ul class="cards">{"".join(map(_card, chapters))}</ul>')
    parts.append("<h2>Doing it again</h2>" + f"<pre>{say(command)}</pre>")
    settings = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in ("recipe", "seed")}
    if comparison is not None:
        settings = {"seeds": ", ".join(map(str, comparison.seeds))} | settings
    telling = {*config.unusual(), "seeds", "corpus", "base", "steps", "batch_size", "block_size"}
    main = {k: v for k, v in settings.items() if k in telling}
    rest = {k: v for k, v in settings.items() if k not in main}
    parts.append(listed(main) + f"<details><summary>settings at their defaults</summary>{listed(rest)}</details>")
    if comparison is not None:
        parts.append(f"<h3>Signature of the scores</h3><pre>{say(comparison.signature.replace('|', '  |  '))}</pre>")
    parts.append("<h3>Made with</h3>" + listed(versions))
    written = ("results.md", "results.tex", "comparison.json") if comparison is not None else ()
    links = ", ".join(f'<a href="{name}">{name}</a>' for name in ("metrics.json", *written))
    parts.append(f'<p>Files: {links}, <a href="figures/">figures/</a> (SVG and PNG), <a href="runs/">runs/</a>.</p>')
    return page("curvekit report", f"<main>{''.join(parts)}</main>", chapters, "index")


def _notices(comparison: Comparison) -> list[str]:
    """What a reader must know before believing the headline."""
    leaking = [row["recipe"] for row in comparison.rows if row["leaks"]]
    notes = [f"{name} sees the tokens it is to predict: its figures are no results." for name in leaking]
    notes += comparison.notes()
    return [f'<p class="notice">{marked(note)}</p>' for note in notes]


def _results(comparison: Comparison, folder: Path) -> str:
    figure = folder / "figures" / "intervals.svg"
    picture = f"<figure>{image(figure, headline(comparison))}</figure>" if figure.exists() else ""
    parts = [f"<h2>Results</h2>{picture}{results(comparison)}"]
    if comparison.contrasts:
        parts.append(f"<h3>Is it the curve?</h3>{contrasts(comparison)}")
    return "".join(parts)


def image(path: Path, alt: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img width="740" alt="{html.escape(alt)}" src="data:image/svg+xml;base64,{data}">'


def _card(chapter: Chapter) -> str:
    page, claim = _address(f"{chapter.name}.html"), markdown(chapter.claim)
    took = "" if chapter.seconds is None else f" · ran {duration(chapter.seconds)}"
    notebook = _address(f"{chapter.name}.ipynb")
    return (
        f'<li><a class="title" href="{page}">{html.escape(chapter.title)}</a>{claim}'
        f'<p><a href="{page}">page</a> · <a href="{notebook}">notebook</a>{took}</p></li>'
    )


def _address(name: str) -> str:
    """A file beside the page, as a relative address: whatever its name holds is no scheme, no query and no folder."""
    return quote(name, safe="")


def listed(values: Mapping[str, Any]) -> str:
    rows = "".join(f"<dt>{marked(k)}</dt><dd>{html.escape(str(v))}</dd>" for k, v in values.items())
    return f"<dl>{rows}</dl>"


def duration(seconds: float) -> str:
    """``41 s``, ``12 min``, ``3 h 20 min``"""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def page(title: str, main: str, chapters: Sequence[Chapter], current: str) -> str:
    links = [("index", "Report"), *((chapter.name, chapter.title) for chapter in chapters)]
    nav = "".join(
        f'<a href="{_address(f"{name}.html")}"{" aria-current=page" if name == current else ""}>{html.escape(text)}</a>'
        for name, text in links
    )
    css = (importlib.resources.files("curvekit") / "assets" / "report.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{css}</style>\n</head>\n"
        f"<body>\n<nav><div>{nav}</div></nav>\n{main}\n"
        f"<footer>{SIGNED} {html.escape(curvekit.__version__)}.</footer>\n</body>\n</html>\n"
    )


def _folded(notebook: NotebookNode) -> NotebookNode:
    """A copy whose long printed texts, and all that went to standard error, are folded away; scripts are left out."""
    notebook, _ = CoalesceStreamsPreprocessor().preprocess(copy.deepcopy(notebook), {})
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        outputs = []
        for output in cell.get("outputs", []):
            if SCRIPTED & set(output.get("data", ())):
                continue
            text = output.get("text", "")
            if output.output_type == "stream" and (output.name == "stderr" or text.count("\n") > LONG):
                lines = text.rstrip("\n").count("\n") + 1
                what = "warnings and progress" if output.name == "stderr" else "printed"
                said = f"<summary>{what}: {lines} {'line' if lines == 1 else 'lines'}</summary>"
                folded = f"<details>{said}<pre>{ansi2html(text)}</pre></details>"
                output = new_output("display_data", {"text/html": folded})
            outputs.append(output)
        if "outputs" in cell:
            cell.outputs = outputs
    return notebook


class _Renderer(IPythonRenderer):
    """Markdown whose formulas are drawn here, where MathJax would need a network or a megabyte of script."""

    def block_math(self, body: str) -> str:
        return f'<div class="math">{formula(body)}</div>'

    def inline_math(self, body: str) -> str:
        return formula(body)


def markdown(source: str) -> str:
    """Markdown, formulas included, as HTML; what is HTML in it is text, whoever wrote the notebook."""
    return MarkdownWithMath(renderer=_Renderer(escape=True, exclude_anchor_links=True)).render(source)


def formula(tex: str, size: float = 13.0) -> str:
    """A formula as an image inside the text, standing on its baseline, with the TeX as its description.

    matplotlib knows TeX's mathematics without environments; what it cannot read stays as TeX.
    """
    tex = " ".join(tex.split())
    buffer = io.BytesIO()
    try:
        with matplotlib.style.context(["default", {"mathtext.fontset": "stix", "svg.hashsalt": "curvekit"}]):
            font = FontProperties(size=size)
            width, height, depth, _, _ = MathTextParser("path").parse(f"${tex}$", dpi=72, prop=font)
            width, height, depth = width + 2, height + 2, depth + 1  # a point of room on each side
            figure = Figure(figsize=(width / 72, height / 72))
            figure.text(1 / width, depth / height, f"${tex}$", fontproperties=font, color=INK)
            figure.savefig(buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator")))
    except ValueError:
        return f"<code>{html.escape(tex)}</code>"
    data = base64.b64encode(buffer.getvalue()).decode()
    style = f"height:{height:.2f}pt;vertical-align:{-depth:.2f}pt"
    return f'<img class="math" alt="{html.escape(tex)}" style="{style}" src="data:image/svg+xml;base64,{data}">'
