// The flow: a picture comes in by drop, paste, file or camera; the answer is asked for first, then what the net saw.
// A newer picture or run makes what is still under way for the older one void.

import { byId, make } from "./draw.js";
import * as draw from "./draw.js";

const MOST_BYTES = 10 * 1024 * 1024;
let picture = null, about = null, turn = new AbortController(), mapTurn = new AbortController(), stream = null, said = "";

const run = () => new URLSearchParams({ run: byId("run").value });

async function answer(response) {
  const body = await response.json();
  if (!response.ok) throw new Error(body.error.message);
  return body;
}

async function post(name, signal, more = {}) {
  const form = new FormData(), query = run();
  form.append("file", picture, picture.name || "picture");
  Object.entries(more).forEach(([key, value]) => query.set(key, value));
  for (let tries = 0; ; tries++) {
    const response = await fetch(`/api/${name}?${query}`, { method: "POST", body: form, signal });
    if (response.status !== 503 || tries === 5) return answer(response);
    await new Promise((resolve) => setTimeout(resolve, 1000 * Number(response.headers.get("Retry-After") || 1)));
  }
}

function fail(error) {
  if (error.name === "AbortError") return;
  const gone = error instanceof TypeError;
  byId("error").textContent = gone ? "The server does not answer. Is alexnet serve still running?" : sentence(error.message);
  byId("error").hidden = false;
  byId("status").textContent = "";
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (text.endsWith(".") ? "" : ".");

function clear() {
  turn.abort();
  turn = new AbortController();
  byId("error").hidden = true;
  byId("time").textContent = "";
}

function show(file) {
  const image = byId("picture");
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(file);
  image.alt = file.name ? `Your picture, ${file.name}` : "Your picture";
  image.hidden = false;
  image.onerror = () => { image.hidden = true; };
  byId("invite").hidden = true;
  byId("zone").classList.add("full");
}

async function ask(file) {
  if (!file) return;
  clear();
  if (!byId("video").hidden) lens(false);
  picture = file;
  show(file);
  byId("looks").hidden = true;
  if (file.size > MOST_BYTES) {
    byId("top5").replaceChildren();
    return fail(new Error(`this file has ${(file.size / 2 ** 20).toFixed(1)} MB; at most 10 MB are taken`));
  }
  const { signal } = turn, begun = performance.now();
  byId("top5").classList.add("busy");
  byId("status").textContent = "Looking …";
  try {
    const [found] = await post("predict", signal);
    said = found.top5[0].class;
    draw.top5(found.top5);
    byId("status").textContent = `${said}, ${draw.percent(found.top5[0].probability)}`;
    byId("time").textContent = `Ten views, answered in ${Math.round(performance.now() - begun)} ms.`;
    byId("looks").hidden = false;
    await looks(signal);
  } catch (error) {
    if (error.name !== "AbortError" && byId("looks").hidden) byId("top5").replaceChildren();
    fail(error);
  } finally {
    if (!signal.aborted) byId("top5").classList.remove("busy");
  }
}

async function looks(signal) {
  byId("top5").classList.remove("busy");
  draw.views((await post("views", signal)).views, said);
  await maps();
  await draw.evidence(await post("evidence", signal));
  for (;;) {
    const found = await post("nearest", signal);
    draw.near(found);
    if (!found.coming) return;
    await new Promise((resolve) => setTimeout(resolve, 2000));
  }
}

async function maps() {
  const layer = byId("layer"), names = [...layer.options].map((o) => o.value);
  if (!picture || names.length === 0) return;
  mapTurn.abort();
  mapTurn = new AbortController();
  byId("before").disabled = layer.selectedIndex === 0;
  byId("after").disabled = layer.selectedIndex === names.length - 1;
  try {
    draw.maps(await post("maps", mapTurn.signal, { layer: layer.value }));
  } catch (error) {
    fail(error);
  }
}

function step(by) {
  byId("layer").selectedIndex += by;
  maps();
}

async function open() {
  try {
    about = await answer(await fetch(`/api/model?${run()}`));
    draw.model(about);
  } catch (error) {
    fail(error);
  }
}

async function start() {
  try {
    const found = await answer(await fetch("/api/models"));
    byId("run").replaceChildren(...found.map((m) => make("option", { value: m.run, textContent: m.run })));
    byId("choice").hidden = found.length < 2;
  } catch (error) {
    return fail(error);
  }
  await open();
}

async function camera() {
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    return fail(new Error("the camera cannot be used"));
  }
  const video = byId("video");
  video.srcObject = stream;
  lens(true);
  await video.play();
  byId("shoot").focus();
}

function lens(on) {
  byId("video").hidden = byId("shoot").hidden = !on;
  byId("camera").hidden = on;
  if (on) byId("picture").hidden = byId("invite").hidden = true;
  else stream.getTracks().forEach((track) => track.stop());
}

function shoot() {
  const video = byId("video"), canvas = make("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  lens(false);
  canvas.toBlob((blob) => ask(new File([blob], "camera.png")), "image/png");
}

// Anywhere on the page will do: a picture dropped beside the frame would otherwise be opened instead of it.
addEventListener("dragover", (event) => { event.preventDefault(); byId("zone").classList.add("over"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) byId("zone").classList.remove("over"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  byId("zone").classList.remove("over");
  ask(event.dataTransfer.files[0]);
});
addEventListener("paste", (event) => ask([...event.clipboardData.files].find((file) => file.type.startsWith("image/"))));
byId("file").addEventListener("change", (event) => { ask(event.target.files[0]); event.target.value = ""; });
byId("run").addEventListener("change", async () => { await open(); if (picture) ask(picture); });
byId("layer").addEventListener("change", maps);
byId("before").addEventListener("click", () => step(-1));
byId("after").addEventListener("click", () => step(1));
byId("camera").addEventListener("click", camera);
byId("shoot").addEventListener("click", shoot);
byId("camera").hidden = !navigator.mediaDevices?.getUserMedia;
start();
