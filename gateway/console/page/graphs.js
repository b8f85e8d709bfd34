// Graphs over the last ten minutes, and sparklines.

const KEPT = 600;
const COLOURS = ["#2f81f7", "#d29922", "#f85149", "#3fb950", "#a371f7", "#db61a2", "#39c5cf", "#8b949e"];
const points = [];
const graphs = [];
let seen = new Set();

const three = (name) => ["p50", "p95", "p99"].map((label, i) => [label, (p) => p[name]?.[i] ?? null]);
const percent = (name) => [name, (p) => (p[name] == null ? null : p[name] * 100)];

export function begin(stages) {
  if (graphs.length) return;
  add("g-ttft", three("ttft"));
  add("g-total", three("total"));
  add("g-stages", stages.map((s) => [s, (p) => p.stages[s]?.[1] ?? null]));
  add("g-ratios", ["error", "degraded", "cache"].map(percent));
  addEventListener("resize", () => graphs.forEach((g) => g.plot.setSize(size(g.box))));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => graphs.forEach((g) => g.plot.redraw()));
}

function size(box) {
  return { width: Math.max(box.clientWidth, 200), height: 180 };
}

function add(id, lines) {
  const box = document.getElementById(id);
  const ink = () => getComputedStyle(document.body).color;
  const axis = { stroke: ink, grid: { stroke: "#8884", width: 1 }, ticks: { stroke: "#8884" } };
  const series = lines.map(([label], i) => ({ label, stroke: COLOURS[i], width: 1.5, spanGaps: false }));
  const plot = new uPlot(
    { ...size(box), series: [{}, ...series], axes: [axis, axis], cursor: { y: false } }, [[]], box,
  );
  graphs.push({ box, plot, lines });
}

export function restart(kept) {
  points.length = 0;
  seen = new Set();
  kept.forEach(keep);
}

export function keep(point) {
  if (seen.has(point.at)) return;
  seen.add(point.at);
  points.push(point);
  if (points.length > KEPT) seen.delete(points.shift().at);
}

export function draw() {
  const at = points.map((p) => p.at);
  for (const { plot, lines } of graphs) plot.setData([at, ...lines.map(([, of]) => points.map(of))]);
}

/** A line of what `of` gives for each point, as an image with words. */
export function spark(of, words) {
  const values = points.map(of);
  const most = Math.max(...values.filter((v) => v != null), 0.001);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "spark");
  svg.setAttribute("viewBox", `0 0 ${Math.max(values.length - 1, 1)} 1`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", words(most));
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  line.setAttribute("vector-effect", "non-scaling-stroke");
  const dots = values.map((v, i) => (v == null ? null : `${i},${(1 - 0.9 * (v / most)).toFixed(3)}`));
  line.setAttribute("points", dots.filter(Boolean).join(" "));
  svg.append(line);
  return svg;
}
