"""The demo in a browser: models side by side, their tokens coloured by probability as they come, and Stop.

Gradio draws it; the texts come from the same batches as the service's, so several users are written for at once. It
loads nothing from outside: Gradio's fonts are replaced by the system's, and its analytics are off.
"""

from __future__ import annotations

import html
import math
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from threading import Event
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr
from starlette.middleware import Middleware

from curvekit.errors import CurvekitError
from curvekit.figures.shading import token_probabilities_html
from curvekit.generation.batching import Reader, Row
from curvekit.generation.sampling import Sampling
from curvekit.generation.streams import Piece
from curvekit.serving.door import LOG, Bounded, Names
from curvekit.serving.orders import Limits, Refused, bounded
from curvekit.serving.running import listening, names_of
from curvekit.serving.voices import Choir

USERS = 8  # whose texts are written at the same time; more wait in Gradio's queue
QUEUE = 64
REDRAW = 0.1  # seconds between two pictures of a growing text
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Noto Sans", "Arial", "sans-serif"]
HEAD = """# curvekit
The same prompt, settings and seed write the same text here, over HTTP, on the command line and in a notebook. A token
is the darker, the less likely its model held it."""
CSS = """
.gradio-container { max-width: 1080px !important; margin: 0 auto !important; }
.curvekit-text { border: 1px solid #d9dde1; border-radius: 8px; padding: 12px 14px; background: #fff; color: #1f2328; }
.curvekit-text h3 { margin: 0 0 6px; font-size: 15px; overflow-wrap: anywhere; color: #1f2328; }
.curvekit-text p { margin: 8px 0 0; font-size: 13px; color: #5b6068; }
.curvekit-columns { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); }
#out { padding: 0; }
footer { display: none !important; }
"""


def demo(
    voices: Mapping[str, tuple[Any, Any]], *, limits: Limits | None = None, prompt: str = "The river"
) -> gr.Blocks:
    """The demo of these models, ready for ``launch()``, for a page of its own or inside a notebook.

    Args:
        voices: models and their tokenisers by name.
        limits: the bounds of what is written.
        prompt: what stands in the field at first.
    """
    choir = Choir(voices, limits or Limits())
    names = list(choir)
    stops: dict[str, Event] = {}

    def write(
        session: str, prompt: str, chosen: Sequence[str], length: float, temperature: float, top_p: float, seed: float
    ) -> Iterator[Any]:
        stop = stops[session] = Event()
        yield gr.update(interactive=False), gr.update(interactive=True), ""
        try:
            for drawn in _drawn(choir, prompt, list(chosen) or names[:1], length, temperature, top_p, seed, stop):
                yield gr.skip(), gr.skip(), drawn
        except Exception as error:
            known = isinstance(error, CurvekitError)
            if not known:
                LOG.error("the demo failed: %s: %s", type(error).__name__, error, exc_info=error)
            told = str(error) if known else "the model failed at this; the log says why"
            yield gr.skip(), gr.skip(), _box("", f"<p>{html.escape(told)}</p>")
        finally:
            if stops.get(session) is stop:
                del stops[session]
        yield gr.update(interactive=True), gr.update(interactive=False), gr.skip()

    def halt(session: str) -> None:
        if stop := stops.get(session):
            stop.set()

    theme = gr.themes.Base(font=FONTS, font_mono=["ui-monospace", "Menlo", "monospace"])
    with gr.Blocks(title="curvekit: models to try", analytics_enabled=False) as blocks:
        session = gr.State(secrets.token_hex)
        gr.Markdown(HEAD)
        text = gr.Textbox(prompt, label="prompt", lines=3, max_length=20_000, elem_id="prompt")
        several = len(names) > 1
        which = gr.CheckboxGroup(names, value=names[:2], label="models, side by side", visible=several)
        with gr.Row():
            length = gr.Slider(50, 500, 100, step=10, label="length in tokens")
            temperature = gr.Slider(0.1, 2.0, 0.8, step=0.05, label="temperature")
            top_p = gr.Slider(0.05, 1.0, 0.9, step=0.05, label="top-p")
            seed = gr.Number(0, label="seed", precision=0, minimum=0)
        with gr.Row():
            go = gr.Button("Generate", variant="primary", elem_id="go")
            end = gr.Button("Stop", interactive=False, elem_id="stop")
        out = gr.HTML(elem_id="out")
        given = [session, text, which, length, temperature, top_p, seed]
        gr.on([go.click, text.submit], write, given, [go, end, out], concurrency_limit=USERS, concurrency_id="write",
              show_progress="hidden", api_visibility="private")  # fmt: skip
        # Not queued: it must reach a text that is being written, whoever else waits.
        end.click(halt, [session], None, queue=False, show_progress="hidden", api_visibility="private")
    blocks.queue(max_size=QUEUE, default_concurrency_limit=USERS)
    blocks.curvekit = {
        "theme": theme, "css": CSS, "close": choir.close, "voices": list(choir.values()), "limits": choir.limits
    }  # fmt: skip
    return blocks


def _drawn(
    choir: Choir,
    prompt: str,
    names: Sequence[str],
    length: float,
    temperature: float,
    top_p: float,
    seed: float,
    stop: Event,
) -> Iterator[str]:
    """Pictures of the growing texts of several models, the last one with how each came about."""
    woken = Event()
    rows: dict[str, Row] = {}
    given = {"length": length, "temperature": temperature, "top-p": top_p, "seed": seed}
    for field, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise CurvekitError(f"{field} is {value!r}; give a number")
    bounded([prompt], choir.limits, "prompt")
    try:
        for name in names:
            voice = choir.named(name)
            whole = min(int(length), voice.positions)
            tokens = min(whole - voice.length(prompt), voice.positions - 1, choir.limits.tokens)
            if tokens < 1:
                raise CurvekitError(
                    f"the prompt has {voice.length(prompt)} tokens for {name}, and the length is {whole}; raise it"
                )
            sampling = Sampling(max_new_tokens=tokens, temperature=temperature, top_p=top_p, seed=int(seed))
            rows[name] = voice.batcher.add(
                prompt, sampling, alternatives=4, seconds=choir.limits.seconds, wake=woken.set
            )
        readers = {name: Reader(row, choir[name].tokenizer) for name, row in rows.items()}
        pieces: dict[str, list[Piece]] = {name: [] for name in rows}
        while True:
            woken.wait(REDRAW)
            woken.clear()
            if stop.is_set():
                for row in rows.values():
                    row.cancel()
            over = all(row.over for row in rows.values())
            for name, reader in readers.items():
                pieces[name] += reader.pieces()
            whole_time = sum(row.last for row in rows.values())
            told = [
                _box(name, _tokens(prompt, pieces[name]) + (_foot(choir, name, rows, whole_time) if over else ""))
                for name in rows
            ]
            yield f'<div class="curvekit-columns">{"".join(told)}</div>'
            if over:
                return
            time.sleep(REDRAW)
    except Refused as error:
        raise CurvekitError(str(error)) from error
    finally:
        for row in rows.values():
            row.cancel()


def _tokens(prompt: str, pieces: Sequence[Piece]) -> str:
    return token_probabilities_html(
        [piece.text for piece in pieces],
        [piece.probability for piece in pieces],
        [[(each.text, each.probability) for each in piece.alternatives] for piece in pieces],
        prompt,
    )


def _foot(choir: Choir, name: str, rows: Mapping[str, Row], whole: float) -> str:
    """How a text came about; of several models, each one's share of the time."""
    row = rows[name]
    done = row.completion(choir[name].tokenizer)
    told = [
        f"{done.tokens} tokens",
        f"{done.tokens_per_second:.0f} a second",
        f"first after {done.first_token_seconds:.2f} s",
    ]
    if len(rows) > 1 and whole:
        told.append(f"{done.seconds / whole:.0%} of the time")
    told.append("stopped" if done.reason == "stopped" else f"ended by {done.reason}")
    if done.truncated:
        told.append(f"the prompt's first {done.truncated} tokens did not fit")
    return f"<p>{html.escape(', '.join(told))}; seed {done.seed}</p>"


def _box(name: str, inside: str) -> str:
    return f'<div class="curvekit-text"><h3>{html.escape(name)}</h3>{inside}</div>'


def launch(blocks: gr.Blocks, *, server_name: str = "127.0.0.1", server_port: int = 0, **settings: Any) -> Any:
    """Start a demo with its looks and bounds: no share, no server-side rendering, no files served.

    Args:
        server_port: 0 takes a free one.
        settings: more of Gradio's own.
    """
    own = blocks.curvekit  # type: ignore[attr-defined]
    if not server_port:
        with listening(server_name, 0) as free:
            server_port = free.getsockname()[1]
    guards = [Middleware(Names, hosts=names_of(server_name)), Middleware(Bounded, most=own["limits"].body)]
    return blocks.launch(
        server_name=server_name, server_port=server_port, app_kwargs={"middleware": guards}, max_file_size=1,
        **{"share": False, "quiet": True, "ssr_mode": False, "pwa": False, "mcp_server": False, "show_error": False,
           "theme": own["theme"], "css": own["css"], "footer_links": [], "enable_monitoring": False} | settings
    )  # fmt: skip
