// Shows what the master says, every two seconds, and how old it is. What it cannot reach it does not guess.
"use strict";

const EVERY_MS = 2000;
const KEY = "reloop.token";
// The table of what waits shows so many; what needs a person is shown to its end on demand. Both are counted whole.
const WAITING_ROWS = 100;
const NEEDS_ROWS = 100;
const el = (id) => document.getElementById(id);
// What a press of a button came to, by the need that it is for; and whether all needs are wanted.
const told = new Map();
let allNeeds = false;

async function call(path, method = "GET") {
  const answer = await fetch(path, {
    method,
    headers: { Authorization: "Bearer " + sessionStorage.getItem(KEY) },
    signal: AbortSignal.timeout(10000),
  });
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    const error = new Error(body.detail || answer.statusText);
    error.status = answer.status;
    throw error;
  }
  return body;
}

// A whole list, page by page; with a limit as much of it, and whether there is more.
async function all(path, limit = Infinity) {
  const data = [];
  let cursor = null;
  do {
    const page = await call(path + (cursor ? "&cursor=" + encodeURIComponent(cursor) : ""));
    data.push(...page.data);
    cursor = page.next_cursor;
  } while (cursor && data.length < limit);
  return data;
}

function ago(time) {
  if (!time) return "never";
  const seconds = Math.max(0, Math.round((Date.now() - Date.parse(time)) / 1000));
  if (seconds < 60) return seconds + " s ago";
  if (seconds < 3600) return Math.floor(seconds / 60) + " min ago";
  if (seconds < 48 * 3600) return Math.floor(seconds / 3600) + " h ago";
  return Math.floor(seconds / 86400) + " days ago";
}

// The master has started since: it was heard then, or later.
function heard(time, atLeast) {
  return ago(time) + (atLeast ? " or later" : "");
}

function node(tag, text, classes = "") {
  const made = document.createElement(tag);
  made.textContent = text ?? "";
  made.className = classes;
  return made;
}

const GOOD = new Set(["online", "running", "ready", "succeeded"]);
const WARN = new Set(["attention", "unloading", "paused", "stopping", "uncertain", "draining", "maintenance", "offline", "held"]);
const BAD = new Set(["fault", "failed", "rejected", "lost", "expired", "quarantined", "machine_off"]);
const SIGNS = { good: "●", warn: "▲", bad: "■", soft: "○" };

function tone(word) {
  return GOOD.has(word) ? "good" : WARN.has(word) ? "warn" : BAD.has(word) ? "bad" : "soft";
}

function word(text) {
  const kind = tone(text);
  return node("td", SIGNS[kind] + " " + text.replaceAll("_", " "), "status " + kind);
}

function slaveRow(slave) {
  const row = node("tr", "", slave.link === "online" ? "" : "stale");
  const mode = slave.mode + (slave.mode_pending && slave.link !== "never" ? " (not confirmed)" : "");
  row.append(
    node("td", slave.name),
    word(slave.status),
    node("td", slave.link),
    node("td", mode),
    node("td", slave.link === "online" ? slave.activity : slave.activity + " (by its last word)"),
    node("td", String(slave.jobs.length)),
    node("td", heard(slave.last_contact_at, slave.last_contact_at_least)),
  );
  return row;
}

function jobRow(job) {
  const stale = job.flags.includes("stale");
  const row = node("tr", "", stale ? "stale" : "");
  const notes = job.flags.filter((flag) => flag !== "stale").map((flag) => flag.replaceAll("_", " "));
  if (job.waiting_for) notes.unshift("waits for " + job.waiting_for);
  if (job.gate === "held") notes.unshift("held");
  if (stale) notes.push("offline, heard " + heard(job.freshness.observed_at, job.freshness.at_least));
  const state = word(job.state);
  if (notes.length) state.append(node("span", " – " + notes.join(", "), "soft"));
  const progress = node("td", "");
  if (job.progress !== null) {
    const bar = document.createElement("progress");
    bar.max = 1;
    bar.value = job.progress;
    bar.setAttribute("aria-label", "progress of " + job.id);
    progress.append(bar, " " + (stale ? "at least " : "") + Math.floor(job.progress * 100) + " %");
  } else {
    progress.append("–");
  }
  row.append(
    node("td", job.id, "id"), node("td", job.name ?? "", "wide"), node("td", job.program), state, progress,
    node("td", job.slave ?? "–"), node("td", ago(job.created_at)),
  );
  return row;
}

// What can be done from here; anything else is a command that is shown.
const VERBS = new Set(["clear", "ready", "approve", "release"]);

function keyOf(need) {
  return need.need + " " + (need.job || need.slave_key);
}

function pathOf(need) {
  const who = need.job ? "/v1/jobs/" + need.job : "/v1/slaves/" + encodeURIComponent(need.slave_key);
  return who + "/" + need.action;
}

async function press(need, button) {
  const key = keyOf(need);
  const focused = document.activeElement === button;
  button.disabled = true;
  told.set(key, need.action + " …");
  tell(key);
  try {
    const answer = await call(pathOf(need), "POST");
    const later = answer.delivery === "pending_on_reconnect" ? "the slave is offline and hears it when it is back" : "";
    told.set(key, need.action + ": " + (later || "done"));
  } catch (error) {
    // Without a status there was no answer, and the command may have arrived all the same.
    const why = error.status ? error.message : "no answer from the master: whether it was done is not known, press again";
    told.set(key, need.action + ": " + why);
  }
  button.disabled = false;
  // A disabled button has lost the focus: whoever works with the keyboard gets it back.
  if (focused && document.activeElement === document.body) button.focus();
  tell(key);
  await refresh();
}

function itemOf(key) {
  return [...el("attention").children].find((item) => item.dataset.key === key);
}

function tell(key) {
  const item = itemOf(key);
  if (item) item.querySelector(".told").textContent = told.get(key) || "";
}

function attentionItem(need) {
  const item = node("li", "");
  const words = node("div", "");
  const who = need.job ? need.job + (need.slave ? " at " + need.slave : "") : need.slave;
  words.append(node("p", who + ": " + need.text));
  words.append(node("p", "Risk: " + need.risk + ".", "risk"));
  item.dataset.key = keyOf(need);
  item.dataset.words = JSON.stringify(need);
  if (VERBS.has(need.action)) {
    const button = node("button", need.action);
    button.type = "button";
    button.setAttribute("aria-label", need.action + " " + who);
    button.addEventListener("click", () => press(need, button));
    words.append(node("p", "", "told"));
    words.lastChild.setAttribute("role", "status");
    item.append(words, button);
  } else {
    words.append(node("code", need.command), node("p", "", "told"));
    item.append(words);
  }
  return item;
}

// An item that says the same as before stays, with its button, its focus and what a press came to.
function showNeeds(list, count) {
  const before = new Map([...el("attention").children].map((item) => [item.dataset.key, item]));
  const items = list.map((need) => {
    const known = before.get(keyOf(need));
    return known && known.dataset.words === JSON.stringify(need) ? known : attentionItem(need);
  });
  const same = items.length === before.size && items.every((item, at) => item === el("attention").children[at]);
  if (!same) {
    const focused = document.activeElement && document.activeElement.closest("#attention li");
    const key = focused && focused.dataset.key;
    el("attention").replaceChildren(...items);
    const again = key && itemOf(key);
    if (again && again.querySelector("button")) again.querySelector("button").focus();
    const keys = new Set(list.map(keyOf));
    for (const key of told.keys()) if (!keys.has(key)) told.delete(key);
    for (const key of told.keys()) tell(key);
  }
  el("attention-section").hidden = count === 0;
  el("more").hidden = list.length >= count;
  el("more-text").textContent = "The " + list.length + " most urgent of " + count + ".";
}

function banner(text) {
  el("banner").textContent = text;
  el("banner").hidden = !text;
}

function show(slaves, jobs, needs, counts) {
  el("slaves").replaceChildren(...slaves.filter((one) => one.enrolled !== "revoked").map(slaveRow));
  el("jobs").replaceChildren(...jobs.map(jobRow));
  showNeeds(needs, counts.needs);
  const shown = jobs.filter((job) => job.state === "queued").length;
  const hidden = Math.max(0, counts.jobs.queued - shown);
  el("queue").hidden = hidden === 0;
  el("queue").textContent = hidden + " more are queued: reloop job ls --state queued";
  el("counts").textContent = `${counts.needs} need a person · ${counts.jobs.running} running · ` +
    `${counts.jobs.queued} queued · ${counts.slaves.offline} offline`;
}

function ask() {
  sessionStorage.removeItem(KEY);
  el("view").hidden = true;
  el("leave").hidden = true;
  el("login").hidden = false;
  el("counts").textContent = "";
  el("token").focus();
}

async function refresh() {
  if (!sessionStorage.getItem(KEY)) return;
  try {
    const atSlaves = "assigned,accepted,starting,running,paused,stopping,uncertain";
    const [counts, needs, slaves, held, queued, newest] = await Promise.all([
      call("/v1/counts"),
      all("/v1/needs?limit=" + (allNeeds ? 500 : NEEDS_ROWS), allNeeds ? Infinity : NEEDS_ROWS),
      all("/v1/slaves?limit=500"), all("/v1/jobs?limit=500&state=" + atSlaves),
      call("/v1/jobs?limit=" + WAITING_ROWS + "&state=queued"), call("/v1/jobs?limit=50"),
    ]);
    // One that moves on meanwhile is in two of the lists.
    const ids = new Set(held.map((job) => job.id));
    const waiting = queued.data.filter((job) => !ids.has(job.id));
    const ended = newest.data.filter((job) => job.ended_at && !ids.has(job.id));
    show(slaves, [...held, ...waiting, ...ended], needs, counts);
    el("view").hidden = false;
    el("leave").hidden = false;
    document.body.classList.remove("lost");
    banner("");
  } catch (error) {
    if (error.status === 401) {
      ask();
      banner("The master does not know this token.");
      return;
    }
    document.body.classList.add("lost");
    banner("The master does not answer: what you see is old. Jobs at the machines go on. " + (error.status ? error.message : ""));
  }
}

async function loop() {
  await refresh();
  setTimeout(loop, EVERY_MS);
}

el("login").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, el("token").value.trim());
  el("token").value = "";
  el("login").hidden = true;
  banner("");
  refresh();
});
el("all").addEventListener("click", () => {
  allNeeds = true;
  refresh();
});
el("leave").addEventListener("click", () => { banner(""); ask(); });
if (!sessionStorage.getItem(KEY)) ask();
loop();
