"use strict";
(() => {
  // Tables: a click on a heading sorts by the cells' data-v, numbers before text, unknown last.
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = head.querySelector("button");
      if (!button) return;
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") !== "descending";
        heads.forEach((h) => h.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const body = table.tBodies[0];
        const value = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent;
        const compare = (a, b) => {
          const x = value(a), y = value(b);
          if (x === "" || y === "") return (x === "") - (y === "");
          const gap = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
          return down ? -gap : gap;
        };
        body.append(...[...body.rows].sort(compare));
      });
    });
  }
  // A cohort: rows of cases by their words and verdict.
  const filter = document.querySelector("form.filter");
  if (filter) {
    const [find, only, output] = [...filter.elements];
    const rows = [...document.querySelectorAll("tr[data-verdict]")];
    const choose = () => {
      const words = find.value.toLowerCase();
      for (const row of rows) {
        const fits = row.dataset.words.toLowerCase().includes(words) && (!only.value || row.dataset.verdict === only.value);
        row.hidden = !fits;
      }
      const cases = rows.filter((row) => row.closest("table") === rows[0].closest("table"));
      output.textContent = `${cases.filter((row) => !row.hidden).length} of ${cases.length} cases`;
    };
    filter.addEventListener("input", choose);
    filter.addEventListener("submit", (event) => event.preventDefault());
    filter.hidden = false;
    choose();
  }
  // Slices: one slider for each view.
  const data = document.getElementById("slices");
  if (!data) return;
  const slices = JSON.parse(data.textContent);
  const show = {};
  for (const figure of document.querySelectorAll("figure[data-view]")) {
    const view = slices[figure.dataset.view];
    const [grey, marks, plain] = figure.querySelectorAll("img");
    const slider = figure.querySelector("input");
    const output = figure.querySelector("output");
    const name = figure.dataset.view;
    show[name] = (k) => {
      slider.value = k;
      grey.src = plain.src = view[k].grey;
      marks.src = view[k].marks;
      grey.alt = `${name} slice at ${view[k].at}`;
      output.textContent = view[k].at;
      slider.setAttribute("aria-valuetext", view[k].at);
    };
    slider.disabled = view.length < 2;
    slider.addEventListener("input", () => show[name](Number(slider.value)));
  }
  for (const button of document.querySelectorAll("button[data-go]")) {
    button.addEventListener("click", () => {
      for (const [view, k] of Object.entries(JSON.parse(button.dataset.go))) show[view](k);
      document.querySelector(".views").scrollIntoView({ block: "start" });
    });
  }
  const opacity = document.getElementById("opacity");
  const paint = () => {
    for (const image of document.querySelectorAll("img.marks")) image.style.opacity = opacity.value / 100;
  };
  opacity.addEventListener("input", paint);
  document.querySelector(".controls").hidden = false;
  paint();
})();
