"use strict";
// Tables marked "sortable" can be sorted by a click on a heading, and those with data-filter be searched.
// Without this script they are plain tables in the order of the page.

function valueOf(row, column) {
  const cell = row.cells[column];
  const raw = cell.dataset.v;
  if (raw === undefined) return cell.textContent.trim().toLowerCase();
  return raw === "" ? null : Number(raw);
}

function compare(one, other) {
  // what has no value comes last, whichever way the rest is sorted
  if (typeof one === "number" && typeof other === "number") return one - other;
  return String(one).localeCompare(String(other), "en", { numeric: true });
}

function sortBy(table, heading, column) {
  const now = heading.getAttribute("aria-sort");
  const ascending = now ? now === "descending" : heading.dataset.first === "up";
  const sign = ascending ? 1 : -1;
  const body = table.tBodies[0];
  const rows = Array.from(body.rows, (row) => [valueOf(row, column), row]);
  rows.sort(([one], [other]) => {
    if (one === null || other === null) return (one === null) - (other === null);
    return sign * compare(one, other);
  });
  body.append(...rows.map(([, row]) => row));
  for (const each of heading.parentElement.cells) each.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
}

function makeSortable(table) {
  Array.from(table.tHead.rows[0].cells).forEach((heading, column) => {
    if (!heading.textContent.trim()) return;
    const first = table.tBodies[0].rows[0];
    if (first && first.cells[column].dataset.v === undefined) heading.dataset.first = "up";
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => sortBy(table, heading, column));
  });
}

function labelled(text, control) {
  const label = document.createElement("label");
  label.append(text + " ", control);
  return label;
}

function chooser(table, heading, column) {
  const select = document.createElement("select");
  const values = new Set(Array.from(table.tBodies[0].rows, (row) => row.cells[column].textContent.trim()));
  for (const value of ["all", ...values]) select.append(new Option(value, value === "all" ? "" : value));
  select.dataset.column = column;
  return labelled(heading.textContent.trim(), select);
}

function makeFilterable(table) {
  const tools = document.createElement("div");
  tools.className = "tools";
  const search = document.createElement("input");
  search.type = "search";
  const count = document.createElement("output");
  count.setAttribute("aria-live", "polite");
  const headings = Array.from(table.tHead.rows[0].cells);
  const choosers = headings.flatMap((heading, column) =>
    heading.dataset.choose === undefined ? [] : [chooser(table, heading, column)]
  );
  tools.append(labelled("Search", search), ...choosers, count);
  const rows = Array.from(table.tBodies[0].rows, (row) => [row, row.textContent.toLowerCase()]);
  const choices = tools.getElementsByTagName("select");
  function filter() {
    const wanted = search.value.trim().toLowerCase();
    let shown = 0;
    for (const [row, text] of rows) {
      const chosen = Array.from(choices).every(
        (of) => !of.value || row.cells[of.dataset.column].textContent.trim() === of.value
      );
      row.hidden = !(chosen && text.includes(wanted));
      shown += row.hidden ? 0 : 1;
    }
    count.textContent = `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows`;
  }
  tools.addEventListener("input", filter);
  filter();
  const scroll = table.closest(".scroll") || table;
  scroll.before(tools);
}

for (const table of document.querySelectorAll("table.sortable")) {
  if (table.dataset.filter !== undefined) makeFilterable(table);
  makeSortable(table);
}
