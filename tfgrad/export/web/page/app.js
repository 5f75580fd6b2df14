// The page: takes photographs, asks the engine, and shows what it says.
import { draw, scaleOf, strongest } from "./colours.js";
import { Engine } from "./engine.js";
import * as photograph from "./photograph.js";
import { Refusal, quoted } from "./refusal.js";

const LISTED = 5;
const SHOWN_SIDE = 960; // of the photograph on the page, in pixels
const COARSE = 160; // pictures of at most so many pixels along a side are shown with hard edges

const $ = (id) => document.getElementById(id);
const shared = window.tfgrad; // what tests and other scripts read
let engine;
let model;
let turn = 0; // of the photograph or class that was chosen last; older ones stop

/** An element with attributes and children; texts are never read as HTML. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const spoken = (method) => method.replaceAll("_", " ");
const className = (index) => model.classes?.[index] ?? `class ${index}`;
const percent = (part) => `${(100 * part).toFixed(part > 0.0995 ? 0 : 1)} %`;

function number(value) {
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) return value.toExponential(1);
  return String(Number(value.toPrecision(3)));
}

function busy(sentence) {
  shared.busy = true;
  $("main").setAttribute("aria-busy", "true");
  $("status").textContent = sentence;
}

function idle(sentence) {
  shared.busy = false;
  $("main").setAttribute("aria-busy", "false");
  $("status").textContent = sentence;
}

function told(error) {
  if (!(error instanceof Refusal)) throw error; // start.js shows it
  shared.fail(error.message);
}

/** Let the browser draw what was said before the page computes. */
const drawn = () => new Promise((resolve) => setTimeout(resolve, 0));

async function start() {
  const response = await fetch("model.json").catch(() => null);
  if (!response?.ok) throw new Refusal("model.json could not be loaded. Reload the page.");
  model = await response.json();
  shared.model = model;
  $("limits").textContent =
    "or drop one on this page, or paste one: JPEG or PNG, up to " +
    `${Math.round(model.limits.bytes / 2 ** 20)} MiB and ` +
    `${Math.round(model.limits.pixels / 1e6)} million pixels.`;
  const left = Object.entries(model.left_out).map(([name, why]) => `${spoken(name)} (${why})`);
  $("about").textContent =
    `Computed by ONNX Runtime Web ${model.runtime.version}, exported by tfgrad ${model.tfgrad}.` +
    (left.length ? ` Not available here: ${left.join("; ")}.` : "");
  showSamples();
  listen();
  engine = new Engine(model, (what, loaded, total) => {
    const of = total ? ` of ${(total / 2 ** 20).toFixed(1)}` : "";
    const sentence = `Loading ${what}: ${(loaded / 2 ** 20).toFixed(1)}${of} MiB…`;
    $("progress")?.replaceChildren(sentence);
  });
  $("file").disabled = false;
  idle(
    model.samples.length
      ? "Ready. Choose a photograph, or one of the samples."
      : "Ready. Choose a photograph.",
  );
}

function showSamples() {
  for (const { file, name } of model.samples) {
    const picture = element("img", { src: file, alt: "", draggable: "false" });
    picture.addEventListener("load", () => {
      picture.classList.toggle("coarse", picture.naturalWidth <= COARSE);
    });
    const button = element("button", { type: "button" }, picture, element("span", {}, name));
    button.addEventListener("click", () => explain(() => sample(file, name), name));
    $("samples").append(button);
  }
  $("samples").hidden = !model.samples.length;
}

async function sample(file, name) {
  const response = await fetch(file).catch(() => null);
  if (response?.ok) return response.blob();
  throw new Refusal(`The sample ${quoted(name)} could not be loaded. Choose another one.`);
}

function listen() {
  $("file").addEventListener("change", () => {
    take($("file").files, "");
    $("file").value = ""; // the same file can be chosen again
  });
  const dragging = (event) => {
    event.preventDefault(); // or the browser would open the file in place of the page
    $("drop").classList.toggle("over", event.type === "dragover");
  };
  for (const type of ["dragover", "dragleave", "drop"]) document.addEventListener(type, dragging);
  document.addEventListener("drop", (event) => take(event.dataTransfer.files, "What was dropped"));
  document.addEventListener("paste", (event) => take(event.clipboardData.files, "What was pasted"));
  $("opacity").addEventListener("input", showOpacity);
  showOpacity();
}

function showOpacity() {
  const value = $("opacity").value;
  $("opacity-value").textContent = `${value} %`;
  $("opacity").setAttribute("aria-valuetext", `${value} %`);
  $("figures").style.setProperty("--opacity", value / 100);
}

function take(files, what) {
  if (files.length) explain(() => files[0], files[0].name);
  else if (what) shared.fail(`${what} is no file. Choose a JPEG or PNG file.`);
}

/** Show what the network says of a photograph, and explain its answer. */
async function explain(load, name) {
  const mine = (turn += 1);
  shared.result = shared.error = null;
  $("error").textContent = "";
  $("answers").hidden = $("maps").hidden = true;
  busy(`Reading ${quoted(name)}…`);
  try {
    const bitmap = await photograph.read(await load(), name, model.limits);
    if (mine !== turn) return;
    showPhotograph(bitmap, name);
    await drawn();
    const image = photograph.input(bitmap, model);
    bitmap.close();
    busy("Computing the classes…");
    const { outputs, milliseconds } = await run("serving_default", { image: tensor(image) }, mine);
    if (mine !== turn) return;
    const values = (outputs.probabilities ?? outputs.logits).values;
    finite(values, "serving_default");
    shared.result = { image, outputs, milliseconds, class: null, maps: {} };
    const best = [...values.keys()].sort(likelier(values, outputs.logits.values)).slice(0, LISTED);
    showClasses(best, values, Boolean(outputs.probabilities));
    await explainClass(best[0]);
  } catch (error) {
    if (mine === turn) told(error);
  }
}

/** The order of classes; where probabilities are 0 or 1 for rounding, that of the logits. */
function likelier(values, logits) {
  const second = logits.length === values.length ? logits : values;
  return (a, b) => values[b] - values[a] || second[b] - second[a];
}

const tensor = (values) => ({ type: "float32", values, shape: model.input_shape });

function finite(values, name) {
  if (values.every(Number.isFinite)) return;
  throw new Refusal(`${spoken(name)} returned values that are not finite. Choose another photograph.`);
}

/** Run a file; while it loads, the status has a line on that. */
async function run(name, inputs, mine) {
  $("progress")?.remove();
  // Not in the live region: every number would be read out.
  $("status").after(element("p", { id: "progress" }));
  try {
    return await engine.run(name, inputs);
  } finally {
    if (mine === turn) $("progress")?.remove();
  }
}

function showPhotograph(bitmap, name) {
  const part = Math.min(1, SHOWN_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = $("photograph");
  canvas.width = Math.max(1, Math.round(bitmap.width * part));
  canvas.height = Math.max(1, Math.round(bitmap.height * part));
  canvas.classList.toggle("coarse", Math.max(bitmap.width, bitmap.height) <= COARSE);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  canvas.setAttribute("aria-label", `The photograph ${quoted(name)}`);
  $("photograph-caption").textContent =
    `${name || "unnamed"}: ${bitmap.width} × ${bitmap.height} pixels, computed at ` +
    `${model.width} × ${model.height}`;
}

function showClasses(best, values, areProbabilities) {
  const rows = best.map((index, place) => {
    const radio = element("input", { type: "radio", name: "class", value: index });
    radio.checked = place === 0;
    radio.addEventListener("change", () => explainClass(index));
    const text = areProbabilities ? percent(values[index]) : number(values[index]);
    const bar = element("span", { class: "bar" });
    if (areProbabilities) bar.style.width = `${100 * values[index]}%`;
    else bar.hidden = true;
    const name = element("span", { class: "name" }, className(index));
    return element("label", {}, radio, name, element("span", { class: "value" }, text), bar);
  });
  $("classes").replaceChildren($("classes").firstElementChild, ...rows);
  $("answers-heading").textContent = areProbabilities ? "Likeliest classes" : "Largest outputs";
  $("answers").hidden = false;
}

/** Compute and show every map of a class of the photograph that is shown. */
async function explainClass(index) {
  const mine = (turn += 1);
  const result = shared.result;
  [result.class, result.maps] = [index, {}];
  [shared.error, $("error").textContent] = [null, ""];
  const slots = model.methods.map((method) =>
    element("figure", { class: "waiting" }, element("figcaption", {}, spoken(method))),
  );
  $("figures").replaceChildren(...slots);
  $("maps-heading").textContent = `Maps of ${quoted(className(index))}`;
  $("maps").hidden = false;
  const target = { type: "int32", values: Int32Array.of(index), shape: [] };
  const inputs = { image: tensor(result.image), target };
  let failed = null;
  for (const [i, method] of model.methods.entries()) {
    busy(`Computing ${spoken(method)}, ${i + 1} of ${model.methods.length}…`);
    try {
      const { outputs, milliseconds } = await run(method, inputs, mine);
      if (mine !== turn) return;
      finite(outputs.saliency.values, method);
      result.maps[method] = facts(outputs, milliseconds);
      slots[i].replaceChildren(...figure(method, result.maps[method]));
      slots[i].classList.remove("waiting");
    } catch (error) {
      if (mine !== turn) return;
      if (!(error instanceof Refusal)) throw error;
      failed ??= error;
      slots[i].remove();
    }
  }
  const sum = Object.values(result.maps).reduce((all, map) => all + map.milliseconds, 0);
  const made = Object.keys(result.maps).length;
  const words = made === 1 ? "One map" : `${made} maps`;
  const done = `${words} of ${quoted(className(index))} in ${Math.round(sum)} ms.`;
  if (failed) shared.fail(made ? `${failed.message} The other maps are complete.` : failed.message);
  else idle(done);
}

function facts({ saliency, score, ...others }, milliseconds) {
  const [height, width] = saliency.shape;
  const found = { saliency: saliency.values, height, width, score: score?.values[0], milliseconds };
  for (const [key, { values }] of Object.entries(others)) {
    if (values.length === 1) found[key] = values[0];
  }
  return found;
}

/** A map over the photograph, its scale, and its numbers. */
function figure(method, map) {
  const below = element("canvas");
  const shown = $("photograph");
  [below.width, below.height, below.className] = [shown.width, shown.height, shown.className];
  below.getContext("2d").drawImage(shown, 0, 0);
  const over = element("canvas", { class: "over" });
  const scale = scaleOf(map.saliency);
  draw(over, map.saliency, map.height, map.width, scale);
  over.classList.toggle("coarse", Math.max(map.height, map.width) <= COARSE);
  const where = strongest(map.saliency, map.height, map.width);
  const label = `Map of ${spoken(method)} over the photograph, strongest ${where}`;
  const legend = element("canvas", { class: "legend", "aria-hidden": "true" });
  const steps = Float32Array.from({ length: 128 }, (_, i) => i / 127);
  draw(legend, steps, 1, steps.length, { ...scale, low: 0, high: 1 });
  const rows = [["scale", `${number(scale.low)} to ${number(scale.high)}`]];
  if (map.score !== undefined) rows.push(["score", number(map.score)]);
  if (map.completeness_error !== undefined) {
    rows.push(["completeness error", number(map.completeness_error)]);
  }
  rows.push(["time", `${number(map.milliseconds)} ms`]);
  const list = rows.flatMap(([key, value]) => [element("dt", {}, key), element("dd", {}, value)]);
  return [
    element("div", { class: "stack", role: "img", "aria-label": label }, below, over),
    legend,
    element("figcaption", {}, element("h3", {}, spoken(method)), element("dl", {}, ...list)),
  ];
}

start().catch(told);
