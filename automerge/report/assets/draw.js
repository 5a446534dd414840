"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const NS = "http://www.w3.org/2000/svg";

function svg(tag, attributes, ...children) {
  const node = document.createElementNS(NS, tag);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function html(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

// Numbers

function show(objective, value) {
  if (value === null || value === undefined) return "?";
  return (value * objective.scale).toFixed(objective.decimals).replace("-", "−");
}

function signed(objective, value) {
  if (value === null || value === undefined) return "?";
  const text = show(objective, value);
  return value > 0 && Number(text) !== 0 ? "+" + text : text;
}

function noun(objective) {
  return objective.percent ? " points" : "";
}

function withInterval(objective, score) {
  const [value, low, high] = score;
  if (low === null || high === null) return show(objective, value);
  return `${show(objective, value)} (${show(objective, low)} to ${show(objective, high)})`;
}

// Scales: `flip` reverses the direction.

function extent(values, share) {
  const known = values.filter((v) => v !== null && v !== undefined && Number.isFinite(v));
  if (!known.length) return [0, 1];
  let low = Math.min(...known);
  let high = Math.max(...known);
  if (low === high) {
    const room = Math.abs(low) * 0.05 || 0.5;
    return [low - room, high + room];
  }
  const room = (high - low) * share;
  return [low - room, high + room];
}

function linear([low, high], [start, end], flip) {
  const [a, b] = flip ? [end, start] : [start, end];
  return (value) => a + ((value - low) / (high - low)) * (b - a);
}

function ticks([low, high], wanted) {
  const rough = (high - low) / Math.max(wanted, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const found = [];
  for (let k = Math.ceil(low / step); k * step <= high + step * 1e-9; k += 1) found.push(k * step);
  return { values: found, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}

function tickText(value, digits) {
  return (value === 0 ? 0 : value).toFixed(digits).replace("-", "−");
}

// Labels on a chart are moved apart until none overlap; those that do not fit are left out.

function textWidth(text, size) {
  let units = 0;
  for (const character of text) units += character.codePointAt(0) > 0x2e80 ? 1 : 0.56;
  return units * size;
}

function shorten(text, room, size) {
  if (textWidth(text, size) <= room) return text;
  const characters = Array.from(text);
  while (characters.length > 1 && textWidth(characters.join("") + "…", size) > room) characters.pop();
  return characters.join("").trimEnd() + "…";
}

function placeLabels(points, box, size) {
  const taken = points.map((p) => [p.x - 6, p.y - 6, p.x + 6, p.y + 6]);
  const overlaps = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
  const placed = [];
  for (const point of points) {
    const text = shorten(point.text, 130, size);
    const width = textWidth(text, size);
    const places = [
      [7, -7], [7, size + 5], [-7 - width, -7], [-7 - width, size + 5],
      [9, size * 0.35], [-9 - width, size * 0.35], [-width / 2, -10], [-width / 2, size + 8],
    ];
    for (const [dx, dy] of places) {
      const x = point.x + dx;
      const y = point.y + dy;
      const own = [x - 1, y - size, x + width + 1, y + 3];
      const inside = own[0] >= box.left && own[2] <= box.right && own[1] >= box.top && own[3] <= box.bottom;
      if (inside && !taken.some((other) => overlaps(own, other))) {
        taken.push(own);
        placed.push({ ...point, text, x, y });
        break;
      }
    }
  }
  return placed;
}

// One tooltip for the page; lines are [text] or [label, value].

const tooltip = html("div", "tooltip");
tooltip.setAttribute("role", "status");
tooltip.hidden = true;
document.body.append(tooltip);

function showTip(title, lines, x, y) {
  tooltip.replaceChildren(html("strong", "", title));
  for (const [label, value] of lines) {
    const line = html("div", "tipline");
    line.append(html("span", "", label));
    if (value !== undefined) line.append(html("span", "number", value));
    tooltip.append(line);
  }
  tooltip.hidden = false;
  const { offsetWidth: width, offsetHeight: height } = tooltip;
  const left = Math.min(Math.max(8, x + 14), document.documentElement.clientWidth - width - 8);
  const top = y + 16 + height > window.innerHeight ? y - height - 12 : y + 16;
  tooltip.style.left = `${Math.max(8, left)}px`;
  tooltip.style.top = `${Math.max(8, top)}px`;
}

function hideTip() {
  tooltip.hidden = true;
  emphasise(null);
}

// Touch has no hover: what was touched stays shown until something else is touched.

function hover(node, at) {
  node.addEventListener("pointerenter", at);
  node.addEventListener("pointermove", at);
  node.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse") hideTip();
  });
}

document.addEventListener("pointerdown", hideTip, { capture: true });

function tip(node, title, lines, member) {
  node.setAttribute("tabindex", "0");
  node.setAttribute("role", "img");
  node.setAttribute("aria-label", [title, ...lines().map((l) => l.join(" "))].join(", "));
  const at = (x, y) => {
    showTip(title, lines(), x, y);
    emphasise(member === undefined ? null : member);
  };
  hover(node, (event) => at(event.clientX, event.clientY));
  node.addEventListener("focus", () => {
    const box = node.getBoundingClientRect();
    at(box.right, box.top);
  });
  node.addEventListener("blur", hideTip);
  return node;
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") hideTip();
});
document.addEventListener("scroll", hideTip, { passive: true });

// One stop for the tab key per chart; arrow keys, Home and End go from mark to mark.

const marksOf = new WeakMap();

function roving(place, marks) {
  const listened = marksOf.has(place);
  marksOf.set(place, marks);
  if (marks.length) rove(marks, 0);
  if (listened) return;
  place.addEventListener("keydown", (event) => {
    const own = marksOf.get(place);
    const at = own.indexOf(document.activeElement);
    const last = own.length - 1;
    const to = {
      ArrowRight: Math.min(at + 1, last), ArrowDown: Math.min(at + 1, last),
      ArrowLeft: Math.max(at - 1, 0), ArrowUp: Math.max(at - 1, 0), Home: 0, End: last,
    }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    rove(own, to);
    own[to].focus();
  });
  place.addEventListener("focusin", (event) => {
    const own = marksOf.get(place);
    if (own.includes(event.target)) rove(own, own.indexOf(event.target));
  });
}

function rove(marks, to) {
  for (const [n, node] of marks.entries()) node.setAttribute("tabindex", n === to ? "0" : "-1");
}

// The member under the pointer stands out in every chart and in the table.

function emphasise(member) {
  document.body.classList.toggle("emphasis", member !== null);
  for (const node of document.querySelectorAll("[data-member]")) {
    node.classList.toggle("emphasised", member !== null && node.dataset.member === String(member));
  }
}

// Draw now and whenever the width changes.

function chart(id, draw) {
  const place = document.getElementById(id);
  if (!place) return () => {};
  let width = 0;
  const redraw = () => {
    width = place.clientWidth;
    if (width <= 0) return;
    place.replaceChildren(...[draw(width)].flat());
    const marks = [...place.querySelectorAll("[tabindex]")];
    roving(place, [...marks.filter((m) => m.matches(".member")), ...marks.filter((m) => !m.matches(".member"))]);
  };
  new ResizeObserver(() => {
    if (place.clientWidth !== width) redraw();
  }).observe(place);
  redraw();
  return redraw;
}

function select(id, options, chosen, changed) {
  const node = document.getElementById(id);
  if (!node) return null;
  for (const [value, text] of options) {
    const option = html("option", "", text);
    option.value = value;
    node.append(option);
  }
  node.value = chosen;
  node.addEventListener("change", () => changed(Number(node.value)));
  return node;
}

function marker(member, x, y, size) {
  const s = size || 5.5;
  const shapes = {
    front: () => svg("circle", { cx: x, cy: y, r: s }),
    parent: () => svg("rect", { x: x - s * 0.9, y: y - s * 0.9, width: s * 1.8, height: s * 1.8, rx: 1.5 }),
    base: () => svg("path", { d: `M${x} ${y - s * 1.3}L${x + s * 1.3} ${y}L${x} ${y + s * 1.3}L${x - s * 1.3} ${y}Z` }),
    baseline: () => svg("path", { d: `M${x} ${y - s * 1.2}L${x + s * 1.2} ${y + s}L${x - s * 1.2} ${y + s}Z` }),
  };
  const group = svg("g", { class: `mark ${member.kind}` }, shapes[member.kind]());
  if (member.knee) group.append(svg("circle", { class: "knee", cx: x, cy: y, r: s + 3.5 }));
  return group;
}
