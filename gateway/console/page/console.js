// The console: asks for the key, follows the stream, shows each frame. It changes nothing at the gateway.

import { el, fill, number, seconds, share } from "./dom.js";
import * as graphs from "./graphs.js";
import * as requests from "./requests.js";
import { follow } from "./stream.js";

const KEPT_AS = "meridian-admin-key";
const $ = (id) => document.getElementById(id);
let following = null;

function connect(key) {
  following?.abort();
  following = new AbortController();
  $("refused").textContent = "";
  follow("/admin/console/events", key, following.signal, {
    refused(why) {
      sessionStorage.removeItem(KEPT_AS);
      ask(why);
    },
    lost: () => link("lost", "connection lost, trying again"),
    history(points) {
      sessionStorage.setItem(KEPT_AS, key);
      $("ask").hidden = true;
      $("board").hidden = false;
      $("forget").hidden = false;
      graphs.restart(points);
    },
    frame: (frame) => show(frame, key),
  });
}

function ask(why) {
  following?.abort();
  $("ask").hidden = false;
  $("board").hidden = true;
  $("forget").hidden = true;
  $("refused").textContent = why;
  link("off", "not connected");
  $("key").focus();
}

function link(state, words) {
  $("link").dataset.state = state;
  $("link").textContent = words;
}

function show(frame, key) {
  const { facts, point } = frame;
  link("live", "live");
  $("where").textContent = `${facts.region} · ${facts.version}`;
  graphs.begin(Object.keys(point.stages));
  graphs.keep(point);
  graphs.draw();
  showAlarms(frame.alarms);
  showNow(frame);
  showRegions(facts, point);
  const times = [["first token", point.ttft], ["whole request", point.total], ...Object.entries(point.stages)];
  fill("stages", [...times, ["event loop late", point.loop_lag]].map(([name, ms]) => [
    name, ...[0, 1, 2].map((i) => number(ms?.[i])),
  ]));
  fill("breakers", Object.entries(facts.breakers).map(([name, state]) => [name, [state, state === "closed" ? "good" : "bad"]]));
  fill("upstreams", frame.upstreams.map((u) => [
    u.name, u.calls, [share(u.failed), u.failed ? "bad" : ""], number(u.ms?.[1]),
    Object.entries(u.why).map(([how, n]) => `${how}: ${n}`).join(", "),
  ]));
  fill("jobs", frame.jobs.map((job) => [job.job, job.index, job.region, seconds(job.left_s)]));
  const of = (used, limit) => (limit == null ? `${used}` : `${used} / ${limit}`);
  fill("tenants", frame.tenants.map((t) => [
    t.name, of(t.requests, t.requests_limit), of(t.tokens, t.tokens_limit), [t.refused, t.refused ? "bad" : ""],
    t.usd.toFixed(6), t.budget_usd == null ? "–" : `${share(t.spent)} of ${t.budget_usd} USD`,
  ]));
  requests.show(frame.requests, async (id) => {
    const response = await fetch(`/admin/receipts/${encodeURIComponent(id)}`, { headers: { Authorization: `Bearer ${key}` } });
    return response.json();
  });
}

/** Only what changed is touched: a screen reader says each alarm once. */
function showAlarms(alarms) {
  const list = $("alarms"), wanted = alarms.length ? alarms : ["none"];
  const shown = new Map([...list.children].map((item) => [item.textContent, item]));
  for (const [text, item] of shown) if (!wanted.includes(text)) item.remove();
  for (const text of wanted) {
    if (shown.has(text)) continue;
    const item = el("li", text);
    item.className = alarms.length ? "bad" : "good";
    list.append(item);
  }
}

function showNow(frame) {
  const { point, facts } = frame;
  const said = {
    "requests a second": number(point.rate), errors: share(point.error), degraded: share(point.degraded),
    "from the cache": share(point.cache), "in flight": facts.in_flight,
    waiting: Object.values(frame.waiting).reduce((sum, each) => sum + each, 0), shed: point.shed,
    "first token p95": `${number(point.ttft?.[1])} ms`,
  };
  $("now").replaceChildren(...Object.entries(said).map(([name, value]) => {
    const pair = el("div");
    pair.append(el("dt", name), el("dd", String(value)));
    return pair;
  }));
}

function showRegions(facts, point) {
  const homes = Object.entries(facts.homes ?? {});
  fill("regions", Object.entries(facts.regions ?? {}).map(([region, place]) => [
    region, [place.log, place.log === "up" ? "good" : "bad"],
    place.log_rtt_ms == null ? "–" : `${number(place.log_rtt_ms)} ms`,
    homes.filter(([, home]) => home.region === region).map(([index, home]) => `${index} (epoch ${home.epoch})`).join(", "),
  ]));
  const replicas = Object.entries(facts.replicas ?? {}).flatMap(([index, found]) =>
    Object.entries(found).map(([region, replica]) => ({ index, region, ...replica })));
  fill("replicas", replicas.map((r) => [
    r.index, r.region, [r.state, r.state === "readable" ? "good" : "bad"],
    r.answer_ms == null ? "–" : `${number(r.answer_ms)} ms`,
    seconds(r.received_lag_s), seconds(r.applied_lag_s), seconds(r.queryable_lag_s),
  ]));
  fill("parked", replicas.flatMap((r) =>
    Object.entries(r.parked).map(([stored, why]) => [r.index, r.region, stored, [why, "bad"]])));
  fill("lags", Object.entries(point.lags).map(([pair, lag]) => [
    pair, seconds(lag), graphs.spark((p) => p.lags[pair] ?? null, (most) => `${pair}: at most ${seconds(most)}`),
  ]));
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  connect($("key").value);
  $("key").value = "";
});
$("forget").addEventListener("click", () => {
  sessionStorage.removeItem(KEPT_AS);
  ask("");
});
const kept = sessionStorage.getItem(KEPT_AS);
if (kept) connect(kept);
else $("key").focus();
