// A line chart: a mean and a band for each line, values at the pointer or by arrow keys, and a table of the last values.

const MAX_TOOLTIP = 14;
const TICK_SPACE = 40; // width in pixels of a label such as 0.025
const AXIS_NAMES = {
  step: "step",
  epoch: "epoch",
  time: "seconds, evaluation and measurement included",
  training: "seconds of training alone",
  passes: "gradient passes, in epochs of SGD",
};
const SHORT_AXIS_NAMES = { ...AXIS_NAMES, time: "second", training: "second of training", passes: "gradient pass" };
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") node.className = value;
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== false && value !== null) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

function swatch({ dash, shade, colour, thin }, width = 30) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
  const set = (node, values) => Object.entries(values).forEach(([k, v]) => node.setAttribute(k, v));
  set(svg, { width, height: 10, "aria-hidden": "true", class: "swatch" });
  set(line, { x1: 1, x2: width - 1, y1: 5, y2: 5, "stroke-width": thin ? 1 : 3, "stroke-dasharray": dash.join(" ") });
  line.style.stroke = shaded(colour, shade);
  svg.append(line);
  return svg;
}

/* The colour mixed with the colour of the text, which is visible on both backgrounds. */
function shaded(colour, shade = 0) {
  return shade ? `color-mix(in srgb, ${colour}, var(--text) ${Math.round(100 * shade)}%)` : colour;
}

const probe = document.createElement("span"); // resolves CSS colours for the canvas
function canvasColour(colour, shade, alpha = 1) {
  probe.style.color = shaded(colour, shade);
  if (!probe.isConnected) document.body.append(probe);
  probe.hidden = true;
  const parts = getComputedStyle(probe).color.match(/[\d.e-]+/g).map(Number);
  const rgb = getComputedStyle(probe).color.startsWith("color(") ? parts.slice(0, 3).map((p) => 255 * p) : parts;
  return `rgba(${Math.round(rgb[0])}, ${Math.round(rgb[1])}, ${Math.round(rgb[2])}, ${alpha})`;
}

/* Labels of ticks, without labels that would overlap the label before. */
function spaced(uplot, ticks) {
  let last = -Infinity;
  return ticks.map((tick) => {
    const at = uplot.valToPos(tick, "x");
    if (at - last < TICK_SPACE) return "";
    last = at;
    return format(tick);
  });
}

const tooltip = element("div", { class: "tooltip", hidden: true });
const spoken = element("div", { class: "unseen", role: "status" });
document.body.append(tooltip, spoken);

class LineChart {
  /* A chart that is drawn `atOnce`, and not when it becomes visible, may have the height of its content. */
  constructor(parent, title, atOnce = false) {
    this.title = title;
    this.plot = element("div", { class: "plot", tabindex: 0, role: "img", "aria-label": title });
    this.plot.addEventListener("keydown", (event) => this.key(event));
    this.plot.addEventListener("blur", () => this.leave());
    this.table = element("details", {}, element("summary", {}, "values"));
    this.table.addEventListener("toggle", () => this.fillTable());
    this.bars = element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `values of ${title}`, hidden: true });
    this.note = element("p", { class: "note" });
    this.said = element("p", { class: "note" }); // set before the chart is drawn
    const body = element("div", { class: atOnce ? "" : "fixed" }, this.plot, this.bars, this.table);
    this.figure = element("figure", { class: "chart" }, element("figcaption", {}, title), body, this.note, this.said);
    parent.append(this.figure);
    new ResizeObserver(() => this.resize()).observe(this.plot);
  }

  /* The text below the chart. With a logarithmic scale, drawing may add a sentence, so there is room for it. */
  say(sentences, yLog = false) {
    this.said.textContent = sentences.filter((sentence) => sentence).join(" ");
    this.note.classList.toggle("room", yLog);
  }

  /* lines: {label, colour, shade, dash, thin, x, mean, std, n}; options: {axis, xLog, yLog, band, points}. */
  draw(lines, options) {
    this.lines = lines;
    this.options = options;
    this.uplot?.destroy();
    this.uplot = null;
    this.plot.replaceChildren();
    this.note.textContent = "";
    this.plot.setAttribute("aria-label", this.description());
    this.fillTable();
    const single = lines.length > 0 && lines.every((line) => line.x.length === 1);
    this.bars.hidden = !single;
    this.plot.hidden = this.table.hidden = single;
    if (single) return this.drawBars();
    if (!lines.length) {
      const timed = { time: " that have a time (checkpoints have none)", training: " that have a time of a step (finished runs have one)", passes: " whose gradient passes are known (those of finished runs are)" };
      this.plot.append(element("p", { class: "empty" }, `no values in the groups shown${timed[options.axis] ?? ""}`));
      return;
    }
    const positive = (values) => (options.yLog ? values.map((v) => (v > 0 ? v : null)) : values);
    const floor = Math.min(...lines.flatMap((l) => l.mean.filter((v) => v > 0))) / 2;
    const lost = options.yLog ? lines.flatMap((l) => l.mean).filter((v) => v !== null && v <= 0).length : 0;
    this.note.textContent = lost ? `${lost} points at or below 0 have no place on a log scale` : "";
    if (options.yLog && floor === Infinity) {
      this.plot.append(element("p", { class: "empty" }, "no positive value in the groups shown"));
      return;
    }
    const edge = (line, sign) =>
      line.mean.map((m, i) => {
        if (m === null || line.std[i] === null) return null;
        const value = m + sign * line.std[i];
        return options.yLog && value <= 0 ? floor : value;
      });
    const tables = lines.map((line) => [line.x, positive(line.mean), edge(line, 1), edge(line, -1)]);
    this.data = uPlot.join(tables);
    const series = [{}];
    const bands = [];
    lines.forEach((line, i) => {
      const stroke = canvasColour(line.colour, line.shade);
      const points = { show: options.points || line.x.length < 3, size: 6, fill: stroke };
      series.push({ label: line.label, stroke, width: line.thin ? 1 : 2, dash: line.dash, points });
      const hidden = { stroke: "transparent", width: 0, points: { show: false } };
      series.push({ ...hidden }, { ...hidden });
      if (options.band) bands.push({ series: [3 * i + 2, 3 * i + 3], fill: canvasColour(line.colour, line.shade, 0.16) });
    });
    const axis = (log) => ({
      stroke: css("--muted"),
      grid: { stroke: css("--grid"), width: 1 },
      ticks: { stroke: css("--grid"), width: 1 },
      font: "12px system-ui, sans-serif",
      values: (_, ticks) => ticks.map((t) => (t === null ? "" : format(t))),
      ...(log ? { space: 45 } : {}),
    });
    const config = {
      width: Math.max(200, this.plot.clientWidth),
      height: 240,
      legend: { show: false },
      cursor: { points: { show: false }, drag: { x: true, y: true, uni: 30 } },
      scales: {
        x: { time: false, ...(options.xLog ? { distr: 3, log: 2, range: (_, low, high) => [low / 1.1, high * 1.1] } : {}) },
        y: options.yLog ? { distr: 3 } : options.fromEarly ? { range: this.laterRange(lines) } : {},
      },
      axes: [
        { ...axis(false), ...(options.ticks ? { splits: () => options.ticks, values: spaced } : {}), label: options.axisLabel ?? AXIS_NAMES[options.axis], labelSize: 18, size: 34 },
        { ...axis(options.yLog), size: 58 },
      ],
      series,
      bands,
      hooks: { setCursor: [(u) => this.hover(u)] },
    };
    this.uplot = new uPlot(config, this.data, this.plot);
    this.plot.uplot = this.uplot;
    this.uplot.over.addEventListener("mouseleave", () => this.leave());
  }

  /* Accuracies rise steeply in the first tenth of training, which therefore does not set the scale. */
  laterRange(lines) {
    const [start, end] = [this.data[0][0], this.data[0][this.data[0].length - 1]];
    const ends = ({ mean, std }, i) => [-1, 1].map((sign) => mean[i] + sign * (this.options.band ? (std[i] ?? 0) : 0));
    const shown = (l, i) => l.mean[i] !== null && l.x[i] >= start + 0.1 * (end - start);
    const later = lines.flatMap((l) => l.x.flatMap((_, i) => (shown(l, i) ? ends(l, i) : [])));
    const [low, high] = [Math.min(...later), Math.max(...later)];
    const margin = 0.08 * (high - low) || 1;
    return (_, min, max) => [Math.max(min, low - margin), Math.min(max, high + margin)];
  }

  /* A single point has no curve, so its value is drawn as a bar. */
  drawBars() {
    const places = [...new Set(this.lines.map((line) => line.x[0]))].map(format);
    const column = `at ${this.place()} ${places.length > 3 ? "of its own" : places.join(" or ")}`;
    const rows = this.lines.map((line) => ({ label: line.label, style: line, cells: [this.at(line, 0)] }));
    this.bars.replaceChildren(barTable("", "runs", [column], rows));
  }

  resize() {
    const width = this.plot.clientWidth;
    if (this.uplot && width && width !== this.uplot.width) this.uplot.setSize({ width, height: 240 });
  }

  description() {
    const ends = this.lines.slice(0, 8).map((line) => `${line.label} ends at ${formatSpread(this.at(line, line.x.length - 1))}`);
    const rest = this.lines.length > 8 ? `; and ${this.lines.length - 8} more` : "";
    const against = this.options.axisLabel ?? AXIS_NAMES[this.options.axis];
    return `Line chart of ${this.title} against ${against}. ${ends.join("; ")}${rest}. Arrow keys read values.`;
  }

  /* The name of a single place on the x axis. */
  place() {
    return this.options.axisLabel ?? SHORT_AXIS_NAMES[this.options.axis];
  }

  at(line, i) {
    return { mean: line.mean[i], std: line.std[i], n: line.n[i] };
  }

  /* The values of the lines at `x`: the place, and the nearest point of each line that has not ended before `x`. */
  values(x) {
    const margin = 0.05 * (this.data[0][this.data[0].length - 1] - this.data[0][0]) + 1e-12;
    const found = this.lines
      .filter((line) => line.x[0] - margin <= x && x <= line.x[line.x.length - 1] + margin)
      .map((line) => ({ line, i: nearestIndex(line.x, x) }))
      .map(({ line, i }) => ({ line, x: line.x[i], ...this.at(line, i) }))
      .sort((a, b) => b.mean - a.mean);
    if (!found.length) return { found };
    const place = found.reduce((a, b) => (Math.abs(b.x - x) < Math.abs(a.x - x) ? b : a)).x;
    const words = (value) => `${value.line.label}: ${formatSpread(value)}${value.x === place ? "" : ` at ${format(value.x)}`}`;
    return { found: found.map((value) => ({ ...value, words: words(value) })), place: `${this.place()} ${format(place)}` };
  }

  hover(u) {
    if (u.cursor.left === null || u.cursor.left < 0) return this.leave();
    const { found, place } = this.values(u.posToVal(u.cursor.left, "x"));
    if (!found.length) return this.leave();
    const rows = found
      .slice(0, MAX_TOOLTIP)
      .map(({ line, words }) => element("div", { class: "row" }, swatch(line, 18), words));
    if (found.length > rows.length) rows.push(element("div", {}, `and ${found.length - rows.length} more`));
    tooltip.replaceChildren(element("strong", {}, place), ...rows);
    tooltip.hidden = false;
    const box = u.over.getBoundingClientRect();
    const left = box.left + u.cursor.left + 16;
    const fits = left + tooltip.offsetWidth < document.documentElement.clientWidth;
    tooltip.style.left = `${Math.max(4, fits ? left : box.left + u.cursor.left - tooltip.offsetWidth - 16) + scrollX}px`;
    tooltip.style.top = `${box.top + 8 + scrollY}px`;
  }

  leave() {
    tooltip.hidden = true;
    this.cursor = null;
  }

  key(event) {
    const moves = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
    if (event.key === "Escape") return this.leave();
    if (!(event.key in moves) || !this.uplot) return;
    event.preventDefault();
    const last = this.data[0].length - 1;
    const from = this.cursor ?? (moves[event.key] > 0 ? -1 : last + 1);
    const to = Math.min(last, Math.max(0, from + moves[event.key]));
    const x = this.data[0][to];
    this.uplot.setCursor({ left: this.uplot.valToPos(x, "x"), top: 10 });
    this.cursor = to;
    const { found, place } = this.values(x);
    spoken.textContent = `${place}. ${found.map(({ words }) => words).join("; ")}`;
  }

  fillTable() {
    if (!this.table.open || !this.lines) return;
    const rows = this.lines.map((line) => {
      const i = line.x.length - 1;
      const cells = [format(line.x[i]), format(line.mean[i]), format(line.std[i]), line.n[i]];
      return element("tr", {}, element("th", { scope: "row" }, line.label), ...cells.map((c) => element("td", {}, `${c}`)));
    });
    const heads = ["line", `last ${this.place()}`, "mean", "std", "n"].map((h) => element("th", { scope: "col" }, h));
    const table = element("table", {}, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows));
    this.table.replaceChildren(this.table.firstElementChild, element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `ends of ${this.title}` }, table));
  }
}
