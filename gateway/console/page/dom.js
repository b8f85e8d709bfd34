// Elements with text. Data is only ever text: nothing here makes markup of it.

export function el(tag, text = "") {
  const made = document.createElement(tag);
  if (text !== "") made.textContent = text;
  return made;
}

export function cell(what, kind = "") {
  const made = el("td");
  if (what instanceof Node) made.append(what);
  else made.textContent = what ?? "";
  if (kind) made.className = kind;
  return made;
}

/** Fill a table's body; a cell is text, a node, or [text, class]. */
export function fill(id, lines) {
  const rows = lines.map((cells) => {
    const row = el("tr");
    row.append(...cells.map((each) => (Array.isArray(each) ? cell(...each) : cell(each))));
    return row;
  });
  const none = el("tr");
  none.append(cell("none"));
  document.querySelector(`#${id} tbody`).replaceChildren(...(rows.length ? rows : [none]));
}

export const number = (value) => (value == null ? "–" : value >= 100 ? value.toFixed(0) : value.toFixed(1));
export const seconds = (value) => (value == null ? "–" : `${value.toFixed(value < 10 ? 2 : 0)} s`);
export const share = (value) => (value == null ? "–" : `${(100 * value).toFixed(1)} %`);
