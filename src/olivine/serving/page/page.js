"use strict";
// The page of `olivine serve`: an image, a conversation with one model or two. Model text is only ever set as text.

const element = (id) => document.getElementById(id);
const state = { image: null, turns: [[], []], running: null };

// Controls, marks that change the writing direction and invisible tag characters are shown as escapes.
const CONTROLS = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069\u2028\u2029\ufeff]/g;
const printable = (text) =>
  text.replace(CONTROLS, (found) => "\\u" + found.codePointAt(0).toString(16).padStart(4, "0"));

function say(text, wrong = false) {
  element("status").textContent = printable(text);
  element("status").classList.toggle("wrong", wrong);
}

function headers() {
  const token = element("token").value;
  return { "Content-Type": "application/json", ...(token ? { Authorization: "Bearer " + token } : {}) };
}

async function loadModels() {
  let response;
  try {
    response = await fetch("/v1/models", { headers: headers() });
  } catch {
    return say("The server cannot be reached.", true);
  }
  if (response.status === 401) {
    element("token-line").hidden = false;
    return say("This server needs its token.", !!element("token").value);
  }
  const names = (await response.json()).data.map((model) => model.id);
  for (const [position, select] of [element("model-0"), element("model-1")].entries()) {
    select.replaceChildren(...(position ? [new Option("no other", "")] : []), ...names.map((name) => new Option(name)));
    select.disabled = position === 1 && names.length < 2;
  }
  say(names.length === 1 ? "One model is served." : names.length + " models are served.");
}

function models() {
  return [element("model-0").value, element("model-1").value].filter(Boolean);
}

function forget() {
  if (state.running) state.running.abort();
  state.turns = [[], []];
  element("answers").replaceChildren();
}

function show(url) {
  forget();
  state.image = url;
  element("image").hidden = !url;
  element("hint").hidden = !!url;
  element("remove").disabled = !url;
  if (url) element("image").src = url;
  else element("image").removeAttribute("src");
}

function take(file) {
  if (!file) return;
  if (!file.type.startsWith("image/")) return say("That is no image.", true);
  const reader = new FileReader();
  reader.onload = () => show(reader.result);
  reader.onerror = () => say("The image cannot be read.", true);
  reader.readAsDataURL(file);
}

function node(kind, name, text = "") {
  const made = document.createElement(kind);
  made.className = name;
  made.textContent = printable(text);
  return made;
}

function message(text, image) {
  if (!image) return { role: "user", content: text };
  return { role: "user", content: [{ type: "image_url", image_url: { url: image } }, { type: "text", text }] };
}

async function answer(position, model, question, box, signal) {
  const text = box.querySelector(".text");
  const turns = state.turns[position];
  const blind = element("blind").checked;
  const asked = [...turns, message(question, turns.length || blind ? null : state.image)];
  let said = "";
  let ended = null;
  const fail = (reason) => {
    box.classList.add("wrong");
    text.textContent = printable(reason);
  };
  try {
    const body = JSON.stringify({ model, messages: asked, stream: true, logprobs: true, temperature: 0 });
    const response = await fetch("/v1/chat/completions", { method: "POST", headers: headers(), body, signal });
    if (!response.ok) return fail((await response.json()).error.message);
    for await (const event of eventsOf(response.body)) {
      if (event.error) return fail(event.error.message);
      const choice = event.choices[0];
      if (!choice) continue;
      said += choice.delta.content || "";
      text.textContent = printable(said);
      if (choice.finish_reason) ended = choice;
    }
  } catch (error) {
    return fail(error.name === "AbortError" ? said + " (stopped)" : "The server cannot be reached.");
  }
  if (!ended) return fail("The answer was cut off.");
  if (!said) text.textContent = "(nothing)";
  const percent = (100 * ended.answer_probability).toFixed(1);
  const sure = box.querySelector(".sure");
  const meter = document.createElement("meter");
  meter.max = 1;
  meter.value = ended.answer_probability;
  meter.setAttribute("aria-hidden", "true");
  sure.append(meter, ` probability ${percent} %` + (ended.finish_reason === "length" ? ", cut at the limit" : ""));
  state.turns[position] = [...asked, { role: "assistant", content: said }];
}

async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.slice("data: ".length);
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

async function ask(event) {
  event.preventDefault();
  const question = element("question").value.trim();
  const names = models();
  if (!question || !names.length || state.running) return;
  element("question").value = "";
  const controller = new AbortController();
  state.running = controller;
  element("send").disabled = true;
  element("stop").hidden = false;
  const pair = node("div", "pair");
  const boxes = names.map((name) => {
    const box = node("article", "answer");
    box.append(node("p", "who", name + (element("blind").checked ? ", without the image" : "")));
    box.append(node("p", "text", "…"), node("p", "sure"));
    return box;
  });
  pair.append(...boxes);
  element("answers").append(node("p", "question", question), pair);
  pair.scrollIntoView({ block: "nearest" });
  await Promise.all(names.map((name, position) => answer(position, name, question, boxes[position], controller.signal)));
  if (state.running === controller) state.running = null;
  element("send").disabled = false;
  element("stop").hidden = true;
  element("question").focus();
}

// Examples are drawn here, so that none has to be loaded or kept.
const EXAMPLES = [
  { name: "a red circle", draw: (c) => { c.fillStyle = "#d02020"; c.beginPath(); c.arc(48, 48, 28, 0, 7); c.fill(); } },
  { name: "a blue square", draw: (c) => { c.fillStyle = "#2040d0"; c.fillRect(20, 20, 56, 56); } },
  {
    name: "a green triangle over a yellow circle",
    draw: (c) => {
      c.fillStyle = "#208030"; c.beginPath(); c.moveTo(48, 8); c.lineTo(72, 44); c.lineTo(24, 44); c.fill();
      c.fillStyle = "#e0b010"; c.beginPath(); c.arc(48, 70, 18, 0, 7); c.fill();
    },
  },
];

function drawExamples() {
  for (const { name, draw } of EXAMPLES) {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 96;
    const context = canvas.getContext("2d");
    context.fillStyle = "#f4f4f0";
    context.fillRect(0, 0, 96, 96);
    draw(context);
    const button = node("button", "");
    button.type = "button";
    const image = document.createElement("img");
    image.src = canvas.toDataURL("image/png");
    image.alt = name;
    button.append(image);
    button.addEventListener("click", () => show(image.src));
    element("examples").append(button);
  }
}

element("file").addEventListener("change", (event) => { take(event.target.files[0]); event.target.value = ""; });
element("remove").addEventListener("click", () => show(null));
element("blind").addEventListener("change", (event) => {
  forget();
  element("drop").classList.toggle("blind", event.target.checked);
});
for (const position of [0, 1]) element("model-" + position).addEventListener("change", forget);
element("token-line").addEventListener("submit", (event) => { event.preventDefault(); loadModels(); });
element("form").addEventListener("submit", ask);
element("stop").addEventListener("click", () => state.running && state.running.abort());
element("reset").addEventListener("click", () => { forget(); element("question").focus(); });
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
  if (file) { event.preventDefault(); take(file); }
});
element("drop").addEventListener("dragover", (event) => { event.preventDefault(); element("drop").classList.add("over"); });
element("drop").addEventListener("dragleave", () => element("drop").classList.remove("over"));
element("drop").addEventListener("drop", (event) => {
  event.preventDefault();
  element("drop").classList.remove("over");
  take(event.dataTransfer.files[0]);
});
drawExamples();
loadModels();
