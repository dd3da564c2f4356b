// The player of avset: all tracks play by one clock, and what a page shows beside them moves with it.
import WaveSurfer from "./wavesurfer.js";

export const $ = (id) => document.getElementById(id);
const own = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const nonce = document.querySelector("meta[name=nonce]").content;
const PEAKS = 1500; // points of a waveform
const FADE = 0.03; // s, of a track that is muted or heard again
const dark = matchMedia("(prefers-color-scheme: dark)");

export const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}.${Math.floor((seconds % 1) * 10)}`;

// A track is { title, buffer, note, file, name, muted, drawings: { spectrogram, mask }, presence }: an AudioBuffer,
// the address of the sound and the name for a download, addresses of pictures, and what is known of its presence.
export const player = {
  context: null, tracks: [], solo: null, playing: false, from: 0, began: 0, seconds: 0,
  moves: () => {}, // is told the time (s) and whether it plays
  chosen: () => {}, // is told the number of the track that is alone

  open() {
    this.context ??= new AudioContext();
  },

  load(tracks, seconds, at = 0) {
    this.pause();
    this.clear();
    for (const track of tracks) track.level = 0; // dB
    const first = tracks.findIndex((track) => peaks(track.buffer).some(Boolean)); // what is absent is silence
    Object.assign(this, { tracks, seconds, from: Math.min(at, seconds), solo: Math.max(0, first) });
    $("at").max = seconds;
    const peak = Math.max(...tracks.map((track) => Math.max(...peaks(track.buffer).map(Math.abs))), 1e-3);
    tracks.forEach((track, number) => addTrack(track, number, peak));
    $("views").querySelectorAll("input").forEach((input) => {
      input.parentNode.hidden = input.value !== "waveform" && !tracks.some((track) => track.drawings[input.value]);
    });
    if (this.context) this.wire();
    this.balance();
    draw();
  },

  wire() {
    this.tracks.forEach((track, number) => {
      if (track.gain) return;
      track.gain = this.context.createGain();
      track.gain.gain.value = this.loudness(number);
      track.gain.connect(this.context.destination);
    });
  },

  clear() {
    for (const track of this.tracks) {
      track.surfer.destroy();
      track.gain?.disconnect();
    }
    this.tracks = [];
    $("tracks").replaceChildren();
  },

  at() {
    const now = this.playing ? this.from + Math.max(0, this.context.currentTime - this.began) : this.from;
    return Math.min(now, this.seconds);
  },

  async play() {
    this.open();
    this.wire();
    await this.context.resume();
    if (this.at() >= this.seconds) this.from = 0;
    this.began = this.context.currentTime + 0.03; // the same for all
    for (const track of this.tracks) {
      track.source = this.context.createBufferSource();
      track.source.buffer = track.buffer;
      track.source.connect(track.gain);
      track.source.start(this.began, this.from);
    }
    this.playing = true;
    tick();
  },

  pause() {
    this.from = this.at();
    this.playing = false;
    for (const track of this.tracks) track.source?.stop();
    for (const track of this.tracks) track.source = null;
  },

  seek(seconds) {
    const playing = this.playing;
    this.pause();
    this.from = Math.min(Math.max(seconds, 0), this.seconds);
    if (playing) this.play();
    else draw();
  },

  hears(number) {
    return this.solo === null ? !this.tracks[number].muted : this.solo === number;
  },

  loudness(number) {
    return this.hears(number) ? 10 ** (this.tracks[number].level / 20) : 0;
  },

  balance() {
    this.tracks.forEach((track, number) => {
      if (track.gain) {
        const [gain, level, now] = [track.gain.gain, this.loudness(number), this.context.currentTime];
        gain.cancelScheduledValues(now);
        if (this.playing) gain.setValueAtTime(gain.value, now).linearRampToValueAtTime(level, now + FADE); // to its very end
        else gain.value = level; // nothing sounds, so nothing fades
      }
      track.line.classList.toggle("silent", !this.hears(number));
      track.line.querySelector(".solo").ariaPressed = String(this.solo === number);
      track.line.querySelector(".mute").ariaPressed = String(track.muted);
    });
  },
};

function peaks(buffer) {
  const samples = buffer.getChannelData(0);
  const step = Math.max(1, samples.length / PEAKS);
  return Float32Array.from({ length: Math.min(PEAKS, samples.length) }, (_, i) => {
    let most = 0;
    for (let n = Math.floor(i * step); n < (i + 1) * step && n < samples.length; n++) if (Math.abs(samples[n]) > Math.abs(most)) most = samples[n];
    return most;
  });
}

const colours = () => ({ waveColor: own("--wave"), progressColor: own("--played"), cursorColor: own("--ink") });

function addTrack(track, number, peak) {
  const line = $("track").content.cloneNode(true).firstElementChild;
  track.line = line;
  line.querySelector("h3").textContent = track.title;
  line.querySelector(".energy").textContent = track.note;
  for (const [kind, src] of Object.entries(track.drawings)) {
    line.querySelector(".view").append(Object.assign(document.createElement("img"), { src, alt: "", className: kind }));
  }
  if ((track.presence ?? null) !== null) {
    line.querySelector(".presence").hidden = false;
    line.querySelector("meter").value = track.presence;
    line.querySelector(".presence b").textContent = track.presence.toFixed(2);
  }
  const [solo, mute, download, level] = [".solo", ".mute", "a", ".level input"].map((one) => line.querySelector(one));
  level.ariaLabel = `Level: ${track.title}`;
  level.oninput = () => {
    track.level = Number(level.value);
    level.ariaValueText = line.querySelector("output").textContent = `${track.level > 0 ? "+" : ""}${track.level} dB`;
    player.balance();
  };
  solo.ariaLabel = `Solo: ${track.title}`;
  mute.ariaLabel = `Mute: ${track.title}`;
  download.ariaLabel = `Download: ${track.title}`;
  download.href = track.file;
  download.download = track.name.replace(/[^\p{L}\p{N}_. -]+/gu, "_");
  solo.onclick = () => {
    player.solo = player.solo === number ? null : number;
    player.chosen(number);
    player.balance();
  };
  mute.onclick = () => {
    if (player.solo === number) player.solo = null;
    track.muted = !track.muted;
    player.balance();
  };
  $("tracks").append(line);
  track.surfer = WaveSurfer.create({
    container: line.querySelector(".view"), height: 92, peaks: [peaks(track.buffer)], duration: player.seconds,
    maxPeak: peak, cspNonce: nonce, cursorWidth: 2, dragToSeek: true, hideScrollbar: true, ...colours(),
  });
  track.surfer.on("interaction", (seconds) => player.seek(seconds));
}

function tick() {
  draw();
  if (!player.playing) return;
  if (player.at() >= player.seconds) {
    player.pause();
    draw();
  } else requestAnimationFrame(tick);
}

export function draw() {
  const at = player.at();
  $("play").textContent = player.playing ? "Pause" : "Play";
  $("at").value = at;
  $("at").ariaValueText = `${at.toFixed(1)} of ${player.seconds.toFixed(1)} seconds`;
  $("clock").textContent = `${clock(at)} / ${clock(player.seconds)}`;
  for (const track of player.tracks) track.surfer.setTime(at);
  player.moves(at, player.playing);
}

$("play").onclick = () => (player.playing ? (player.pause(), draw()) : player.play());
$("at").oninput = () => player.seek(Number($("at").value));
$("views").onchange = (event) => {
  $("tracks").className = event.target.value;
};
dark.addEventListener("change", () => player.tracks.forEach((track) => track.surfer.setOptions(colours())));
document.addEventListener("keydown", (event) => {
  const elsewhere = event.target.closest("button, input, select, summary, a, video, [role]");
  if (event.key === " " && elsewhere === null && player.tracks.length) {
    event.preventDefault();
    $("play").click();
  }
});
