"use strict";
const live = document.getElementById("live"), said = document.getElementById("said"), EVERY_MS = 2000;
let shown = "";

async function refresh() {
  if (!document.hidden) {
    try {
      const answer = await fetch("live");
      const content = await answer.text();
      if (!answer.ok) throw new Error(content);
      if (content !== shown) replace(content);
      said.textContent = "";
    } catch {
      said.textContent = said.textContent || "No answer since " + new Date().toLocaleTimeString() + ": the command that served this page has ended, or this machine has lost it. What is below is older.";
    }
  }
  setTimeout(refresh, EVERY_MS);
}
function replace(content) {
  const open = [...live.querySelectorAll("details[open]")].map((one) => one.id);
  live.innerHTML = shown = content;
  for (const one of live.querySelectorAll("details")) if (open.includes(one.id)) one.open = true;
  document.title = live.firstElementChild.dataset.title;
}
setTimeout(refresh, EVERY_MS);
