// The index page: the models, a form that streams a text from /generate, and the same request for a program.
// Whatever a model or a user wrote becomes text nodes; nothing of it is ever parsed as HTML.
"use strict";

const at = (id) => document.getElementById(id);
const SETTINGS = ["max_new_tokens", "temperature", "top_p", "seed"];
let models = [];
let running = null;

function headers() {
  const key = at("key").value.trim();
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

function request() {
  const body = { prompt: at("prompt").value, model: at("model").value };
  for (const name of SETTINGS) body[name] = Number(at(name).value);
  return body;
}

function say(text, wrong = false) {
  at("state").textContent = text;
  at("state").className = wrong ? "wrong" : "";
}

function made(tag, text, name = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  if (name) element.className = name;
  return element;
}

// The same shades as the kit's figures: white for a token that was certain, full at 9 nats.
function shade(probability) {
  const surprise = Math.min(1, -Math.log(Math.max(probability, 1e-12)) / 9);
  return `hsl(205 65% ${100 - 43 * surprise}%)`;
}

const percent = (p) => `${p >= 0.001 ? (100 * p).toFixed(1) : (100 * p).toPrecision(1)} %`;
const quoted = (text) => `“${text.replace(/\n/g, "↵").replace(/\t/g, "→")}”`;

function token(piece) {
  const space = piece.text.match(/^\s*/)[0]; // stays white: a line that wraps would end in a sliver of colour
  const span = made("span", piece.text.slice(space.length));
  span.style.background = shade(piece.probability);
  const others = (piece.alternatives || []).filter(([text]) => text !== piece.text);
  const lines = others.map(([text, p]) => `${quoted(text)} ${percent(p)}`);
  span.title = [`${quoted(piece.text)} ${percent(piece.probability)}`, ...(lines.length ? ["or", ...lines] : [])].join("\n");
  return [space, span];
}

async function failure(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the service answered ${response.status}`;
  }
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    for (let end; (end = held.indexOf("\n\n")) >= 0; held = held.slice(end + 2)) {
      const lines = held.slice(0, end).split("\n");
      const data = lines.filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      const name = (lines.find((line) => line.startsWith("event: ")) || "event: message").slice(7);
      if (data) yield [name, JSON.parse(data)];
    }
  }
}

async function generate() {
  running = new AbortController();
  at("go").disabled = true;
  at("stop").disabled = false;
  const body = request();
  const box = at("text");
  box.replaceChildren(made("span", body.prompt, "prompt"));
  at("scale").hidden = false;
  say("writing");
  const began = performance.now();
  let count = 0;
  try {
    const response = await fetch("generate", {
      method: "POST", headers: headers(), signal: running.signal,
      body: JSON.stringify({ ...body, stream: true, alternatives: 4 }),
    });
    if (!response.ok) throw new Error(await failure(response));
    for await (const [name, value] of events(response)) {
      if (name === "error") throw new Error(value.error.message);
      if (name === "done") {
        const left = value.truncated ? `; the prompt's first ${value.truncated} tokens did not fit` : "";
        const speed = Math.round(value.tokens / ((performance.now() - began) / 1000));
        say(`${value.tokens} tokens, ${speed} a second, ended by ${value.reason}, seed ${value.seed}${left}`);
      } else {
        count += 1;
        box.append(...token(value));
        say(`${count} tokens`);
      }
    }
  } catch (error) {
    if (error.name === "AbortError") say(`stopped after ${count} tokens`);
    else say(error.message, true);
  }
  running = null;
  at("go").disabled = false;
  at("stop").disabled = true;
}

function show() {
  for (const name of SETTINGS) {
    const output = at(name).parentElement.querySelector("output");
    if (output) output.textContent = at(name).value;
  }
  const body = request();
  const key = at("key-row").hidden ? "" : ` \\\n  -H "Authorization: Bearer $CURVEKIT_API_KEY"`;
  const json = JSON.stringify(body).replace(/'/g, "'\\''");
  const base = new URL(".", location.href).href;
  at("curl").textContent = `curl ${base}generate -H 'Content-Type: application/json'${key} \\\n  -d '${json}'`;
  const secret = key ? 'os.environ["CURVEKIT_API_KEY"]' : '"none"';
  const { prompt, model, max_new_tokens: tokens, ...rest } = body;
  const given = Object.entries(rest).map(([name, value]) => `${name}=${value}`).join(", ");
  at("python").textContent =
    `client = openai.OpenAI(base_url="${base}v1", api_key=${secret})\n` +
    `client.completions.create(model=${JSON.stringify(model)}, prompt=${JSON.stringify(prompt)}, max_tokens=${tokens}, ${given})`;
}

function card(model) {
  const about = model.curvekit;
  const item = document.createElement("li");
  item.append(made("h3", model.id));
  if (about.what) item.append(made("p", about.what));
  if (about.leaks) item.append(made("p", "It sees later words of a prompt: its perplexities mean nothing.", "leak"));
  const list = document.createElement("dl");
  const rows = {
    recipe: about.recipe, class: about.architecture, parameters: `${(about.parameters / 1e6).toFixed(1)} million`,
    positions: about.positions, vocabulary: about.vocabulary.toLocaleString("en"), chat: about.chat ? "yes" : "no",
  };
  for (const [name, value] of Object.entries(rows)) list.append(made("dt", name), made("dd", String(value)));
  item.append(list);
  return item;
}

async function load() {
  const response = await fetch("v1/models", { headers: headers() });
  at("key-row").hidden = at("key-row").hidden && response.status !== 401;
  if (!response.ok) {
    say(await failure(response), true);
    return;
  }
  models = (await response.json()).data;
  at("model").replaceChildren(...models.map((model) => new Option(model.id, model.id)));
  at("models").replaceChildren(...models.map(card));
  say("");
  bound();
}

function bound() {
  const model = models.find((each) => each.id === at("model").value);
  if (model) at("max_new_tokens").max = Math.min(model.curvekit.positions - 1, model.curvekit.tokens);
  show();
}

at("form").addEventListener("submit", (event) => { event.preventDefault(); if (!running) generate(); });
at("form").addEventListener("input", show);
at("model").addEventListener("change", bound);
at("key").addEventListener("change", load);
at("stop").addEventListener("click", () => running && running.abort());
load();
show();
