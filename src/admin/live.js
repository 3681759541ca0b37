// Keeps the overview's numbers those of now. Without it the page is whole, and can be loaded anew by a link.
"use strict";

const PAUSE_MS = 2000;
const live = document.getElementById("live");
const control = document.getElementById("live-control");
const button = document.createElement("button");
const state = document.createElement("span");
let isOn = !document.querySelector("meta[http-equiv=refresh]");

function show(text) {
  button.textContent = isOn ? "Pause" : "Keep these numbers live";
  state.textContent = text;
}

async function refresh() {
  // Who reads in it with the keyboard is not to lose their place.
  if (!isOn || document.hidden || live.contains(document.activeElement)) return;
  try {
    const answer = await fetch("live", { redirect: "error" });
    if (!answer.ok) throw new Error(answer.statusText || String(answer.status));
    const part = new DOMParser().parseFromString(await answer.text(), "text/html");
    const open = [...live.querySelectorAll("details[open]")].map((details) => details.id);
    live.replaceChildren(...part.body.childNodes);
    open.map((id) => document.getElementById(id)).forEach((details) => details && (details.open = true));
    show(" Live, every 2 seconds");
  } catch (error) {
    show(` Not live: ${error.message}`);
  }
}

button.type = "button";
button.addEventListener("click", () => {
  isOn = !isOn;
  show(isOn ? " Live, every 2 seconds" : " Paused");
});
if (isOn) {
  control.replaceChildren(button, state);
  show(" Live, every 2 seconds");
  setInterval(refresh, PAUSE_MS);
}
