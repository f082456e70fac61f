// Every table can be sorted by its columns and downloaded; without scripts it is a plain table.
"use strict";
const plain = (cell) => cell.innerText.replace(/\u2212/g, "-").replace(/\s+/g, " ").trim();
const value = (cell) => {
  const text = plain(cell).replace(/^(<=|<|≤|▶ )/, "").replace(/,(?=\d{3})/g, "");
  // a place such as 1:1765561, by its chromosome and then its position
  const place = text.match(/^(?:chr)?(\d+):(\d+)$/);
  const number = place ? 1e10 * place[1] + Number(place[2]) : parseFloat(text);
  return Number.isNaN(number) ? text : number;
};
const order = (a, b) => {
  if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0;
  return typeof a === "number" ? -1 : 1;
};

function sortBy(table, head, column) {
  const descending = head.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const rows = [...table.tBodies[0].rows].filter((row) => row.cells[column]);
  rows.sort((r, s) => order(value(r.cells[column]), value(s.cells[column])));
  if (descending) rows.reverse();
  table.tBodies[0].append(...rows);
}

function download(table) {
  const lines = [...table.rows].map((row) => [...row.cells].map(plain).join("\t"));
  const blob = new Blob([lines.join("\n") + "\n"], { type: "text/tab-separated-values" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = table.dataset.name + ".tsv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

for (const table of document.querySelectorAll("table")) {
  if (table.tBodies[0].rows.length > 1) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.title = "Sort by this column";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sortBy(table, head, column));
      head.append(button);
    });
  }
  const tools = document.createElement("p");
  tools.className = "tools";
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Download as TSV";
  button.setAttribute("aria-label", "Download as TSV: " + plain(table.caption));
  button.addEventListener("click", () => download(table));
  tools.append(button);
  table.closest(".scroll").after(tools);
}
