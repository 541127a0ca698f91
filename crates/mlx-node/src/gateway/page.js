"use strict";
// Fetches what changes, once a second, and changes what differs: so a selection, the focus and what a screen reader
// reads stay where they are.

const INTERVAL = 1000; // ms
const PATIENCE = 3000; // ms

const live = document.getElementById("live");
const notice = document.getElementById("notice");
let heard = new Date();

async function refresh() {
  try {
    const answer = await fetch("/live", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    update(live, page.getElementById("live"));
    heard = new Date();
    notice.hidden = true;
    live.classList.remove("stale");
  } catch {
    notice.textContent = `The controller does not answer. What is below is of ${heard.toISOString().slice(11, 19)}.`;
    notice.hidden = false;
    live.classList.add("stale");
  }
  setTimeout(refresh, INTERVAL);
}

function update(old, next) {
  if (old.isEqualNode(next)) return;
  if (old.nodeName !== next.nodeName || old.id !== next.id) return old.replaceWith(next);
  if (old.nodeType === Node.TEXT_NODE) return void (old.data = next.data);
  for (const name of old.getAttributeNames()) if (!next.hasAttribute(name)) old.removeAttribute(name);
  for (const name of next.getAttributeNames()) old.setAttribute(name, next.getAttribute(name));
  const [before, after] = [[...old.childNodes], [...next.childNodes]];
  after.forEach((node, place) => (place < before.length ? update(before[place], node) : old.append(node)));
  before.slice(after.length).forEach((node) => node.remove());
}

refresh();
