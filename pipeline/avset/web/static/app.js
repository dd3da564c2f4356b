// The page of avset: a form asks the server for a separation, a player plays what comes.
import { $, clock, draw, player } from "./player/player.js";

const INFERNO = [[27, 12, 65], [120, 28, 109], [207, 68, 70], [251, 155, 6], [252, 255, 164]]; // as .bar in style.css

// ---------------------------------------------------------------- the server

async function call(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("the server does not answer; see whether avset web still runs");
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  throw new Error(told.error ?? `the server answered ${answer.status}`);
}

const wait = (ms) => new Promise((done) => setTimeout(done, ms));

// ---------------------------------------------------------------- what is asked for

let about = { allowed: { megabytes: 0, minutes: 0, queries: 1, letters: 200 }, examples: [] };
let chosen = null; // { file } or { example }, from 1
let asked = null; // the separation that this page waits for: { key, gone }

function choose(what, shown, labels) {
  chosen = what;
  $("chosen").textContent = shown;
  for (const button of $("examples").querySelectorAll("button")) {
    button.ariaPressed = String(Number(button.dataset.example) === what.example);
  }
  if (labels) {
    $("queries").replaceChildren();
    labels.slice(0, about.allowed.queries).forEach((label) => addQuery(`person playing ${"aeiou".includes(label[0]) ? "an" : "a"} ${label}`));
  }
  complain("");
  look(what);
}

function addQuery(text = "") {
  const line = $("query").content.cloneNode(true).firstElementChild;
  const [input, remove, draw] = [".text", ".remove", ".draw"].map((one) => line.querySelector(one));
  input.value = text;
  for (const one of line.querySelectorAll("input[type=text]")) one.maxLength = about.allowed.letters;
  draw.disabled = !preview;
  draw.onclick = () => boxed(line, draw.ariaPressed !== "true");
  sketch(line);
  remove.onclick = () => {
    const next = line.nextElementSibling ?? line.previousElementSibling;
    line.remove();
    named();
    next.querySelector("input:not([hidden])").focus();
  };
  $("queries").append(line);
  named();
  return input;
}

function named() {
  const lines = [...$("queries").children];
  lines.forEach((line, i) => {
    line.querySelector(".hidden").textContent = `Sound ${i + 1}`;
    line.querySelector(".remove").ariaLabel = `Remove sound ${i + 1}`;
    line.querySelector(".draw").ariaLabel = `Draw a box for sound ${i + 1}`;
    line.querySelector(".without").ariaLabel = `But not, in sound ${i + 1}`;
    line.querySelector(".box").ariaLabel = `Box of sound ${i + 1}`;
  });
  $("more").disabled = lines.length >= about.allowed.queries;
}

function complain(text) {
  $("error").textContent = text && `${text[0].toUpperCase()}${text.slice(1)}.`;
}

function take(file) {
  if (file) choose({ file }, file.name);
}

// ---------------------------------------------------------------- a box of the picture

let preview = null; // the picture to draw on: the centre square of the middle one, which is what the model sees

async function look(what) {
  preview = null;
  showPreview();
  const found = await (what.file ? middleOf(what.file) : pictureOf(what.example)).catch(() => null);
  if (chosen !== what) return;
  preview = found;
  showPreview();
}

async function pictureOf(example) {
  return createImageBitmap(await (await call(`api/examples/${example}`)).blob());
}

async function middleOf(file) {
  const video = Object.assign(document.createElement("video"), { muted: true, preload: "auto" });
  const until = (event) => new Promise((done, failed) => ((video[`on${event}`] = done), (video.onerror = failed)));
  video.src = URL.createObjectURL(file);
  try {
    await until("loadeddata");
    video.currentTime = video.duration / 2;
    await until("seeked");
    const [width, height] = [video.videoWidth, video.videoHeight];
    const side = Math.min(width, height);
    return await createImageBitmap(video, Math.floor((width - side) / 2), Math.floor((height - side) / 2), side, side);
  } finally {
    URL.revokeObjectURL(video.src);
  }
}

function showPreview() {
  for (const line of $("queries").children) {
    line.querySelector(".draw").disabled = !preview;
    if (preview) line.sketch();
    else boxed(line, false);
  }
}

function boxed(line, is) {
  line.querySelector(".draw").ariaPressed = String(is);
  line.querySelector(".text").hidden = is;
  line.querySelector(".box").hidden = !is;
  if (is) line.sketch();
}

const boxOf = (line) => [...line.querySelectorAll(".edges input")].map((edge) => Number(edge.value) / 100);

function sketch(line) {
  const [canvas, edges] = [line.querySelector("canvas"), [...line.querySelectorAll(".edges input")]];
  const brush = canvas.getContext("2d");
  const put = (values) => (values.forEach((value, i) => (edges[i].value = value)), line.sketch());
  line.sketch = () => {
    if (preview) brush.drawImage(preview, 0, 0, canvas.width, canvas.height);
    outline(brush, boxOf(line));
    edges.forEach((edge) => (edge.ariaValueText = `${edge.value} percent`));
  };
  edges.forEach((edge, i) => {
    edge.oninput = () => {
      const other = edges[(i + 2) % 4]; // the edge across: it gives way
      if (i < 2) other.value = Math.max(Number(other.value), Number(edge.value) + 5);
      else other.value = Math.min(Number(other.value), Number(edge.value) - 5);
      line.sketch();
    };
  });
  let from = null;
  const at = (event) => {
    const frame = canvas.getBoundingClientRect();
    const part = (value, size) => Math.round(Math.min(Math.max(value / size, 0), 1) * 100);
    return [part(event.clientX - frame.left, frame.width), part(event.clientY - frame.top, frame.height)];
  };
  canvas.onpointerdown = (event) => (canvas.setPointerCapture(event.pointerId), (from = at(event)));
  canvas.onpointermove = (event) => {
    if (!from) return;
    const to = at(event);
    const low = from.map((value, i) => Math.min(value, to[i], 95));
    put([...low, ...from.map((value, i) => Math.max(value, to[i], low[i] + 5))]);
  };
  canvas.onpointerup = canvas.onpointercancel = () => (from = null);
}

function outline(brush, [x0, y0, x1, y1]) {
  const { width, height } = brush.canvas;
  for (const [colour, wide] of [["#000", 5], ["#fff", 2]]) {
    Object.assign(brush, { strokeStyle: colour, lineWidth: wide });
    brush.strokeRect(x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height);
  }
}

// ---------------------------------------------------------------- asking

function told(line) {
  const without = line.querySelector(".without").value.split(",").map((words) => words.trim()).filter(Boolean);
  const text = line.querySelector(".text");
  if (text.hidden) return JSON.stringify({ box: boxOf(line), without });
  return without.length ? JSON.stringify({ text: text.value, without }) : text.value;
}

async function separate() {
  complain("");
  const inputs = [...$("queries").querySelectorAll(".text:not([hidden])")];
  const empty = inputs.find((input) => !input.value.trim());
  if (!chosen) return (complain("choose a file or an example first"), $("file").focus());
  if (empty) return (complain("say what to listen for, as: person playing a violin"), empty.focus());
  if (chosen.file && chosen.file.size > about.allowed.megabytes * 1e6) {
    return complain(`the file is larger than ${about.allowed.megabytes} MB; cut it, or use avset separate`);
  }
  player.open(); // while the click counts: browsers start no sound without one
  busy(true);
  const own = { key: null, gone: false };
  asked = own;
  try {
    const found = await result(own, [...$("queries").children].map(told));
    if (!own.gone) await show(own, found);
  } catch (error) {
    if (!own.gone) {
      complain(error.message);
      $("status").textContent = "";
    }
  } finally {
    forget(own);
    if (asked === own) busy(false);
  }
}

async function result(own, queries) {
  const search = new URLSearchParams(queries.map((query) => ["query", query]));
  if ($("shares").checked) search.set("shares", "1");
  if (chosen.example) search.set("example", chosen.example);
  else search.set("name", chosen.file.name);
  $("status").textContent = chosen.file ? "Sending the file…" : "Asking…";
  const sent = await call(`api/separations?${search}`, { method: "POST", body: chosen.file ?? null });
  own.key = (await sent.json()).key;
  const began = performance.now();
  for (;;) {
    if (own.gone) return null;
    const told = await (await call(`api/separations/${own.key}`)).json();
    if (told.state === "failed") throw new Error(told.error);
    if (told.state === "done") return told;
    const seconds = Math.round((performance.now() - began) / 5000) * 5; // a screen reader need not hear every second
    const so = told.before === 1 ? "one separation is" : `${told.before} separations are`;
    const text = told.state === "waiting" && told.before ? `Waiting: ${so} before yours.` : `Separating… ${seconds ? `${seconds} s` : ""}`;
    if ($("status").textContent !== text) $("status").textContent = text;
    await wait(400);
  }
}

function forget(own) {
  if (own.key) fetch(`api/separations/${own.key}`, { method: "DELETE", keepalive: true }).catch(() => {});
  own.key = null;
}

function busy(is) {
  $("go").disabled = is;
  $("cancel").hidden = !is;
  $("ask").ariaBusy = String(is);
}

// ---------------------------------------------------------------- what was found

let shown = null; // { heat, times, frames, queries }
let urls = []; // of the blobs that are shown

const score = (value) => value.toFixed(Math.abs(shown.heat.high) < 10 ? 2 : 0);

async function show(own, found) {
  $("status").textContent = "Fetching the sounds…";
  const blob = async (name) => (await call(`api/separations/${own.key}/${name}`)).blob();
  const names = [...found.sounds.map((sound) => sound.name), "rest", "mixture"];
  const [sounds, drawings, frames] = await Promise.all([
    Promise.all(names.map((name) => blob(`${name}.wav`))),
    Promise.all(names.map((name) => blob(`${name}.jpg`))),
    Promise.all(found.times.map((_, i) => blob(`frame-${i}.jpg`).then(createImageBitmap))),
  ]);
  const buffers = await Promise.all(sounds.map(async (sound) => player.context.decodeAudioData(await sound.arrayBuffer())));
  if (own.gone) return;

  urls.forEach((url) => URL.revokeObjectURL(url));
  urls = [];
  const link = (blob) => (urls.push(URL.createObjectURL(blob)), urls.at(-1));
  const queries = found.sounds.map((sound) => sound.query);
  const boxes = found.sounds.map((sound) => sound.box);
  shown = { heat: found.heat, times: found.times, frames, queries, boxes, map: 0 };
  $("found").hidden = false;
  $("title").textContent = found.name;
  $("facts").textContent = `${clock(found.seconds)}, ${found.channels === 1 ? "mono" : found.channels === 2 ? "stereo" : `${found.channels} channels`}, ${found.sample_rate / 1000} kHz. The sounds and the rest add up to the mixture.`;
  const titles = [...queries, "The rest", "The mixture"];
  addMaps();
  const tracks = titles.map((title, number) => ({
    title, buffer: buffers[number], muted: number === titles.length - 1, // the others add up to the mixture
    note: found.sounds[number] ? `${Math.round(found.sounds[number].energy * 100)} % of the mixture’s energy` : "",
    presence: found.sounds[number]?.presence, drawings: { spectrogram: link(drawings[number]) },
    file: link(sounds[number]), name: `${found.name.replace(/\.\w+$/, "")} - ${title}.wav`,
  }));
  player.load(tracks, found.seconds);
  player.chosen(player.solo);
  $("status").textContent = `Done: ${queries.length === 1 ? "one sound" : `${queries.length} sounds`} and the rest.`;
  $("title").focus();
}

function addMaps() {
  $("seen").hidden = !shown.frames.length;
  $("maps").hidden = !shown.heat && !shown.boxes.some(Boolean);
  $("legend").hidden = !shown.heat;
  $("maps").replaceChildren($("maps").firstElementChild);
  if ($("maps").hidden) return;
  [...shown.queries, "nothing"].forEach((query, number) => {
    const label = document.createElement("label");
    const radio = Object.assign(document.createElement("input"), { type: "radio", name: "map", value: number, checked: number === 0 });
    radio.onchange = () => chooseMap(number);
    label.append(radio, query);
    $("maps").append(label);
  });
  if (!shown.heat) return;
  $("low").textContent = score(shown.heat.low);
  $("high").textContent = score(shown.heat.high);
  $("scale").textContent = shown.heat.absolute ? "One scale for all pictures." : "Score of a region. One scale for all sounds and pictures of this film.";
}

function chooseMap(number) {
  shown.map = number < shown.queries.length ? number : null;
  $("maps").querySelectorAll("input")[number].checked = true;
  draw();
}

// ---------------------------------------------------------------- what moves with the sound

player.moves = (at) => shown?.frames.length && drawPicture(at);
player.chosen = (number) => !$("maps").hidden && number < shown.queries.length && chooseMap(number);

function drawPicture(at) {
  const number = Math.min(shown.frames.length - 1, Math.floor((at / player.seconds) * shown.frames.length));
  const canvas = $("picture");
  const brush = canvas.getContext("2d");
  brush.drawImage(shown.frames[number], 0, 0, canvas.width, canvas.height);
  const time = `Picture at ${shown.times[number].toFixed(1)} s`;
  if (shown.map === null) return void (canvas.ariaLabel = `${time}.`);
  if (shown.boxes[shown.map]) {
    outline(brush, shown.boxes[shown.map]);
    return void (canvas.ariaLabel = `${time}, with the box of “${shown.queries[shown.map]}”.`);
  }
  if (!shown.heat) return void (canvas.ariaLabel = `${time}.`);
  const { rows, columns, low, high, values } = shown.heat;
  const scores = values[shown.map][number];
  brush.drawImage(heat(scores.map((score) => (score - low) / (high - low || 1)), rows, columns), 0, 0, canvas.width, canvas.height);
  const best = scores.indexOf(Math.max(...scores));
  canvas.ariaLabel = `${time}. “${shown.queries[shown.map]}” is strongest in row ${Math.floor(best / columns) + 1} of ${rows}, column ${(best % columns) + 1} of ${columns}: ${score(scores[best])}.`;
}

function heat(shares, rows, columns) {
  const map = new OffscreenCanvas(columns, rows);
  const image = new ImageData(columns, rows);
  shares.forEach((share, i) => {
    const place = Math.min(Math.max(share, 0), 1) * (INFERNO.length - 1);
    const low = Math.min(Math.floor(place), INFERNO.length - 2);
    const mixed = INFERNO[low].map((value, c) => value + (place - low) * (INFERNO[low + 1][c] - value));
    image.data.set([...mixed, 255 * (0.25 + 0.4 * share)], 4 * i);
  });
  map.getContext("2d").putImageData(image, 0, 0);
  return map;
}

// ---------------------------------------------------------------- what a user does

$("file").onchange = () => take($("file").files[0]);
$("more").onclick = () => addQuery().focus();
$("ask").onsubmit = (event) => (event.preventDefault(), asked && !$("cancel").hidden ? null : separate());
$("cancel").onclick = () => {
  asked.gone = true;
  forget(asked);
  $("status").textContent = "Cancelled.";
  busy(false);
  $("go").focus();
};
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files[0]);
  });
}
addEventListener("pagehide", () => asked && forget(asked));

addQuery();
try {
  about = await (await call("api/about")).json();
  $("model").textContent = about.model;
  $("allowed").textContent = `Audio or video, up to ${about.allowed.minutes} minutes and ${about.allowed.megabytes} MB`;
  $("examples").hidden = !about.examples.length;
  about.examples.forEach((labels, i) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: labels.join(" and "), ariaPressed: "false" });
    button.dataset.example = i + 1;
    button.onclick = () => choose({ example: i + 1 }, `Example: ${labels.join(" and ")}`, labels);
    $("examples").append(button);
  });
  named();
} catch (error) {
  complain(error.message);
}
