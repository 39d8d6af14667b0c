// Tables that sort by their headings, and show the rows that are looked for.

/** What a cell is sorted by: its number where it has one, else its text; without either it comes last. */
function sortKey(row, column) {
  const cell = row.cells[column];
  if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
  const text = cell.textContent.trim();
  const number = Number(text.replaceAll(",", ""));
  return text === "–" || text === "" ? null : Number.isNaN(number) ? text : number;
}

function inOrder(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true });
}

/** @param {HTMLTableElement} table @param {number} column @param {boolean} down */
function sortTable(table, column, down) {
  const body = table.tBodies[0];
  const keyed = [...body.rows].map((row, place) => ({ row, place, key: sortKey(row, column) }));
  keyed.sort((a, b) => {
    if (a.key === null || b.key === null) return (a.key === null) - (b.key === null) || a.place - b.place;
    return (down ? -1 : 1) * inOrder(a.key, b.key) || a.place - b.place;
  });
  body.append(...keyed.map((each) => each.row));
  [...table.tHead.rows[0].cells].forEach((heading, each) => {
    heading.setAttribute("aria-sort", each !== column ? "none" : down ? "descending" : "ascending");
  });
}

/** @param {HTMLTableElement} table gets a button in each heading */
function makeSortable(table) {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const name = heading.textContent;
    const button = make("button", { type: "button", class: "sort" }, name);
    heading.replaceChildren(button);
    heading.setAttribute("aria-sort", "none");
    const numeric = !heading.classList.contains("text");
    button.addEventListener("click", () => {
      const sorted = heading.getAttribute("aria-sort");
      sortTable(table, column, sorted === "none" ? numeric : sorted === "ascending");
    });
  });
}

/** Shows the rows that hold all words, in the chosen loop. @returns {number} how many */
function findRows(table, words, group) {
  const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
  let found = 0;
  for (const row of table.tBodies[0].rows) {
    const text = row.textContent.toLowerCase();
    const fits = wanted.every((word) => text.includes(word)) && (!group || row.dataset.group === group);
    row.hidden = !fits;
    found += fits;
  }
  return found;
}

function startTables() {
  for (const table of all("[data-sortable] > table")) makeSortable(table);
  for (const input of all("[data-finds]")) {
    input.addEventListener("input", () => findRows(byId(input.dataset.finds), input.value, ""));
  }
  if (byId("table-sites")) startSites(byId("table-sites"));
}

/** The table of sites: each is chosen by its name, and found by words and loop. */
function startSites(table) {
  const words = byId("find-site");
  const loops = byId("find-loop");
  const loopNames = new Set(page.sites.map((site) => site.loop));
  for (const name of loopNames) loops.append(make("option", { value: name }, name));
  const find = () => {
    const found = findRows(table, words.value, loops.value);
    byId("sites-found").textContent = words.value || loops.value ? `${found} of ${page.sites.length} shown` : "";
  };
  words.addEventListener("input", find);
  loops.addEventListener("change", find);
  for (const row of table.tBodies[0].rows) {
    const name = row.cells[0].querySelector("span");
    const button = make("button", { type: "button", class: "pick", "aria-pressed": "false" }, ...name.childNodes);
    button.addEventListener("click", () => choose(Number(row.dataset.site), "table"));
    name.replaceWith(button);
  }
  onChoice((site, from) => {
    const row = table.querySelector(`tr[data-site="${site}"]`);
    if (from === "picture" || from === "heat") row?.scrollIntoView({ block: "nearest", behavior: "instant" });
  });
}
