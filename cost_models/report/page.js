"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const touch = matchMedia("(pointer: coarse)").matches;
  const drawn = [];

  for (const { name, data, layout } of figures) {
    const place = document.getElementById(`figure-${name}`);
    if (touch) layout.dragmode = false;
    Plotly.newPlot(place, data, layout, { displayModeBar: false, responsive: true });
    drawn.push(place);
  }

  // Paper is narrower than most windows, and a drawn figure does not reflow by itself.
  const paper = 680;
  addEventListener("beforeprint", () => drawn.forEach((f) => Plotly.relayout(f, { width: paper })));
  addEventListener("afterprint", () => drawn.forEach((f) => Plotly.relayout(f, { width: null, autosize: true })));

  const order = (cell) => ("order" in cell.dataset ? Number(cell.dataset.order) : cell.textContent.toLowerCase());
  const sort = (head) => {
    const heads = [...head.parentNode.children];
    const column = heads.indexOf(head);
    const numeric = head.classList.contains("n");
    const before = head.getAttribute("aria-sort");
    const up = before ? before === "descending" : !numeric;
    heads.forEach((h) => h.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = head.closest("table").tBodies[0];
    const rows = [...body.rows].map((row) => [order(row.cells[column]), row]);
    rows.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0) * (up ? 1 : -1));
    body.append(...rows.map(([, row]) => row));
  };
  document.querySelectorAll("thead button").forEach((b) => b.addEventListener("click", () => sort(b.closest("th"))));
})();
