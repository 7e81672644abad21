// The reader's choices, the legend, and which charts have to be drawn again.

const state = { by: "setting", also: "", axis: firstAxis(), smoothing: 0, band: true, log: new Set(), whole: new Set(), hidden: new Set() };
let groups = [];
const drawn = []; // {node, draw, visible, stale}: charts that are drawn when they become visible
const atOnce = []; // functions that draw at every change, because the height of the page depends on them

const observer = new IntersectionObserver(
  (entries) =>
    entries.forEach((entry) => {
      const item = drawn.find(({ node }) => node === entry.target);
      item.visible = entry.isIntersecting;
      refresh(item);
    }),
  { rootMargin: "300px" },
);

function refresh(item) {
  if (!item.visible || !item.stale) return;
  item.stale = false;
  item.draw();
}

function whenSeen(node, draw) {
  drawn.push({ node, draw, visible: false, stale: true });
  observer.observe(node);
}

function always(draw) {
  atOnce.push(draw);
  if (groups.length) draw();
}

function redraw() {
  atOnce.forEach((draw) => draw());
  drawn.forEach((item) => {
    item.stale = true;
    refresh(item);
  });
}

const shownGroups = () => groups.slice(0, MAX_GROUPS).filter((g) => !state.hidden.has(g.id));

let grouping = null;

function regroup() {
  const keys = state.by === "setting" ? DATA.settings : [...new Set([state.by, state.also].filter((key) => key))];
  if (String(keys) !== grouping) state.hidden.clear();
  grouping = String(keys);
  groups = groupsOf(keys, state.by === "run");
  legend();
  redraw();
}

function legend() {
  const box = document.getElementById("legend");
  box.replaceChildren(
    ...groups.slice(0, MAX_GROUPS).map((group) => {
      const button = element(
        "button",
        {
          type: "button",
          class: "chip",
          "aria-pressed": !state.hidden.has(group.id) ? "true" : "false",
          title: `${group.runs.length} run${group.runs.length > 1 ? "s" : ""}; show or hide`,
          onclick: () => {
            if (!state.hidden.delete(group.id)) state.hidden.add(group.id);
            button.setAttribute("aria-pressed", state.hidden.has(group.id) ? "false" : "true");
            redraw();
          },
        },
        swatch(group),
        group.label,
      );
      return button;
    }),
  );
  const notes = [];
  if (groups.length > MAX_GROUPS) {
    notes.push(`${groups.length} groups: the first ${MAX_GROUPS} are drawn. Group by another key to see all runs.`);
  }
  const mixed = mixedKeys(groups);
  if (mixed.length) notes.push(`Means and bands are over runs that also differ in ${mixed.join(", ")}.`);
  document.getElementById("notes").textContent = notes.join(" ");
}

function select(label, options, value, change) {
  const node = element("select", { "aria-label": label }, ...options.map(([v, text]) => element("option", { value: v, selected: v === value }, text)));
  node.addEventListener("change", () => change(node.value));
  return element("label", {}, label, node);
}

function check(label, checked, change) {
  const node = element("input", { type: "checkbox", checked });
  node.addEventListener("change", () => change(node.checked));
  return element("label", {}, node, label);
}

function slider(label, { min, max, step, value, name = label }, show, change) {
  const output = element("output", {}, show(value));
  const node = element("input", { "aria-label": name, "aria-valuetext": show(value), type: "range", min, max, step, value });
  node.addEventListener("input", () => {
    output.textContent = show(Number(node.value));
    node.setAttribute("aria-valuetext", output.textContent);
    change(Number(node.value));
  });
  return element("label", {}, label, node, output);
}

function buildControls() {
  const keys = Object.keys(DATA.keys).map((key) => [key, key]);
  if (groupsOf(DATA.settings, false).length > MAX_GROUPS) state.by = "optimizer.name";
  const also = select("and", [["", "–"], ...keys], "", (value) => {
    state.also = value;
    regroup();
  });
  const by = select("Group by", [["setting", "setting (all that varies)"], ...keys, ["run", "single run"]], state.by, (value) => {
    state.by = value;
    also.hidden = value === "setting" || value === "run";
    regroup();
  });
  also.hidden = state.by === "setting";
  const axes = [["passes", "gradient passes"], ["epoch", "epoch"], ["step", "step"], ["time", "time"], ["training", "training time"]];
  document.getElementById("controls").append(
    by,
    also,
    select("x axis", axes, state.axis, (value) => {
      state.axis = value;
      redraw();
    }),
    slider("Smoothing", { min: 0, max: 0.95, step: 0.05, value: 0 }, (v) => v.toFixed(2), (value) => {
      state.smoothing = value;
      redraw();
    }),
    check("± std", state.band, (value) => {
      state.band = value;
      redraw();
    }),
  );
}

/* The reader chooses what the differences in the table of results are to; every text is on the page already. */
function buildReference() {
  const shown = document.getElementById("reference");
  if (!shown) return;
  const names = JSON.parse(shown.dataset.options);
  if (names.length < 2) return;
  const note = document.getElementById("reference-note");
  const notes = JSON.parse(note.dataset.options);
  const cells = [...document.querySelectorAll("td[data-options]")].map((cell) => [cell, JSON.parse(cell.dataset.options)]);
  const node = element("select", { id: "reference", "aria-label": "compare with" }, ...names.map((name, i) => element("option", { value: i }, name)));
  node.addEventListener("change", () => {
    const i = Number(node.value);
    note.textContent = notes[i];
    cells.forEach(([cell, options]) => {
      [cell.textContent, cell.dataset.value] = options[i];
    });
  });
  shown.replaceWith(node);
}

function buildTheme() {
  const button = document.getElementById("theme");
  const next = { auto: "light", light: "dark", dark: "auto" };
  let theme = "auto";
  button.addEventListener("click", () => {
    theme = next[theme];
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.textContent = `colours: ${theme}`;
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}
