// Results against a numeric key that varies while the other keys of a setting stay the same.

const isUnperturbed = (run) => DATA.keys["optimizer.ascent"]?.[run] === "none";

function sensitivityValues(sensitivity) {
  return [...new Set(sensitivity.values.filter((value) => value !== null))].sort((a, b) => a - b);
}

/* Whether a line and a level have the same conditions, apart from keys that the level does not have (SGD a radius). */
function sameConditions({ others }, level, line) {
  return others
    .filter((key) => key !== "optimizer.name")
    .every((key) => {
      const [here, there] = [level, line].map(({ runs }) => DATA.keys[key][runs[0]]);
      const without = key.startsWith("optimizer.") && (here === null || there === null || isUnperturbed(level.runs[0]));
      return without || here === there;
    });
}

/*
 * Groups of finished runs that agree in `others`, as lines over the values of `key`. A group without values (SGD has no
 * radius, SAM no sigma) is a level to compare with, if a line was run under the same conditions. A single point is shown
 * only if there is no line.
 */
function sensitivityLines(sensitivity, summary) {
  const { others } = sensitivity;
  const factor = percentFactor(summary);
  const values = sensitivityValues(sensitivity);
  const ends = [values[0], values[values.length - 1]];
  const found = groupsOf(others, false)
    .filter((group) => group.finished)
    .map((group) => {
      const runs = group.runs.filter((run) => DATA.summary[summary][run] !== null);
      const at = new Map(values.map((value) => [value, runs.filter((run) => sensitivity.values[run] === value)]));
      const x = values.filter((value) => at.get(value).length);
      const isLevel = !x.length && runs.length > 0;
      const each = isLevel ? ends.map(() => summaryOf(runs, summary, factor)) : x.map((value) => summaryOf(at.get(value), summary, factor));
      const curve = { x: isLevel ? ends : x, mean: each.map((e) => e.mean), std: each.map((e) => e.std), n: each.map((e) => e.n) };
      return { ...group, ...curve, isLevel };
    });
  const lines = found.filter(({ isLevel, x }) => !isLevel && x.length > 1);
  const levels = found.filter((level) => level.isLevel && lines.some((line) => sameConditions(sensitivity, level, line)));
  const drawn = lines.length ? [...lines, ...levels] : found.filter(({ isLevel, x }) => !isLevel && x.length);
  colourise(drawn);
  const common = others.filter((name) => new Set(drawn.map(({ runs }) => DATA.keys[name][runs[0]])).size === 1);
  const telling = others.filter((name) => name === "optimizer.name" || !common.includes(name));
  return { lines: drawn.map((line) => ({ ...line, label: groupLabel(telling, line.runs[0]) || "all runs" })), common };
}

/* The keys, with a value, in which all lines agree. */
function commonNote({ lines, common }) {
  const keys = common.filter((key) => key !== "optimizer.name" && DATA.keys[key][lines[0].runs[0]] !== null);
  return keys.length ? `All with ${groupLabel(keys, lines[0].runs[0])}.` : "";
}

/* The chart of one key, with a legend of its own, because its lines are not those of the curves. */
function buildSensitivityTo(root, sensitivity, names, start) {
  const { key, tied } = sensitivity;
  let found = sensitivityLines(sensitivity, start);
  const also = tied.length ? ` (${tied.join(", ")} ${tied.length > 1 ? "change" : "changes"} with it)` : "";
  const box = element("div", { class: "wide" });
  root.append(box);
  const chart = new LineChart(box, `sensitivity to ${key}${also}`);
  const ticks = sensitivityValues(sensitivity);
  const positive = ticks[0] > 0;
  const doubling = positive && ticks[ticks.length - 1] >= 8 * ticks[0];
  const item = { ticks, band: true, points: true, xLog: doubling, axisLabel: key };
  const chips = element("p", { class: "legend" });
  const note = element("p", { class: "note" });
  const draw = () => chart.draw(found.lines.slice(0, MAX_GROUPS), item);
  const name = () => {
    const all = found.lines;
    chips.replaceChildren(...all.slice(0, MAX_GROUPS).map((line) => element("span", { class: "chip" }, swatch(line), line.label)));
    const many = all.length > MAX_GROUPS ? `${all.length} lines: the first ${MAX_GROUPS} are drawn.` : "";
    note.textContent = [commonNote(found), many].filter((sentence) => sentence).join(" ");
  };
  const choose = select("y axis", names.map((n) => [n, n + (percentFactor(n) > 1 ? ", %" : "")]), start, (value) => {
    found = sensitivityLines(sensitivity, value);
    name();
    draw();
  });
  const logarithmic = check("log x", doubling, (v) => {
    item.xLog = v && positive;
    draw();
  });
  chart.figure.before(element("div", { class: "bar-heading" }, choose, logarithmic), chips, note);
  name();
  whenSeen(chart.figure, draw);
}

function buildSensitivity() {
  const root = document.getElementById("sensitivity-body");
  const names = Object.keys(DATA.summary);
  if (!names.length) return; // finished runs without a summary
  const start = DATA.results.find((name) => names.includes(name)) ?? names[0];
  DATA.sensitivities.forEach((sensitivity) => buildSensitivityTo(root, sensitivity, names, start));
}
