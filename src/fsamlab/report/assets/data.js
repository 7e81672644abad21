// The data of the page: groups of runs, and their mean curves.

const DATA = JSON.parse(document.getElementById("data").textContent);
const CURVES = new Map(
  Object.entries(DATA.curves).map(([metric, curves]) => [
    metric,
    new Map(curves.map(([run, grid, values]) => [run, { grid, values }])),
  ]),
);
const MAX_GROUPS = 30; // nobody can tell more lines apart
const MAX_UNION = 400; // points of a mean over runs with different points
const MAX_SHADE = 0.45; // with more shade, colours look alike
const DASHES = [[], [6, 3], [2, 2], [8, 3, 2, 3], [12, 3]];

const percentFactor = (metric) => (DATA.percent.includes(metric) ? 100 : 1);
const method = (run) => String(DATA.keys["optimizer.name"][run]);

/* Keys as labels show them: without their section, unless two keys would then look the same. */
const SHORT_KEYS = new Map(Object.keys(DATA.keys).map((key) => [key, key.replace(/^(optimizer|data|train|model)\./, "")]));
const shortKey = (key) => {
  const short = SHORT_KEYS.get(key);
  return [...SHORT_KEYS.values()].filter((other) => other === short).length > 1 ? key : short;
};

function shownValue(key, value) {
  if (value === null || value === undefined) return "–";
  if (key === "optimizer.name") return DATA.styles[value] ? DATA.styles[value].label : String(value);
  return String(value);
}

function groupLabel(keys, run) {
  return keys
    .map((key) => {
      const value = shownValue(key, DATA.keys[key][run]);
      return key.endsWith(".name") ? value : `${shortKey(key)} ${value}`;
    })
    .join(", ");
}

/* Groups of runs that agree in all `keys` and in whether they have finished; with `byRun` each run is a group. */
function groupsOf(keys, byRun) {
  const found = new Map();
  DATA.runs.forEach(({ name, status }, run) => {
    const finished = status === "finished";
    const id = byRun ? `${run}` : JSON.stringify([finished ? "" : status, ...keys.map((key) => DATA.keys[key][run])]);
    if (!found.has(id)) {
      const label = byRun ? name : groupLabel(keys, run) || "all runs";
      found.set(id, { id, label: finished ? label : `${label} (${status})`, finished, runs: [] });
    }
    found.get(id).runs.push(run);
  });
  const groups = [...found.values()].sort((a, b) => b.finished - a.finished);
  colourise(groups);
  return groups;
}

/* The first group of a method has the method's look. Further groups of the same colour differ in shade and dash. */
function colourise(groups) {
  const seen = new Set();
  const further = new Map(); // colour -> groups
  let mixed = 0;
  groups.forEach((group) => {
    const methods = new Set(group.runs.map(method));
    group.method = methods.size === 1 ? [...methods][0] : null;
    const style = DATA.styles[group.method];
    group.shade = 0;
    if (style) {
      Object.assign(group, { colour: style.colour, dash: style.dash });
      if (seen.has(group.method)) further.set(style.colour, [...(further.get(style.colour) ?? []), group]);
      seen.add(group.method);
    } else {
      group.colour = DATA.palette[mixed % DATA.palette.length];
      group.dash = DASHES[Math.floor(mixed / DATA.palette.length) % DASHES.length];
      mixed += 1;
    }
  });
  [...further.values()].forEach((family, start) => // each colour begins with another dash
    family.forEach((group, i) => {
      group.shade = (MAX_SHADE * (i + 1)) / family.length;
      group.dash = DASHES[(start + i + 1) % DASHES.length];
    }),
  );
}

/* Keys, except the seed, in which runs of one group differ although the group's name does not show it. */
function mixedKeys(groups) {
  return DATA.settings.filter((key) =>
    groups.some(({ runs }) => runs.some((run) => DATA.keys[key][run] !== DATA.keys[key][runs[0]])),
  );
}

/* Means are taken at equal epochs or equal steps; each time belongs to a step. */
const placeOf = (axis) => (axis === "epoch" ? "epoch" : "step");

/* Seconds, or gradient passes, at the points of a run's grid; null if the axis shows neither, or if they are not known. */
function timesOf(run, grid, axis) {
  if (axis === "time") return DATA.times[`${run} ${grid}`];
  if (axis === "passes") {
    const passes = DATA.passes[run];
    return passes === null ? null : DATA.grids[grid].epoch.map((epoch) => (epoch === null ? null : epoch * passes));
  }
  const ms = DATA.summary["cost/step_ms"]?.[run] ?? null;
  return axis === "training" && ms !== null ? DATA.grids[grid].step.map((step) => (step * ms) / 1000) : null;
}

const isTime = (axis) => axis === "time" || axis === "training" || axis === "passes";

/* At equal compute where it is known and differs; the curves of references have epochs alone. */
function firstAxis() {
  const passes = DATA.passes;
  const known = passes.length && passes.every((value) => value !== null);
  return known && new Set(passes).size > 1 && !DATA.references.length ? "passes" : "epoch";
}

/* A run's recorded values of a metric, their epochs or steps, their seconds (if the axis shows time), and which of them
 * `has` a place on the axis; null if the run has no such metric or no times. */
function pointsOf(metric, run, axis) {
  const curve = CURVES.get(metric)?.get(run);
  if (!curve) return null;
  const places = DATA.grids[curve.grid][placeOf(axis)];
  const times = timesOf(run, curve.grid, axis);
  if (isTime(axis) && !times) return null;
  const has = (value, i) => value !== null && places[i] !== null && !(times && times[i] === null);
  return { values: curve.values, places, times, has };
}

/* A run's values of a metric at its epochs or steps `x`, with the seconds if the axis shows time. */
function curveOf(metric, run, axis) {
  const points = pointsOf(metric, run, axis);
  if (!points) return null;
  const { values, places, times, has } = points;
  const found = { x: [], y: [], times: times && [] };
  values.forEach((value, i) => {
    if (!has(value, i)) return;
    found.x.push(places[i]);
    found.y.push(value);
    if (times) found.times.push(times[i]);
  });
  return found.x.length ? found : null;
}

/* Exponential moving average, corrected for the bias of its start. */
function smoothed(y, weight) {
  if (!weight) return y;
  let mean = 0;
  let total = 0;
  return y.map((value) => {
    mean = weight * mean + (1 - weight) * value;
    total = weight * total + (1 - weight);
    return mean / total;
  });
}

function interpolated({ x, y }, at) {
  if (at < x[0] || at > x[x.length - 1]) return null;
  const i = nearestIndex(x, at);
  if (x[i] === at) return y[i];
  const [a, b] = x[i] < at ? [i, i + 1] : [i - 1, i];
  return y[a] + ((y[b] - y[a]) * (at - x[a])) / (x[b] - x[a]);
}

function nearestIndex(x, at) {
  let low = 0;
  let high = x.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (x[middle] < at) low = middle;
    else high = middle;
  }
  return at - x[low] <= x[high] - at ? low : high;
}

function meanStd(values) {
  const n = values.length;
  if (!n) return { mean: null, std: null, n };
  const mean = values[0] + values.reduce((sum, v) => sum + (v - values[0]), 0) / n; // exact if all values are equal
  const std = n > 1 ? Math.sqrt(values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / (n - 1)) : null;
  return { mean, std, n };
}

const equal = (a, b) => a.length === b.length && a.every((v, i) => v === b[i]);

/* The part of the axis in which all runs have values. */
const commonSpan = (spans) => [Math.max(...spans.map(([first]) => first)), Math.min(...spans.map(([, last]) => last))];

/*
 * Mean, standard deviation (n - 1) and number of runs at each x where all runs have values; a mean over fewer runs would
 * jump where a run ends. Runs with different points are interpolated. If each run has a single point (a checkpoint), the
 * mean stands at the mean of their places. Null if the runs have no part of the axis in common.
 */
function average(curves) {
  if (curves.every((c) => c.x.length === 1)) {
    const at = [meanStd(curves.map((c) => c.x[0])).mean];
    curves = curves.map((c) => ({ ...c, x: at }));
  }
  const same = curves.every((c) => equal(c.x, curves[0].x));
  let x = curves[0].x;
  if (!same) {
    const [from, to] = commonSpan(curves.map((c) => [c.x[0], c.x[c.x.length - 1]]));
    x = [...new Set(curves.flatMap((c) => c.x))].filter((at) => from <= at && at <= to).sort((a, b) => a - b);
    const stride = Math.ceil(x.length / MAX_UNION);
    x = x.filter((_, i) => i % stride === 0 || i === x.length - 1);
  }
  if (!x.length) return null;
  const values = (key) => x.map((at, i) => curves.map((c) => (same ? c[key][i] : interpolated({ x: c.x, y: c[key] }, at))));
  const each = values("y").map(meanStd);
  const places = curves[0].times ? values("times").map((times) => meanStd(times).mean) : x;
  return { x: places, mean: each.map((e) => e.mean), std: each.map((e) => e.std), n: each.map((e) => e.n) };
}

const ratio = (above, below) => (above !== null && below > 0 ? above / below : null);

/* A group's mean curve of a metric; null without values. The mean of a ratio is the ratio of the means. */
function groupCurve(group, metric, axis, smoothing, factor) {
  if (DATA.ratios[metric]) {
    const [above, below] = DATA.ratios[metric].map((part) => groupCurve(group, part, axis, smoothing, factor));
    if (!above || !below) return null;
    const belowAt = new Map(below.x.map((x, i) => [x, below.mean[i]]));
    const mean = above.mean.map((value, i) => ratio(value, belowAt.get(above.x[i])));
    return mean.some((value) => value !== null) ? { ...above, mean, std: above.x.map(() => null) } : null;
  }
  const curves = group.runs
    .map((run) => curveOf(metric, run, axis))
    .filter((curve) => curve !== null)
    .map((curve) => ({ ...curve, y: smoothed(curve.y.map((v) => factor * v), smoothing) }));
  if (!curves.length) return null;
  return average(curves);
}

/* The epoch or step of a run's first and last value of a metric; null without values. */
function endsOf(metric, run, axis) {
  const points = pointsOf(metric, run, axis);
  if (!points) return null;
  const { values, places, has } = points;
  const first = values.findIndex(has);
  return first < 0 ? null : [places[first], places[values.findLastIndex(has)]];
}

const WORTH_SAYING = 0.02; // smaller gaps, as a share of the extent of a group's runs, are not mentioned

/*
 * The part of the axis over which a group's mean is drawn; null if it is (nearly) the whole axis. `n` runs have the
 * metric. The mean is "cut" to the part that the runs have in common, `from` and `to` (null at an end where nothing is
 * cut); or the runs lie "apart"; or each run has a single value, "alone" at different `places`.
 */
function cutOf(group, metric, axis) {
  const parts = DATA.ratios[metric] ?? [metric];
  const spans = parts.flatMap((part) => group.runs.map((run) => endsOf(part, run, axis)).filter((ends) => ends !== null));
  const n = spans.length / parts.length;
  if (spans.every(([first, last]) => first === last)) {
    const places = [...new Set(spans.map(([first]) => first))].sort((a, b) => a - b);
    return places.length > 1 ? { kind: "alone", n, places } : null;
  }
  const [from, to] = commonSpan(spans);
  if (from > to) return { kind: "apart", n };
  const [start, end] = [Math.min(...spans.map(([first]) => first)), Math.max(...spans.map(([, last]) => last))];
  const margin = WORTH_SAYING * (end - start);
  const cut = { kind: "cut", n, from: from - start > margin ? from : null, to: end - to > margin ? to : null };
  return cut.from === null && cut.to === null ? null : cut;
}

/* The group's values of a metric at the recorded points nearest to an epoch, and the epochs of these points. */
function groupValueAt(group, metric, epoch) {
  const curves = group.runs.map((run) => curveOf(metric, run, "epoch")).filter((curve) => curve !== null);
  const nearest = curves.map(({ x }) => nearestIndex(x, epoch));
  const epochs = [...new Set(curves.map(({ x }, i) => x[nearest[i]]))];
  return { ...meanStd(curves.map(({ y }, i) => y[nearest[i]])), epochs };
}

/* The label, with the epochs of the values if they are not the chosen epoch. */
function labelAt(label, epochs, epoch) {
  return epochs.every((e) => e === epoch) ? label : `${label} (at epoch ${epochs.map(format).join(", ")})`;
}

/* Mean and standard deviation of a value of the summary over runs; a ratio is one of means, without a deviation. */
function summaryOf(runs, name, factor) {
  const values = (key) => runs.map((run) => DATA.summary[key]?.[run] ?? null).filter((v) => v !== null);
  if (!DATA.ratios[name]) return meanStd(values(name).map((v) => factor * v));
  const [above, below] = DATA.ratios[name].map((part) => meanStd(values(part)));
  return { mean: ratio(above.mean, below.mean), std: null, n: above.n };
}

/* The key of a metric as training logged it; if training did not, the key of `fsamlab measure`. */
function withFallback(metric) {
  return CURVES.has(metric) || !CURVES.has(`measured/${metric}`) ? metric : `measured/${metric}`;
}

function format(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}

const MAX_DECIMALS = 6;

/* The standard deviation with two digits, and the mean with as many decimals. */
function formatSpread({ mean, std, n }) {
  const runs = `(n = ${n})`;
  const decimals = std > 0 ? Math.max(0, 1 - Math.floor(Math.log10(std))) : 0;
  if (mean === null || !std || Math.abs(mean) >= 1e5 || decimals > MAX_DECIMALS) {
    return `${format(mean)}${std === null ? "" : ` ± ${format(std)}`} ${runs}`;
  }
  return `${mean.toFixed(decimals)} ± ${std.toFixed(decimals)} ${runs}`;
}
