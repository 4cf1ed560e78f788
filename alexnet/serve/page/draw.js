// From the server's answers to the page. Every name is a stranger's word: it only ever becomes text, never markup.

export const byId = (id) => document.getElementById(id);
export const percent = (p) => (p < 0.0005 ? "< 0.1" : (100 * p).toFixed(1)) + "\u00a0%";

export function make(tag, options = {}, ...children) {
  const node = Object.assign(document.createElement(tag), options);
  node.append(...children);
  return node;
}

function bar(share) {
  const inner = make("b");
  inner.style.width = `${100 * share}%`;
  const outer = make("i", {}, inner);
  outer.setAttribute("aria-hidden", "true");
  return outer;
}

export function top5(rows) {
  byId("top5").replaceChildren(...rows.map((row) =>
    make("li", {}, make("span", { textContent: row.class }), make("span", { textContent: percent(row.probability) }), bar(row.probability))));
}

export function views(rows, said) {
  byId("views").replaceChildren(...rows.map((row) =>
    make("li", { className: row.class === said ? "same" : "" },
      make("img", { src: row.src, alt: `View: ${row.name}` }),
      make("span", { textContent: `${row.class}, ${percent(row.probability)}` }), bar(row.probability),
      make("span", { className: "soft", textContent: row.name }))));
}

function sheet(part, words) {
  const image = make("img", { src: part.src, alt: words, width: part.width, height: part.height });
  return make("figure", {}, image, make("figcaption", { textContent: words }));
}

export function maps(found) {
  const kind = found.shape.length === 3 ? `maps of ${found.shape[1]} × ${found.shape[2]}` : "units";
  byId("maps").replaceChildren(...found.towers.map((t) => sheet(t, `${t.name ? t.name + ", " : ""}${t.count} ${kind}`)));
  const scale = found.least < 0 ? "grey is zero, white the strongest" : "black is zero, white the strongest";
  byId("maps-words").textContent = `${percent(found.active)} above zero; ${scale} (${found.largest.toPrecision(3)})`;
}

export function kernels(parts) {
  byId("kernels-part").hidden = parts.length === 0;
  byId("kernels").replaceChildren(...parts.map((p) =>
    sheet({ src: p.src, width: p.shape[1], height: p.shape[0] }, `${p.name ? p.name + ", " : ""}${p.count} kernels of ${p.px} × ${p.px} px`)));
}

export function near(found) {
  byId("near-part").hidden = found.pictures.length === 0 && !found.coming;
  byId("near-words").textContent = found.coming ? "The training pictures are still being looked at …" : `Of ${found.of.toLocaleString("en")} training pictures, by distance in ${found.layer}.`;
  byId("near").replaceChildren(...found.pictures.map((p) =>
    make("li", {}, make("img", { src: p.src, alt: `Training picture: ${p.class}`, title: p.key }), make("span", { textContent: p.class }))));
}

// The view in grey, over it the loss of probability at each place of the patch, blended between the places.
export async function evidence(found) {
  const canvas = byId("heat"), view = new Image();
  view.src = found.src;
  await view.decode();
  const side = 480, n = found.places.length, context = canvas.getContext("2d");
  canvas.width = canvas.height = side;
  context.filter = "grayscale(1) contrast(.8)";
  context.drawImage(view, 0, 0, side, side);
  context.filter = "none";
  const small = make("canvas", { width: n, height: n }), dots = small.getContext("2d"), most = Math.max(...found.drops.flat(), 0.02);
  const pixels = dots.createImageData(n, n);
  found.drops.flat().forEach((drop, i) => pixels.data.set([217, 72, 15, 215 * Math.max(0, drop / most)], 4 * i));
  dots.putImageData(pixels, 0, 0);
  const step = n > 1 ? (found.places[n - 1] - found.places[0]) / (n - 1) : 1;
  context.imageSmoothingQuality = "high";
  const from = side * (found.patch - step) / 2; // so that a place's dot lies over the middle of its patch
  context.drawImage(small, from, from, n * step * side, n * step * side);
  const least = Math.min(...found.drops.map((row) => Math.min(...row)));
  const words = `Under a grey patch at the worst place “${found.class}” falls from ${percent(found.probability)} to ${percent(found.probability - Math.max(...found.drops.flat()))}` +
    (least < -0.02 ? `; at another it rises to ${percent(found.probability - least)}.` : ".");
  byId("evidence-words").textContent = words;
  canvas.setAttribute("aria-label", words);
}

export function model(about) {
  document.title = `Ask ${about.run}`;
  byId("name").textContent = about.run;
  byId("about").textContent = [about.preset, `${about.classes.length.toLocaleString("en")} classes`,
    `${about.parameters.toLocaleString("en")} parameters`, accuracy(about.accuracy)].filter(Boolean).join(" · ");
  byId("words").replaceChildren(...about.words.flatMap((w) => [make("dt", { textContent: w.about }), make("dd", { textContent: w.text })]));
  byId("fidelity").replaceChildren(...about.fidelity.map((row) => {
    const name = make("th", { textContent: row.detail, scope: "row" });
    return make("tr", {}, name, ...[row.here, row.paper, row.as_run, row.matches].map((text) => make("td", { textContent: text })));
  }));
  byId("fidelity-part").hidden = about.fidelity.length === 0;
  byId("words-part").hidden = false;
  byId("curl").textContent = `curl -F file=@PICTURE.jpg ${location.origin}/api/predict?run=${encodeURIComponent(about.run)}`;
  const layer = byId("layer"), before = layer.value;
  layer.replaceChildren(...about.layers.map((name) => make("option", { value: name, textContent: name })));
  layer.value = about.layers.includes(before) ? before : (about.layers[1] ?? about.layers[0] ?? "");
  byId("maps-part").hidden = about.layers.length === 0;
  kernels(about.kernels);
}

function accuracy(found) {
  if (!found) return "accuracy never measured";
  const of = `${found.images.toLocaleString("en")} pictures, ${found.views === 1 ? "one view" : found.views + " views"}`;
  return `${(100 * (1 - found.top1_error)).toFixed(1)}\u00a0% right (${of})`;
}
