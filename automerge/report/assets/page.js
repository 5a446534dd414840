// What every page does: tables sort, commands copy, wide tables scroll by keyboard, print is whole.

// Numbers in text: −1.5, 12,000, 61.3 %.
function sortable(cell) {
  if (cell.dataset.sort !== undefined) return cell.dataset.sort === "" ? null : Number(cell.dataset.sort);
  const text = cell.textContent.trim();
  const number = Number(text.replace("−", "-").replaceAll(",", "").replace(/ %$/, ""));
  return text !== "" && Number.isFinite(number) ? number : text;
}

function compareCells(a, b) {
  if (a === null || b === null) return (a === null) - (b === null);
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), undefined, { numeric: true });
}

function sortBy(table, column, descending) {
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [sortable(row.cells[column]), row]);
  rows.sort(([a], [b]) => (a === null || b === null || !descending ? compareCells(a, b) : compareCells(b, a)));
  body.append(...rows.map(([, row]) => row));
  [...table.tHead.rows[0].cells].forEach((head, n) => {
    if (n === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  });
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = html("button", "sort");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => {
      const numeric = [...table.tBodies[0].rows].some((row) => typeof sortable(row.cells[column]) === "number");
      const now = head.getAttribute("aria-sort");
      sortBy(table, column, now === null ? numeric : now === "ascending");
    });
    head.append(button);
  });
}

function copyable(shown) {
  const button = html("button", "copy", "Copy");
  button.type = "button";
  button.addEventListener("click", async () => {
    let done = true;
    try {
      await navigator.clipboard.writeText(shown.textContent);
    } catch {
      const range = document.createRange();
      range.selectNodeContents(shown);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      done = document.execCommand("copy");
    }
    button.textContent = done ? "Copied" : "Selected";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  shown.before(button);
}

for (const shown of document.querySelectorAll("pre.command")) {
  const place = html("div", "copyable");
  shown.before(place);
  place.append(shown);
  copyable(shown);
}

const widths = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const wide = target.scrollWidth > target.clientWidth;
    if (wide) {
      target.tabIndex = 0;
      target.setAttribute("role", "region");
      target.setAttribute("aria-label", target.querySelector("caption")?.textContent ?? "table");
    } else for (const name of ["tabindex", "role", "aria-label"]) target.removeAttribute(name);
  }
});
for (const place of document.querySelectorAll(".scroll")) widths.observe(place);

for (const heat of document.querySelectorAll(".heat")) {
  const cells = [...heat.querySelectorAll("[data-tip]")];
  for (const cell of cells) {
    const [title, ...rest] = cell.dataset.tip.split("\n");
    tip(cell, title, () => rest.map((line) => [line]));
  }
  roving(heat, cells);
}

for (const row of document.querySelectorAll("tr[data-member]")) {
  row.addEventListener("pointerenter", () => emphasise(row.dataset.member));
  row.addEventListener("pointerleave", () => emphasise(null));
}

let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  for (const node of folded) node.open = true;
});
addEventListener("afterprint", () => { for (const node of folded) node.open = false; });

// Links open what they lead to.
addEventListener("hashchange", () => {
  const target = document.getElementById(location.hash.slice(1));
  if (target instanceof HTMLDetailsElement) target.open = true;
});

// The page is shown as it is with scripts; charts are drawn as soon as they have a width.
for (const node of document.querySelectorAll("[data-scripted]")) node.hidden = false;
if (wishList) showPicked();
