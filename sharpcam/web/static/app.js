// Starts the page: its tabs, and what stands behind them.

import { get } from "./api.js";
import { Compare } from "./compare.js";
import { $, attempt, keepsPage } from "./dom.js";
import { Live } from "./live.js";
import { Study } from "./study.js";

function tabs(shown) {
  const all = [...document.querySelectorAll("[role=tab]")];
  const choose = (tab, focus = false) => {
    for (const other of all) {
      const chosen = other === tab;
      other.setAttribute("aria-selected", chosen);
      other.tabIndex = chosen ? 0 : -1;
      $(other.getAttribute("aria-controls")).hidden = !chosen;
    }
    if (focus) tab.focus();
    history.replaceState(null, "", `#${tab.getAttribute("aria-controls")}`);
    shown(tab.getAttribute("aria-controls"));
  };
  all.forEach((tab, at) => {
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", (event) => {
      const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      choose(all[(to + all.length) % all.length], true);
    });
  });
  choose(all.find((tab) => `#${tab.getAttribute("aria-controls")}` === location.hash && !tab.hidden) ?? all.find((tab) => !tab.hidden));
}

keepsPage();
attempt(async () => {
  const about = await get("about");
  new Compare(about);
  new Study(about);
  let live = null;
  if (about.daemon) {
    live = new Live(about);
  } else {
    $("tab-live").hidden = true;
    $("state").hidden = true;
  }
  tabs((name) => live?.show(name === "live"));
  document.documentElement.dataset.ready = "true";
});
