// What a student has done, kept in this browser: the exercises of a .course-progress.json that was loaded on the course
// map, and the chapters that were ticked there or at their end.
(() => {
  "use strict";
  const KEY = "course-progress";

  function read() {
    try {
      return { passed: {}, done: {}, ...JSON.parse(localStorage.getItem(KEY)) };
    } catch {
      return { passed: {}, done: {} };
    }
  }

  function change(edit) {
    const state = read();
    edit(state);
    try {
      localStorage.setItem(KEY, JSON.stringify(state));
    } catch {
      // A browser that keeps nothing shows the change until the page is left.
    }
    show(state);
  }

  function tick(chapter, words) {
    const box = document.createElement("input");
    box.type = "checkbox";
    box.dataset.done = chapter;
    box.addEventListener("change", () => change((state) => { state.done[chapter] = box.checked; }));
    const label = document.createElement("label");
    label.className = "course-done";
    label.append(box, ` ${words}`);
    return label;
  }

  function show(state) {
    for (const box of document.querySelectorAll("[data-done]")) box.checked = Boolean(state.done[box.dataset.done]);
    let [solved, all] = [0, 0];
    for (const node of document.querySelectorAll(".course-drawing a[data-chapter]")) {
      const names = node.dataset.exercises.split(" ");
      const passed = names.filter((name) => state.passed[node.dataset.chapter]?.[name] === "passed").length;
      const share = state.done[node.dataset.chapter] ? 1 : passed / names.length;
      solved += passed;
      all += names.length;
      node.querySelector(".done").setAttribute("width", share * node.querySelector("rect").getAttribute("width"));
      node.classList.toggle("finished", share === 1);
    }
    const sum = document.querySelector(".course-progress-sum");
    if (sum) {
      const chapters = Object.values(state.done).filter(Boolean).length;
      sum.textContent = `${solved} of ${all} exercises passed, ${chapters} ${chapters === 1 ? "chapter" : "chapters"} ticked.`;
    }
  }

  function addTo(drawing) {
    const file = document.createElement("input");
    file.type = "file";
    file.accept = ".json,application/json";
    file.addEventListener("click", () => { file.value = ""; }); // the same file again is news, too
    file.addEventListener("change", async () => {
      let passed;
      try {
        passed = JSON.parse(await file.files[0].text());
      } catch {
        sum.textContent = "That file is not a .course-progress.json.";
        return;
      }
      change((state) => { state.passed = passed; });
    });
    const label = document.createElement("label");
    label.append("Show my exercises: load .course-progress.json from your notebooks’ folder ", file);
    const sum = document.createElement("p");
    sum.className = "course-progress-sum";
    sum.setAttribute("aria-live", "polite");
    const box = document.createElement("div");
    box.className = "course-progress-controls";
    const cards = document.querySelectorAll(".course-map-ready a.sd-stretched-link");
    if (cards.length) box.append(label); // a part's page has none, and leaves that to the map
    box.append(sum);
    drawing.after(box);
    for (const link of cards) {
      const chapter = link.getAttribute("href").match(/([\w-]+)\.html/)[1];
      link.closest(".sd-card").querySelector(".sd-card-footer").append(tick(chapter, "done"));
    }
  }

  const drawing = document.querySelector(".course-drawing");
  if (drawing) {
    addTo(drawing);
    const frame = drawing.firstElementChild;
    frame.scrollLeft = (frame.scrollWidth - frame.clientWidth) / 2; // a phone shows the middle first
  }
  const chapter = location.pathname.match(/\/book\/chapters\/([\w-]+)\.html$/);
  const end = document.querySelector(".bd-article");
  if (chapter && end) end.append(tick(chapter[1], "I have done this chapter (kept in this browser, shown on the course map)"));
  show(read());
})();
