"use strict";
// Keeps the page current. Everything works without it: reloading the page shows the same.
(() => {
  if (!("EventSource" in window)) return;
  const SPREAD_MS = 1500; // so that all readers do not ask in the same instant
  let shown = document.getElementById("main").dataset.sequence;
  let timer = 0;

  // The parts keep their elements, so that the live region is the same one all along.
  const renew = (page, id) => {
    const old = document.getElementById(id);
    const fresh = page.getElementById(id);
    if (!old || !fresh) return;
    old.className = fresh.className;
    if (old.innerHTML === fresh.innerHTML) return;
    const open = [...old.querySelectorAll("details[open]")].map((e) => e.id);
    const at = [...old.querySelectorAll(".scroll")].map((e) => [e.id, e.scrollLeft, e.scrollTop]);
    const focus = old.contains(document.activeElement) ? document.activeElement : null;
    const href = focus && focus.getAttribute("href");
    const name = focus && focus.id;
    old.replaceChildren(...fresh.childNodes);
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    for (const [id, left, top] of at) document.getElementById(id)?.scrollTo(left, top);
    const again = name ? document.getElementById(name)
      : href && [...old.querySelectorAll("a")].find((a) => a.getAttribute("href") === href);
    if (again) again.focus({ preventScroll: true });
  };

  const load = async () => {
    timer = 0;
    try {
      const answer = await fetch(location.pathname + location.search, { cache: "no-cache" });
      if (!answer.ok) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const main = page.getElementById("main");
      if (!main) return;
      shown = main.dataset.sequence;
      document.getElementById("main").dataset.sequence = shown;
      document.title = page.title;
      for (const id of ["headline", "rest", "facts"]) renew(page, id);
    } catch { /* The next event tries again. */ }
  };

  new EventSource("/events").addEventListener("snapshot", (event) => {
    if (event.lastEventId === shown || timer) return;
    timer = setTimeout(load, Math.random() * SPREAD_MS);
  });
})();
