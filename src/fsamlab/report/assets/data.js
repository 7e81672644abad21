// The page's data: groups of runs, and their mean curves.

const DATA = JSON.parse(document.getElementById("data").textContent);
const CURVES = new Map(
  Object.entries(DATA.curves).map(([metric, curves]) => [
    metric,
    new Map(curves.map(([run, grid, values]) => [run, { grid, values }])),
  ]),
);
const MAX_GROUPS = 30; // more lines than that nobody tells apart
const MAX_UNION = 400; // points of a mean over runs whose own points differ
const MIXED = ["#d55e00", "#0072b2", "#009e73", "#b58900", "#8f5fd0", "#d6498f", "#00959f", "#5b6ee1", "#9a6a3c", "#7a7a7a"];
const DASHES = [[], [6, 3], [2, 2], [8, 3, 2, 3], [12, 3]];

const method = (run) => String(DATA.keys["optimizer.name"][run]);
const shortKey = (key) => key.replace(/\.name$/, "").replace(/^(optimizer|data|train|model)\./, "");

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

/* Runs that agree in all of `keys` and in whether they have finished; an empty list of keys is one group for each run. */
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
  const groups = [...found.values()];
  colourise(groups);
  return groups;
}

/* A group of one method has the method's colour; several such groups differ in shade and dash. */
function colourise(groups) {
  const families = new Map();
  groups.forEach((group) => {
    const methods = new Set(group.runs.map(method));
    group.method = methods.size === 1 ? [...methods][0] : null;
    const family = group.method ?? "";
    if (!families.has(family)) families.set(family, []);
    families.get(family).push(group);
  });
  families.forEach((family, name) => {
    const style = DATA.styles[name];
    family.forEach((group, i) => {
      group.colour = style ? style.colour : MIXED[i % MIXED.length];
      group.shade = style && family.length > 1 ? (0.65 * i) / (family.length - 1) : 0;
      group.dash = style && family.length === 1 ? style.dash : DASHES[i % DASHES.length];
    });
  });
}

function curveOf(metric, run, axis) {
  const curve = CURVES.get(metric)?.get(run);
  if (!curve) return null;
  const grid = axis === "time" ? DATA.times[`${run} ${curve.grid}`] : DATA.grids[curve.grid][axis];
  const x = [];
  const y = [];
  curve.values.forEach((value, i) => {
    if (value !== null && grid[i] !== null) {
      x.push(grid[i]);
      y.push(value);
    }
  });
  return x.length ? { x, y } : null;
}

/* Exponential moving average without the bias of its start. */
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
  const mean = values[0] + values.reduce((sum, v) => sum + (v - values[0]), 0) / n; // exact where all are equal
  const std = n > 1 ? Math.sqrt(values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / (n - 1)) : null;
  return { mean, std, n };
}

/* Mean, standard deviation (n - 1) and number of runs at each x. Runs with points of their own are interpolated. */
function average(curves) {
  const first = curves[0].x;
  const same = curves.every(({ x }) => x.length === first.length && x.every((v, i) => v === first[i]));
  let x = first;
  if (!same) {
    x = [...new Set(curves.flatMap((c) => c.x))].sort((a, b) => a - b);
    const stride = Math.ceil(x.length / MAX_UNION);
    x = x.filter((_, i) => i % stride === 0 || i === x.length - 1);
  }
  const columns = x.map((at, i) => curves.map((c) => (same ? c.y[i] : interpolated(c, at))).filter((v) => v !== null));
  const each = columns.map(meanStd);
  return { x, mean: each.map((e) => e.mean), std: each.map((e) => e.std), n: each.map((e) => e.n) };
}

/* A group's mean curve of a metric, null where no run of it has one. A ratio is one of means, not a mean of ratios. */
function groupCurve(group, metric, axis, smoothing, factor) {
  if (DATA.ratios[metric]) {
    const [above, below] = DATA.ratios[metric].map((part) => groupCurve(group, part, axis, smoothing, factor));
    if (!above || !below) return null;
    const mean = above.x.map((_, i) => (below.mean[i] > 0 ? above.mean[i] / below.mean[i] : null));
    return { ...above, mean, std: above.x.map(() => null) };
  }
  const curves = group.runs
    .map((run) => curveOf(metric, run, axis))
    .filter((curve) => curve !== null)
    .map(({ x, y }) => ({ x, y: smoothed(y.map((v) => factor * v), smoothing) }));
  return curves.length ? average(curves) : null;
}

/* The group's values of a metric at the recorded points nearest to an epoch. */
function groupValueAt(group, metric, epoch) {
  const values = group.runs
    .map((run) => curveOf(metric, run, "epoch"))
    .filter((curve) => curve !== null)
    .map(({ x, y }) => y[nearestIndex(x, epoch)]);
  return meanStd(values);
}

/* `perturbation/...` as logged while training, else as `fsamlab measure` found it. */
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

/* The deviation with two digits, the mean with as many decimals. */
function formatSpread({ mean, std, n }) {
  if (mean === null || std === null || std === 0 || Math.abs(mean) >= 1e5 || std < 1e-6) {
    return `${format(mean)}${std === null ? "" : ` ± ${format(std)}`} (n = ${n})`;
  }
  const decimals = Math.max(0, 1 - Math.floor(Math.log10(std)));
  return `${mean.toFixed(decimals)} ± ${std.toFixed(decimals)} (n = ${n})`;
}
