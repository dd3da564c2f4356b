// The report's page: one player, which stands in the example that is open.
import { $, player } from "./player/player.js";

const examples = [...document.querySelectorAll("details[name=example]")];
const decoder = new OfflineAudioContext(1, 1, 44100);
const known = new Map(); // example -> its tracks, as they are told; each gets its buffer when it is shown
let films = [];
let opened = null;

const bytes = (address) => Uint8Array.from(atob(address.slice(address.indexOf(",") + 1)), (letter) => letter.charCodeAt(0)).buffer;

async function show(example, at = 0) {
  opened = example;
  if (!known.has(example)) known.set(example, JSON.parse(example.querySelector("script").textContent));
  const by = Number(example.querySelector("input:checked").value);
  const told = known.get(example).filter((track) => track.by === null || track.by === by);
  await Promise.all(told.map(async (track) => (track.buffer ??= await decoder.decodeAudioData(bytes(track.sound)))));
  if (opened !== example || by !== Number(example.querySelector("input:checked").value)) return;
  const playing = player.playing && at > 0;
  for (const figure of example.querySelectorAll("[data-by]")) figure.hidden = Number(figure.dataset.by) !== by;
  example.querySelector(".slot").append($("stand"));
  $("stand").hidden = false;
  films.forEach((film) => film.pause());
  films = [...example.querySelectorAll("video")];
  const tracks = told.map(({ title, note, buffer, sound, spectrogram, mask }) => ({
    title, note, buffer, muted: note === "", file: sound, name: `${example.dataset.name} - ${title}.mp3`,
    drawings: mask ? { spectrogram, mask } : { spectrogram },
  }));
  player.load(tracks, Number(example.dataset.seconds), at);
  if (playing) player.play();
}

player.moves = (at, playing) => {
  for (const film of films) {
    if (Math.abs(film.currentTime - at) > (playing ? 0.12 : 0.02)) film.currentTime = at;
    if (playing && film.paused && !film.ended) film.play().catch(() => {});
    if (!playing && !film.paused) film.pause();
  }
};

for (const example of examples) {
  example.ontoggle = () => {
    if (!example.open) return example === opened && player.playing ? $("play").click() : undefined;
    examples.forEach((other) => (other.open = other === example));
    if (opened !== example) show(example);
  };
  for (const input of example.querySelectorAll("input")) input.onchange = () => show(example, player.at());
}
if (examples.length) show(examples[0]);
