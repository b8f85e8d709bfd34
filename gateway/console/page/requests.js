// The last requests: rows are kept while they are listed, so that focus and what is open stay.

import { cell, el, number } from "./dom.js";

const rows = new Map();

export function show(requests, fetchReceipt) {
  const body = document.querySelector("#requests tbody");
  const listed = new Set(requests.map((each) => each.id));
  for (const [id, row] of rows) {
    if (!listed.has(id)) {
      row.detail?.remove();
      row.line.remove();
      rows.delete(id);
    }
  }
  for (const each of [...requests].reverse()) {
    if (rows.has(each.id)) continue;
    const row = make(each, fetchReceipt);
    rows.set(each.id, row);
    body.prepend(row.line);
  }
}

function make(each, fetchReceipt) {
  const button = el("button", each.id);
  button.type = "button";
  button.setAttribute("aria-expanded", "false");
  const line = el("tr");
  const first = el("th");
  first.scope = "row";
  first.append(button);
  const row = { line, detail: null };
  line.append(
    first, cell(new Date(each.at * 1000).toLocaleTimeString()), cell(each.tenant), cell(each.call),
    cell(each.outcome, each.outcome === "ok" ? "good" : "bad"), cell(number(each.ttft_ms)), cell(number(each.ms)),
    cell(each.model), cell(each.replica), cell(each.usd == null ? "" : each.usd.toFixed(6)), cell(each.degraded),
  );
  button.addEventListener("click", async () => {
    if (row.detail) {
      row.detail.remove();
      row.detail = null;
    } else {
      row.detail = el("tr");
      const wide = el("td", "…");
      wide.colSpan = 11;
      row.detail.append(wide);
      line.after(row.detail);
      wide.replaceChildren(waterfall(await fetchReceipt(each.id)));
    }
    button.setAttribute("aria-expanded", String(row.detail !== null));
  });
  return row;
}

/** Stages as lengths, then steps where they ended, with their own time before that. */
function waterfall(receipt) {
  const box = el("div");
  box.className = "fall";
  if (!receipt.request_id) {
    box.append(el("span", receipt.error ?? "no receipt"));
    return box;
  }
  const whole = Math.max(receipt.total_ms, 0.01);
  for (const problem of [receipt.error, receipt.detail]) if (problem) box.append(said(problem, "said bad"));
  for (const [name, ms] of Object.entries(receipt.stages_ms)) box.append(...bar(name, 0, ms, whole, false));
  for (const step of receipt.steps) {
    const ms = Number(step.details.ms) || 0;
    const failed = "outcome" in step.details && step.details.outcome !== "ok";
    box.append(...bar(step.name, step.at_ms - ms, ms, whole, failed));
    const told = Object.entries(step.details).map(([name, value]) => `${name}=${JSON.stringify(value)}`).join("  ");
    if (told) box.append(said(told, "said"));
  }
  return box;
}

function bar(name, from, ms, whole, failed) {
  const track = el("span"), mark = el("span");
  track.className = "track";
  mark.className = failed ? "bar bad" : "bar";
  const left = Math.min(Math.max(from / whole, 0), 1);
  mark.style.left = `${100 * left}%`;
  mark.style.width = `${100 * Math.min(ms / whole, 1 - left)}%`;
  track.append(mark);
  return [el("span", name), el("span", `${number(ms)} ms`), track];
}

function said(text, kind) {
  const found = el("span", text);
  found.className = kind;
  return found;
}
