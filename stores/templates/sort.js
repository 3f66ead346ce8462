"use strict";
// A table's heads become buttons: once sorts upwards, again downwards, a third time brings the page's own order back.
// What is unknown stays at the end. Without scripts the table stands as it is.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
  const value = (row, column) => {
    const cell = row.cells[column], exact = cell.dataset.value;
    if (exact !== undefined) return exact === "" ? null : Number(exact);
    const text = cell.textContent.trim();
    return text === "–" ? null : text;
  };
  const compare = (a, b) => typeof a === "number" && typeof b === "number"
    ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
  const next = { none: "ascending", ascending: "descending", descending: "none" };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.title = "Sort";
    head.replaceChildren(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const order = next[head.getAttribute("aria-sort")];
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", order);
      const sign = order === "descending" ? -1 : 1;
      const sorted = order === "none" ? rows : [...rows].sort((one, two) => {
        const a = value(one, column), b = value(two, column);
        return a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b);
      });
      body.replaceChildren(...sorted);
    });
  });
}
