// Search shows an excerpt of every page it found by fetching the page. A browser refuses that on file://, with an
// error for each result; there the titles have to do.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

// The name of a hidden cell's control should be what it shows, "Show code cell source", not "Toggle hidden content".
for (const summary of document.querySelectorAll("summary[aria-label]")) summary.removeAttribute("aria-label");

// A formula that scrolls has to be reached by the keyboard; whether it does, depends on the window and the fonts.
function markScrolling() {
  for (const formula of document.querySelectorAll("mjx-container")) {
    if (formula.scrollWidth > formula.clientWidth) formula.tabIndex = 0;
    else formula.removeAttribute("tabindex");
  }
}
addEventListener("load", async () => {
  await window.MathJax?.startup?.promise;
  await document.fonts.ready;
  markScrolling();
  addEventListener("resize", markScrolling);
});
