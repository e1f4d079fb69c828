// Shows what the master says, every two seconds, and how old it is. What it cannot reach it does not guess.
"use strict";

const EVERY_MS = 2000;
const KEY = "reloop.token";
const el = (id) => document.getElementById(id);
let refused = "";

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

async function all(path) {
  const data = [];
  let cursor = null;
  do {
    const page = await call(path + (cursor ? "&cursor=" + encodeURIComponent(cursor) : ""));
    data.push(...page.data);
    cursor = page.next_cursor;
  } while (cursor && data.length < 2000);
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
    node("td", ago(slave.last_contact_at)),
  );
  return row;
}

function jobRow(job) {
  const stale = job.flags.includes("stale");
  const row = node("tr", "", stale ? "stale" : "");
  const notes = job.flags.filter((flag) => flag !== "stale").map((flag) => flag.replaceAll("_", " "));
  if (job.waiting_for) notes.unshift("waits for " + job.waiting_for);
  if (job.gate === "held") notes.unshift("held");
  if (stale) notes.push("offline, heard " + ago(job.freshness.observed_at));
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

function needs(slaves, jobs) {
  const list = [];
  const slave = (one, text, verb) =>
    list.push({ text: one.name + ": " + text, verb, path: "/v1/slaves/" + encodeURIComponent(one.key) + "/" + verb });
  for (const one of slaves) {
    if (one.attention) slave(one, one.attention.text, "clear");
    if (one.cloned) slave(one, "another box came with its key: find it, then clear", "clear");
    if (one.unloading) slave(one, "finished, and nobody has confirmed that the machine is clear", "ready");
    if (one.enrolled === "pending") slave(one, "waits for approval, key " + one.key, "approve");
    if (one.doubts) list.push({ text: one.name + ": it has seen a later state of this master. If this copy is the right one: reloop restore confirm" });
    if (one.local_lock) list.push({ text: one.name + ": a person at the machine has locked remote starts out" });
  }
  for (const job of jobs) {
    if (job.state === "uncertain") list.push({ text: job.id + ": nobody knows how it ended. Look at the machine, then: reloop job resolve " + job.id });
    if (job.gate === "held" && ["queued", "assigned", "accepted"].includes(job.state)) {
      list.push({ text: job.id + " is held", verb: "release", path: "/v1/jobs/" + job.id + "/release" });
    }
    if (job.flags.includes("overdue")) list.push({ text: job.id + ": it runs longer than its order allows" });
  }
  return list;
}

function attentionItem(need) {
  const item = node("li", "");
  item.append(node("span", need.text));
  if (need.verb) {
    const button = node("button", need.verb);
    button.type = "button";
    button.addEventListener("click", async () => {
      button.disabled = true;
      try {
        await call(need.path, "POST");
        refused = "";
      } catch (error) {
        refused = need.verb + ": " + error.message;
      }
      refresh();
    });
    item.append(button);
  }
  return item;
}

function banner(text) {
  el("banner").textContent = text;
  el("banner").hidden = !text;
}

function show(slaves, jobs) {
  const live = jobs.filter((job) => !job.ended_at);
  const list = needs(slaves, live);
  el("slaves").replaceChildren(...slaves.filter((one) => one.enrolled !== "revoked").map(slaveRow));
  el("jobs").replaceChildren(...jobs.map(jobRow));
  // A button that has the focus stays: the list is only made anew when it says something else.
  const words = JSON.stringify(list);
  if (el("attention").dataset.words !== words) {
    el("attention").dataset.words = words;
    el("attention").replaceChildren(...list.map(attentionItem));
  }
  el("attention-section").hidden = list.length === 0;
  const count = (state) => live.filter((job) => job.state === state).length;
  const offline = slaves.filter((one) => one.link === "offline").length;
  el("counts").textContent =
    `${list.length} need a person · ${count("running")} running · ${count("queued")} queued · ${offline} offline`;
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
    const live = "queued,assigned,accepted,starting,running,paused,stopping,uncertain";
    const [slaves, unended, newest] = await Promise.all([
      all("/v1/slaves?limit=500"), all("/v1/jobs?limit=500&state=" + live), call("/v1/jobs?limit=50"),
    ]);
    const ids = new Set(unended.map((job) => job.id));
    show(slaves, [...unended, ...newest.data.filter((job) => job.ended_at && !ids.has(job.id))]);
    el("view").hidden = false;
    el("leave").hidden = false;
    document.body.classList.remove("lost");
    banner(refused);
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
el("leave").addEventListener("click", () => { banner(""); ask(); });
if (!sessionStorage.getItem(KEY)) ask();
loop();
