// The sections that are drawn: curves, decomposition, the list of runs; and the start of the script.

/* The radii at which the runs of some groups measured a friendliness metric. */
function radiiOf(metric, groups) {
  const radii = DATA.radii[metric.startsWith("measured/") ? "measured/" : ""];
  const runs = groups.flatMap((group) => group.runs.filter((run) => CURVES.get(metric)?.has(run)));
  return [...new Set(runs.map((run) => radii[run]).filter((radius) => radius !== null))].sort((a, b) => a - b);
}

const isRise = (metric) => /^(measured\/)?perturbation\/rise_/.test(metric);
const differingRadii = (radii) => `Measured at different radii (${radii.map(format).join(", ")}): rises may not be compared.`;

function metricChart(parent, section, metric) {
  const single = [...CURVES.get(metric.key).values()].every(({ values }) => values.length === 1); // drawn as a bar
  const chart = new LineChart(parent, metric.title, single);
  if (metric.notFinite) {
    const of = DATA.thinned ? " of the points kept" : "";
    chart.figure.append(element("p", { class: "note" }, `${metric.notFinite} values${of} that are not finite are left out`));
  }
  if (DATA.ratios[metric.key]) {
    chart.figure.append(element("p", { class: "note" }, "no value where the mean of the denominator is not positive"));
  }
  const warning = element("p", { class: "warning", hidden: true });
  if (isRise(metric.key)) chart.figure.append(warning);
  const line = (group) => groupCurve(group, metric.key, state.axis, state.smoothing, percentFactor(metric.key));
  const key = element("p", { class: "legend", hidden: true });
  chart.figure.append(key);
  const draw = () => {
    const lines = shownGroups().map((group) => ({ ...group, curve: line(group) }));
    const found = lines.filter(({ curve }) => curve !== null).map(({ curve, ...group }) => ({ ...group, ...curve }));
    found.unshift(...(found.length ? referenceLines(metric.key) : [])); // first, so that they lie under ours
    const fromEarly = metric.percent && !state.whole.has(section);
    chart.draw(found, { axis: state.axis, band: state.band, yLog: state.log.has(section), fromEarly });
  };
  always(() => {
    chart.say([cutNote([metric.key], state.axis)], state.log.has(section));
    const radii = isRise(metric.key) ? radiiOf(metric.key, shownGroups()) : [];
    warning.hidden = radii.length < 2;
    warning.textContent = differingRadii(radii);
    const under = single ? [] : referenceLines(metric.key);
    key.replaceChildren(...under.map((reference) => element("span", { class: "chip" }, swatch(reference), reference.label)));
    key.hidden = !under.length;
  });
  if (single) always(draw);
  else whenSeen(chart.figure, draw);
}

const REFERENCE_DASHES = [[], [4, 3], [1, 3], [8, 3]];

/* The curves of references with the same setting as a group that is shown. They have epochs and no other axis. */
function referenceLines(metric) {
  if (state.axis !== "epoch") return [];
  const shown = new Set(shownGroups().flatMap(({ runs }) => runs));
  return DATA.references
    .filter((reference) => reference.metric === metric && reference.runs.some((run) => shown.has(run)))
    .map(({ label, x, y }, i) => {
      const mean = smoothed(y, state.smoothing);
      const dash = REFERENCE_DASHES[i % REFERENCE_DASHES.length];
      return { label, colour: "var(--muted)", shade: 0, dash, thin: true, x, mean, std: x.map(() => null), n: x.map(() => 1) };
    });
}

function buildCurves() {
  const root = document.getElementById("curves-body");
  DATA.groups.forEach((name) => {
    const metrics = DATA.metrics.filter((metric) => metric.group === name);
    if (!metrics.length) return;
    const choice = (label, chosen) =>
      check(label, false, (value) => {
        if (value) chosen.add(name);
        else chosen.delete(name);
        redraw();
      });
    const choices = [choice("log scale", state.log)];
    if (metrics.some((metric) => metric.percent)) choices.unshift(choice("first tenth too", state.whole));
    const id = `curves-${name.replaceAll(" ", "-")}`;
    const heading = element("div", { class: "bar-heading" }, element("h3", { id }, name), element("span", { class: "controls" }, ...choices));
    const first = element("div", { class: "charts" });
    root.append(element("section", { "aria-labelledby": id }, heading, first));
    const headlines = metrics.filter((m) => m.headline);
    const others = headlines.length ? metrics.filter((m) => !m.headline) : [];
    (headlines.length ? headlines : metrics).forEach((metric) => metricChart(first, name, metric));
    if (others.length) {
      const rest = element("div", { class: "charts" });
      const details = element("details", {}, element("summary", {}, `${others.length} more of ${name}`), rest);
      details.addEventListener("toggle", () => others.forEach((metric) => metricChart(rest, name, metric)), { once: true });
      first.after(details);
    }
  });
  if (!DATA.metrics.length) root.append(element("p", { class: "empty" }, "No run has logged a row yet."));
}

const QUALITY = [
  ["perturbation/cos_ema_full", "measured", []],
  ["perturbation/cos_ema_full_predicted", "if w stood still", [6, 3]],
  ["perturbation/cos_ema_full_independent", "if w stood still, independent batches", [2, 2]],
];

function buildQuality(root) {
  if (!CURVES.has(withFallback(QUALITY[0][0]))) return;
  const chart = new LineChart(root, "quality of the EMA: cos(m, g), measured and predicted");
  const meaning = QUALITY.map(([, name, dash]) => element("span", { class: "chip" }, swatch({ dash, colour: "var(--text)", shade: 0 }), name));
  chart.figure.firstElementChild.after(element("p", { class: "legend" }, ...meaning));
  const metrics = QUALITY.map(([metric]) => withFallback(metric));
  always(() => chart.say([cutNote(metrics, state.axis)]));
  whenSeen(chart.figure, () => {
    const lines = shownGroups().flatMap((group) =>
      QUALITY.flatMap(([metric, name, dash], i) => {
        const curve = groupCurve(group, withFallback(metric), state.axis, state.smoothing, 1);
        const shade = group.shade || (i ? 0.35 : 0);
        return curve ? [{ ...group, ...curve, shade, dash, label: `${group.label}, ${name}` }] : [];
      }),
    );
    chart.draw(lines, { axis: state.axis, band: state.band, points: false });
  });
}

/* All epochs at which any run recorded a metric. */
function epochsOf(metric) {
  const curves = [...(CURVES.get(metric)?.keys() ?? [])].map((run) => curveOf(metric, run, "epoch"));
  return [...new Set(curves.flatMap((c) => (c ? c.x : [])))].sort((a, b) => a - b);
}

/* A table of bars at a chosen epoch; at first the last epoch. */
function barsAtEpoch(root, name, metric, build) {
  const epochs = epochsOf(metric);
  const box = element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": name });
  let at = epochs.length - 1;
  const fill = () => box.replaceChildren(build(epochs[at]));
  const show = (i) => `epoch ${format(epochs[i])}`;
  const choose = slider("at", { min: 0, max: at, step: 1, value: at, name: `epoch of ${name}` }, show, (i) => {
    at = i;
    fill();
  });
  const figure = element("div", { class: "wide" }, epochs.length > 1 ? choose : show(at), box);
  root.append(figure);
  always(fill);
}

function buildShares(root) {
  const share = withFallback("perturbation/full_share");
  const cosine = withFallback("perturbation/cos_batch_full");
  if (!CURVES.has(share)) return;
  const percent = ({ mean, std, n }, of = (value) => value) => ({ mean: mean === null ? null : 100 * of(mean), std: std === null ? null : 100 * std, n });
  barsAtEpoch(root, "shares of the batch gradient", share, (epoch) => {
    const rows = shownGroups().map((group) => {
      const full = groupValueAt(group, share, epoch);
      const sign = groupValueAt(group, cosine, epoch).mean < 0 ? " (cosine < 0)" : "";
      const cells = [percent(full), percent(full, (value) => 1 - value)];
      return { label: labelAt(group.label, full.epochs, epoch) + sign, style: group, cells };
    });
    const measured = rows.filter(({ cells }) => cells[0].mean !== null);
    const whole = [...measured, { cells: [{ mean: 100, std: null }] }]; // a full bar is the whole gradient
    const columns = ["full gradient, %", "noise, %"];
    const sign = "that of the full gradient is cos²(g_B, g), which hides the sign; a negative mean cosine is marked";
    const what = `What a batch gradient is made of: shares of |g_B|²; ${sign}`;
    return barTable(what, "runs", columns, measured, whole);
  });
}

function buildFriendliness(root) {
  const rise = (part, direction) => withFallback(`perturbation/rise_${part}_${direction}`);
  const first = DATA.directions.map((d) => rise("batch", d)).find((metric) => CURVES.has(metric));
  if (!first) return;
  const box = element("div");
  root.append(box);
  const having = () => shownGroups().filter((g) => g.runs.some((run) => CURVES.get(first).has(run)));
  barsAtEpoch(box, "friendliness", first, (epoch) => {
    const found = having().map((group) => {
      const rows = DATA.directions.map((direction) => ({
        label: DATA.styles[direction].label,
        style: DATA.styles[direction],
        cells: ["batch", "other"].map((part) => groupValueAt(group, rise(part, direction), epoch)),
      }));
      const measured = rows.filter(({ cells }) => cells.some((cell) => cell.mean !== null));
      const epochs = [...new Set(measured.flatMap(({ cells }) => cells.flatMap((cell) => cell.epochs)))];
      const name = labelAt(group.label, epochs, epoch);
      const radii = radiiOf(first, [group]);
      const radius = radii.map(format).join(" and ");
      const where = radius ? ` at radius ${radius}` : "";
      const caption = `Friendliness${where}, trained with ${name}: rise of the loss along each direction, nats`;
      return { rows: measured, radii, radius, caption };
    });
    const columns = ["on the batch", "on the other samples"];
    const tables = found.map(({ caption, rows, radius }) => {
      const alike = found.filter((other) => other.radius === radius).flatMap((other) => other.rows); // compared, so on one scale
      return barTable(caption, "direction", columns, rows, alike);
    });
    const radii = [...new Set(found.flatMap((group) => group.radii))].sort((a, b) => a - b);
    const warning = element("p", { class: "warning", hidden: radii.length < 2 }, `${differingRadii(radii)} Bars have a scale for each radius.`);
    return element("div", {}, warning, element("div", { class: "pair" }, ...tables));
  });
}

function buildDecomposition() {
  const root = document.getElementById("decomposition-body");
  buildQuality(root);
  buildShares(root);
  buildFriendliness(root);
  document.getElementById("no-decomposition").hidden = root.childElementCount > 0;
}

/* A run's value of the headline metric, in the form of the table. */
function resultOf(name, run) {
  const value = DATA.summary[name][run];
  if (value === null) return "–";
  return percentFactor(name) > 1 ? (100 * value).toFixed(2) : String(Number(value.toPrecision(5)));
}

function buildRuns() {
  const details = document.getElementById("runs");
  details.addEventListener(
    "toggle",
    () => {
      const keys = Object.keys(DATA.keys);
      const results = DATA.results.filter((name) => name in DATA.summary);
      const head = (text) => element("th", { scope: "col" }, element("button", { type: "button" }, text));
      const cell = (value, text) => element("td", { "data-value": value ?? "" }, text);
      const said = ({ status, diverged }) => (diverged === null ? status : `${status}, diverged at step ${diverged}`);
      const rows = DATA.runs.map(({ name, ...state }, run) =>
        element(
          "tr",
          {},
          element("th", { scope: "row", "data-value": name }, name),
          cell(said(state), said(state)),
          ...keys.map((key) => cell(DATA.keys[key][run], shownValue(key, DATA.keys[key][run]))),
          ...results.map((r) => cell(DATA.summary[r][run], resultOf(r, run))),
        ),
      );
      const heads = ["run", "status", ...keys, ...results.map((r) => `${r}${percentFactor(r) > 1 ? ", %" : ""}`)].map(head);
      const table = element(
        "table",
        { class: "sortable" },
        element("thead", {}, element("tr", {}, ...heads)),
        element("tbody", {}, ...rows),
      );
      details.append(element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "all runs" }, table));
      makeSortable(table);
    },
    { once: true },
  );
}

document.querySelectorAll("table.sortable").forEach(makeSortable);
buildReference();
buildTheme();
buildControls();
buildCurves();
buildDecomposition();
buildSensitivity();
buildRuns();
regroup();
