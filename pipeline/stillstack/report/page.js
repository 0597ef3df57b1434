// What the page does beside standing still. Without it, or where it fails, everything is shown all
// the same: still pictures, and images side by side.
"use strict";

// Images before and after become one, with a slider between them.
for (const pair of document.querySelectorAll(".pair.before-after")) {
  const [before, after] = pair.querySelectorAll("figure");
  const box = document.createElement("div");
  box.className = "slider";
  const slider = document.createElement("input");
  Object.assign(slider, { type: "range", min: 0, max: 100, step: 0.5, value: 50 });
  const titles = [before, after].map((figure) => figure.querySelector("figcaption").textContent);
  slider.setAttribute("aria-label", `${titles[0]} to the left of this, ${titles[1]} to the right`);
  const move = () => pair.style.setProperty("--at", `${slider.value}%`);
  slider.addEventListener("input", move);
  const words = titles.map((title) => {
    const word = document.createElement("span");
    word.textContent = title;
    return word;
  });
  box.append(slider, ...words);
  pair.after(box);
  pair.classList.add("live");
  move();
}

// Plots take the place of their still twins.
(async () => {
  const target = document.getElementById("plots");
  if (!target) return;
  const root = document.documentElement;
  root.classList.add("live"); // before they are drawn: what is hidden has no width
  try {
    const item = JSON.parse(document.getElementById("plots-json").textContent);
    const views = await Bokeh.embed.embed_item(item, target);
    const grid = [...views][0].model;
    const plots = grid.document;
    if (matchMedia("(pointer: coarse)").matches) letScroll(grid.toolbar);
    const range = plots.get_model_by_name("frames");
    const rows = plots.get_model_by_name("rows");
    for (const link of document.querySelectorAll("a[data-frame]")) {
      link.addEventListener("click", () => show(Number(link.dataset.frame), range, rows));
    }
  } catch (error) {
    root.classList.remove("live");
    console.error(error);
  }
})();

// Fingers on a plot scroll the page; its toolbar has the tools that zoom and move.
function letScroll(toolbar) {
  for (const tool of toolbar.tools) {
    if (tool.active && tool.event_types.includes("pan")) tool.active = false;
  }
}

// The plots about one frame, and what is known of it in words.
function show(frame, range, rows) {
  const [low, high] = range.bounds;
  const half = Math.min(40, (high - low) / 2);
  const middle = Math.min(Math.max(frame, low + half), high - half);
  range.setv({ start: middle - half, end: middle + half });
  const row = rows.data.frame.indexOf(frame);
  const number = (name, digits) => {
    const value = rows.data[name][row];
    return Number.isFinite(value) ? value.toFixed(digits) : "none";
  };
  const shift = (axis) =>
    Number.isFinite(rows.data[axis][row])
      ? `${axis} ${number(axis, 4)} ± ${number(axis + "_std", 4)} px`
      : `no shift in ${axis}`;
  document.getElementById("frame-told").textContent =
    row < 0
      ? `Frame ${frame} is not among those that are drawn one by one.`
      : `Frame ${frame}: ${shift("y")}, ${shift("x")}, ncc ${number("ncc", 4)}, ` +
        `chi2 ${number("chi2", 3)}, ${rows.data.status[row]}.`;
}
