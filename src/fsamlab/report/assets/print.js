// Printing: before the page is printed, every chart is drawn in light colours and in the width of the paper, and tables
// that are wider than the paper are made smaller. Afterwards the page is restored.

const PAPER = 700; // CSS pixels between the margins of upright A4 paper

let themeOnScreen; // kept while printing

function drawAll() {
  redraw();
  drawn.forEach((item) => {
    if (!item.stale || !item.node.clientWidth) return; // a chart inside a closed list is not printed
    item.stale = false;
    item.draw();
  });
}

function fitTables() {
  document.querySelectorAll(".scroll > table").forEach((table) => {
    table.style.zoom = "";
    const wide = table.offsetWidth / table.parentElement.clientWidth;
    if (wide > 1) table.style.zoom = 1 / wide;
  });
}

addEventListener("beforeprint", () => {
  themeOnScreen = document.documentElement.dataset.theme ?? "";
  document.documentElement.dataset.theme = "light";
  document.body.style.width = `${PAPER}px`;
  document.body.classList.add("printing");
  drawAll();
  fitTables();
});

addEventListener("afterprint", () => {
  document.body.classList.remove("printing");
  document.body.style.width = "";
  document.querySelectorAll(".scroll > table").forEach((table) => (table.style.zoom = ""));
  if (themeOnScreen) document.documentElement.dataset.theme = themeOnScreen;
  else delete document.documentElement.dataset.theme;
  redraw();
});
