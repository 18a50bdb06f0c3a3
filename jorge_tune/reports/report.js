"use strict";
const dark = matchMedia("(prefers-color-scheme: dark)");
const config = { responsive: false, displaylogo: false, displayModeBar: false, doubleClick: "reset+autosize", scrollZoom: false };
const plots = [...document.querySelectorAll(".plot")];
const drawnAs = new Map();
let printing = false;

function coloured(value, palette) {
  if (typeof value === "string") return palette[value] ?? value;
  if (Array.isArray(value)) return value.map((item) => coloured(item, palette));
  if (value && typeof value === "object")
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, coloured(item, palette)]));
  return value;
}

// Plotly gives a legend at most half of a figure's height: room for the rows of a long one is added.
function legendRoom(found, wide) {
  const entries = [...found.data, ...found.layout.shapes.map((shape) => ({ showlegend: false, ...shape }))];
  const names = entries.filter((entry) => entry.showlegend !== false).map((entry) => entry.name ?? "");
  const widest = 60 + 7 * Math.max(0, ...names.map((name) => name.length));
  const rows = Math.ceil(names.length / Math.max(1, Math.floor(wide / widest)));
  return 24 * Math.max(0, rows - 3);
}

function draw(plot, width) {
  const theme = dark.matches && !printing ? "dark" : "light";
  const wide = width ?? plot.clientWidth;
  const as = theme + wide;
  if (!wide || drawnAs.get(plot) === as) return;
  drawnAs.set(plot, as);
  const data = JSON.parse(plot.parentElement.querySelector(".figure-data").textContent);
  const found = coloured(data, PALETTES[theme]);
  plot.dataset.height ??= plot.clientHeight;
  const height = Number(plot.dataset.height) + legendRoom(found, wide);
  plot.style.height = `${height}px`;
  Object.assign(found.layout, { template: {}, width: wide, height, dragmode: wide < 600 ? false : "zoom" });
  if (wide < 600 && (found.layout.xaxis.ticktext ?? []).join("").length > 30) found.layout.xaxis.tickangle = -35;
  Plotly.react(plot, found.data, found.layout, config);
}

// What is in view first, the rest while the reader reads; nothing waits for a scroll.
const seen = new IntersectionObserver(
  (entries) => entries.forEach((entry) => entry.isIntersecting && draw(entry.target)),
  { rootMargin: "400px" },
);
plots.forEach((plot) => seen.observe(plot));
function drawRest(index) {
  if (index >= plots.length) { document.documentElement.dataset.drawn = plots.length; return; }
  draw(plots[index]);
  setTimeout(() => drawRest(index + 1), 20);
}
addEventListener("load", () => setTimeout(() => drawRest(0), 20));

const sized = new ResizeObserver((entries) => {
  if (!printing) entries.forEach((entry) => drawnAs.has(entry.target) && draw(entry.target));
});
plots.forEach((plot) => sized.observe(plot));
dark.addEventListener("change", () => plots.forEach((plot) => draw(plot)));
addEventListener("beforeprint", () => { printing = true; plots.forEach((plot) => draw(plot, 680)); });
addEventListener("afterprint", () => { printing = false; plots.forEach((plot) => draw(plot)); });

document.querySelectorAll(".long th").forEach((heading) => heading.addEventListener("click", () => {
  const column = heading.cellIndex, body = heading.closest("table").tBodies[0];
  const down = heading.getAttribute("aria-sort") === "ascending";
  heading.parentElement.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const key = (row) => row.cells[column].textContent;
  const compare = (a, b) => {
    const [x, y] = [parseFloat(key(a)), parseFloat(key(b))];
    if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;
    const order = Number.isNaN(x) ? key(a).localeCompare(key(b)) : x - y;
    return down ? -order : order;
  };
  body.append(...[...body.rows].sort(compare));
}));
