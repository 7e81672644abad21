// Tables whose cells show a number and a bar of that length.

/* rows: {label, style, cells: [{mean, std, n}]}. All cells share the scale of `scaleOf`, which contains zero. */
function barTable(caption, first, columns, rows, scaleOf = rows) {
  const ends = scaleOf.flatMap(({ cells }) =>
    cells.filter((c) => c.mean !== null).flatMap((c) => [c.mean - (c.std ?? 0), c.mean + (c.std ?? 0)]),
  );
  const low = Math.min(0, ...ends);
  const span = Math.max(0, ...ends) - low || 1;
  const percent = (value) => `${(100 * value) / span}%`;
  const bar = (cell, style, pale) => {
    if (cell.mean === null) return element("td", {}, "–");
    const fill = element("span", { class: `bar${pale ? " pale" : ""}` });
    fill.style.left = percent(Math.min(0, cell.mean) - low);
    fill.style.width = percent(Math.abs(cell.mean));
    fill.style.setProperty("--bar", style.colour);
    const track = element("span", { class: "track", "aria-hidden": "true" }, fill);
    if (cell.std !== null) {
      const spread = element("span", { class: "spread" });
      spread.style.left = percent(cell.mean - cell.std - low);
      spread.style.width = percent(2 * cell.std);
      track.append(spread);
    }
    const zero = element("span", { class: "zero" });
    zero.style.left = percent(-low);
    track.append(zero);
    const [value, runs] = formatSpread(cell).split(/ (?=\(n)/);
    const number = element("span", { class: "number" }, `${value} `, element("span", { class: "whole" }, runs));
    return element("td", {}, track, number);
  };
  const head = [first, ...columns].map((column) => element("th", { scope: "col" }, column));
  const body = rows.map(({ label, style, cells }) =>
    element("tr", {}, element("th", { scope: "row" }, label), ...cells.map((cell, i) => bar(cell, style, i > 0))),
  );
  return element(
    "table",
    { class: `bars${columns.length > 1 ? "" : " narrow"}` },
    ...(caption ? [element("caption", {}, caption)] : []),
    element("thead", {}, element("tr", {}, ...head)),
    element("tbody", {}, ...body),
  );
}

/* The buttons in the head of a "sortable" table sort its rows by the data-value of the cells. */
function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      heads.forEach((h) => h.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => row.cells[column].dataset.value;
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "" || y === "") return (x === "") - (y === ""); // missing values stay at the bottom
        const order = Number.isNaN(Number(x) + Number(y)) ? x.localeCompare(y) : x - y;
        return down ? -order : order;
      });
      table.tBodies[0].append(...rows);
    });
  });
}
