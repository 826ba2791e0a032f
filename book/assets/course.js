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

// An address that names a folded box opens it.
function openTarget() {
  const place = document.getElementById(location.hash.slice(1));
  if (place?.matches("details")) place.open = true;
}
openTarget();
addEventListener("hashchange", openTarget);

// The button "Run locally" copies the commands; without scripts it leads to them.
for (const button of document.querySelectorAll(".btn-run-locally")) {
  const place = document.getElementById("run-locally");
  const says = document.createElement("p");
  says.className = "course-says";
  says.setAttribute("role", "status");
  document.body.append(says);
  button.removeAttribute("target");
  button.setAttribute("role", "button");
  const copy = async (event) => {
    event.preventDefault();
    try {
      await navigator.clipboard.writeText(place.querySelector("pre").textContent.trim());
      says.textContent = "Copied. Paste the commands into a terminal.";
    } catch {
      place.open = true;
      place.scrollIntoView();
      says.textContent = "This browser does not copy. Here are the commands.";
    }
    setTimeout(() => { says.textContent = ""; }, 4000);
  };
  button.addEventListener("click", copy);
  button.addEventListener("keydown", (event) => { if (event.key === " ") copy(event); });
}
