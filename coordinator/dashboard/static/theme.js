// Runs before the page is drawn, so that a chosen theme does not flash.
"use strict";
(() => {
  const choices = ["auto", "light", "dark"];
  let chosen = "auto";
  try { chosen = localStorage.getItem("edgetide-theme") ?? "auto"; } catch { /* storage is switched off */ }
  if (!choices.includes(chosen)) chosen = "auto";
  const apply = () => {
    document.documentElement.dataset.theme = chosen;
    const button = document.getElementById("theme");
    if (button) button.textContent = `Theme: ${chosen}`;
  };
  apply();
  document.addEventListener("DOMContentLoaded", () => {
    apply();
    document.getElementById("theme").addEventListener("click", () => {
      chosen = choices[(choices.indexOf(chosen) + 1) % choices.length];
      try { localStorage.setItem("edgetide-theme", chosen); } catch { /* not remembered, then */ }
      apply();
    });
  });
})();
