"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const entries = data.entries, history_ = data.history;
const isFile = data.details !== null, storeKey = "grpo-mmpc review " + data.key;
const before = entries.map((one) => one.decided); // when the page was made
const WORDS = { accept: "accepted", edit: "edited", reject: "rejected" };
const $ = (id) => document.getElementById(id);
const counted = (n) => n.toLocaleString("en");
let shown = [], current = -1, busy = false, isStored = true, log = [], seen = null;

// ---- where items come from and decisions go
async function detail(n) {
  if (isFile) return data.details[n];
  const answer = await fetch("entry/" + n);
  if (!answer.ok) throw new Error((await answer.json()).error);
  return answer.json();
}
async function send(n, decision, title) {
  const one = entries[n];
  if (!isFile) {
    const body = JSON.stringify({ item_id: one.item_id, field: one.field, decision, title });
    const answer = await fetch("decisions", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    const content = await answer.json();
    if (!answer.ok) throw new Error(content.error);
    return content.decided;
  }
  const by = $("by").value.trim() || "unnamed";
  const value = decision === "edit" ? title : decision === "undo" ? null : data.details[n].value;
  log.push({ item_id: one.item_id, field: one.field, decision, value, when: new Date().toISOString(), by });
  store();
  return replay(n);
}
function replay(n) {
  const taken = [];
  for (const line of log)
    if (line.item_id === entries[n].item_id && line.field === entries[n].field)
      line.decision === "undo" ? taken.pop() : taken.push(line);
  return taken.length ? taken[taken.length - 1] : before[n];
}
function store() {
  try { localStorage.setItem(storeKey, JSON.stringify({ log, by: $("by").value })); isStored = true; }
  catch { isStored = false; }
}
function restore() {
  try { const kept = JSON.parse(localStorage.getItem(storeKey)); if (kept) { log = kept.log; $("by").value = kept.by; } }
  catch { isStored = false; }
  const numbers = new Map(entries.map((one, n) => [one.field + " " + one.item_id, n]));
  for (const line of log) {
    const n = numbers.get(line.field + " " + line.item_id);
    if (line.decision !== "undo") history_.push(n); else history_.splice(history_.lastIndexOf(n), 1);
  }
  for (const n of new Set(history_)) entries[n].decided = replay(n);
}
function download() {
  const lines = log.map((line) => JSON.stringify(line) + "\n").join("");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines], { type: "application/jsonl" }));
  link.download = "decisions.jsonl";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// ---- filters and places
function passes(one) {
  const kind = $("by-decided").value, from = $("from").value, to = $("to").value;
  return (!kind || (one.decided ? one.decided.decision : "none") === kind)
    && ["status", "category", "field"].every((key) => !$("by-" + key).value || one[key] === $("by-" + key).value)
    && (from === "" && to === "" || one.confidence !== null && one.confidence >= Number(from) && one.confidence <= (to === "" ? 1 : Number(to)));
}
function filter() {
  shown = entries.map((one, n) => n).filter((n) => passes(entries[n]));
  if (!shown.includes(current)) current = after(current, (n) => true) ?? -1;
  show();
}
// The next of the shown ones that a test lets through, from the beginning again after the last.
function after(n, test) {
  const allowed = shown.filter(test);
  return allowed.find((one) => one > n) ?? allowed[0];
}
function move(step) {
  const at = shown.indexOf(current);
  if (at < 0 || busy) return;
  current = shown[Math.min(shown.length - 1, Math.max(0, at + step))];
  show();
}
function options() {
  for (const key of ["status", "category", "field"])
    for (const value of [...new Set(entries.map((one) => one[key]))].sort())
      $("by-" + key).append(new Option(value.replaceAll("_", " "), value));
}

// ---- decisions
async function decide(decision, title) {
  if (busy || current < 0) return;
  const n = current;
  busy = true;
  try {
    entries[n].decided = await send(n, decision, title);
    history_.push(n);
    leaveEditor();
    say(WORDS[decision] + " " + entries[n].item_id + (isStored ? "" : "; this browser keeps nothing: download before you close it"), !isStored);
    shown = entries.map((one, i) => i).filter((i) => passes(entries[i]));
    current = after(n, (i) => !entries[i].decided) ?? after(n, () => true) ?? -1;
  } catch (error) { fail(error); } finally { busy = false; }
  show();
}
async function undo() {
  if (busy) return;
  if (!history_.length) return say("nothing to undo");
  const n = history_[history_.length - 1];
  busy = true;
  try {
    entries[n].decided = await send(n, "undo", null);
    history_.pop();
    say("undone: " + entries[n].item_id);
    current = n;
    shown = entries.map((one, i) => i).filter((i) => i === n || passes(entries[i]));
  } catch (error) { fail(error); } finally { busy = false; }
  show();
}
function edit() {
  if (current < 0 || $("edit").disabled) return;
  const one = entries[current].decided;
  $("editor").value = (one && one.decision === "edit" ? one.value : seen.value) || "";
  $("editor").hidden = false;
  $("editor").focus();
}
function leaveEditor() { $("editor").hidden = true; $("editor").blur(); }
function save() {
  const title = $("editor").value.trim().replace(/\s+/g, " ");
  title ? decide("edit", title) : say("an empty title is none: press Escape and reject it instead", true);
}

// ---- the page
function say(text, isTrouble = false) { $("said").textContent = text; $("said").classList.toggle("trouble", isTrouble); }
function fail(error) {
  say(error instanceof TypeError ? "Not saved: the command no longer runs. Start it again and open its new address." : "Not saved: " + error.message, true);
}
function fill(list, pairs) {
  list.replaceChildren(...pairs.flatMap(([name, value]) => {
    const dt = document.createElement("dt"), dd = document.createElement("dd");
    dt.textContent = name;
    dd.append(value);
    return [dt, dd];
  }));
}
// Words that the known facts have too are marked.
function marked([piece, isConfirmed]) {
  if (!isConfirmed) return piece;
  const mark = document.createElement("mark");
  mark.textContent = piece;
  return mark;
}
async function show() {
  const n = current, done = entries.filter((one) => one.decided).length;
  $("progress").value = done / entries.length;
  $("tally").textContent = `${counted(done)} of ${counted(entries.length)} decided`;
  $("undo").disabled = !history_.length;
  $("item").hidden = n < 0;
  if (n < 0) return say("Nothing matches these filters.");
  let one;
  try { one = await detail(n); } catch (error) { return fail(error); }
  if (n !== current) return;
  seen = one;
  leaveEditor();
  const entry = entries[n], isImage = entry.field === "image", decided = entry.decided;
  const image = document.createElement(one.image ? "img" : "span");
  if (one.image) { image.src = one.image; image.alt = (isImage ? "proposed image of " : "image of ") + entry.item_id; }
  else { image.className = "no-image"; image.textContent = "no image"; }
  $("photo").replaceChildren(image);
  $("place").textContent = `${counted(shown.indexOf(n) + 1)} of ${counted(shown.length)}`;
  $("category").textContent = entry.category.replaceAll("_", " ");
  $("id").textContent = entry.item_id;
  $("status").textContent = `${entry.field}: ${entry.status}` + (entry.confidence === null ? "" : `, confidence ${entry.confidence.toFixed(2)}`);
  $("decided").textContent = decided ? WORDS[decided.decision] + (decided.by ? " by " + decided.by : "") : "";
  $("decided").className = "badge " + (decided ? decided.decision : "");
  $("decided").hidden = !decided;
  $("value").className = one.value === null ? "none" : "";
  $("value").replaceChildren(...(one.value === null ? ["nothing was proposed"] : one.pieces.map(marked)));
  $("edited").textContent = decided && decided.decision === "edit" ? "edited: " + decided.value : isImage ? "the image was made from this title" : one.title || "";
  $("accept").disabled = $("reject").disabled = one.value === null;
  $("edit").disabled = entry.field !== "title";
  const why = [];
  if (one.reasons.length) why.push([entry.status === "failed" ? "Failed" : "Reasons", one.reasons.join("\n")]);
  if (one.source !== "model") why.push(["Taken from", one.source + (one.source_item ? " " + one.source_item : "")]);
  const signals = Object.entries(one.signals).filter(([, value]) => typeof value === "number");
  if (signals.length) why.push(["Signals", signals.map(([name, value]) => `${name.replace(/[_.]/g, " ")} ${Number(value.toFixed(3))}`).join(", ")]);
  if (one.nearest) why.push(["Nearest title", `${one.nearest.title} (${one.nearest.item_id}, ${Math.round(100 * one.nearest.share)} % of words shared)`]);
  fill($("why"), why);
  fill($("facts"), one.facts);
}

const ACTIONS = {
  a: () => $("accept").disabled || decide("accept", null), r: () => $("reject").disabled || decide("reject", null),
  e: edit, u: undo, ArrowRight: () => move(1), j: () => move(1), ArrowLeft: () => move(-1), k: () => move(-1),
};
for (const [id, key] of [["accept", "a"], ["edit", "e"], ["reject", "r"], ["undo", "u"], ["previous", "k"], ["next", "j"]])
  $(id).addEventListener("click", () => ACTIONS[key]());
document.addEventListener("keydown", (event) => {
  if (event.target === $("editor")) {
    if (event.key === "Escape") { event.preventDefault(); leaveEditor(); }
    if (event.key === "Enter" && !event.isComposing) { event.preventDefault(); save(); }
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat && !event.key.startsWith("Arrow")) return;
  if (["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName) || !ACTIONS[event.key]) return;
  event.preventDefault();
  ACTIONS[event.key]();
});
for (const id of ["by-decided", "by-status", "by-category", "by-field", "from", "to"]) $(id).addEventListener("change", filter);
if (isFile) {
  $("name-of").hidden = $("download").hidden = false;
  $("download").addEventListener("click", download);
  $("by").addEventListener("change", store);
  window.addEventListener("beforeunload", (event) => { if (!isStored && log.length) event.preventDefault(); });
  restore();
}
if (matchMedia("(max-width: 48rem)").matches) $("filters").open = false;
options();
shown = entries.map((one, n) => n);
current = after(history_.length ? history_[history_.length - 1] : -1, (n) => !entries[n].decided) ?? 0;
filter();
