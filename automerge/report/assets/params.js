// Each parameter against one objective, the surest first: by the lower end of the interval.

const FEW = 4;
let judged = 0;
let everything = false;

function drawParameter(width, parameter) {
  const o = objectives[judged];
  const height = Math.round(Math.min(Math.max(width * 0.7, 118), 170));
  const room = { left: 34, right: 8, top: 8, bottom: 24 };
  const points = data.trials
    .map((t, row) => ({ trial: t, x: parameter.values[row], y: t.values[judged] }))
    .filter((p) => p.x !== null && p.y !== null);
  const category = parameter.categories !== null;
  const y = axis(o, points.map((p) => p.y), [height - room.bottom, room.top], 3, o.minimize, 0.06);
  const ends = [room.left, width - room.right];
  let x;
  if (category) {
    const step = (ends[1] - ends[0]) / parameter.categories.length;
    const at = (v) => ends[0] + (v + 0.5) * step;
    x = { of: at, at, ticks: { values: parameter.categories.map((_, n) => n) } };
    x.text = (v) => shorten(parameter.categories[v], step - 4, 11);
  } else {
    x = axis({ scale: 1 }, points.map((p) => p.x), ends, width / 70, false, 0.04);
  }
  const picture = svg("svg", { width, height, role: "group", "aria-label": `${parameter.name} and ${o.name}` });
  picture.append(axes(width, height, room, x, y, "", ""));
  points.forEach((p, row) => {
    const jitter = category ? (((row * 0.618034) % 1) - 0.5) * Math.min(24, width / 8) : 0;
    const dot = svg("circle", { class: "sample", cx: x.of(p.x) + jitter, cy: y.of(p.y), r: 2.4 });
    const value = category ? parameter.categories[p.x] : String(Number(p.x.toPrecision(3)));
    tip(dot, p.trial.name, () => [[parameter.name, value], [o.name, show(o, p.y)]]);
    picture.append(dot);
  });
  return picture;
}

function drawParameters(width) {
  const ranked = [...data.parameters].sort((p, q) => {
    const [a, b] = [p.associations[judged], q.associations[judged]];
    return b.low - a.low || b.explained - a.explained;
  });
  const chosen = everything ? ranked : ranked.slice(0, FEW);
  const columns = Math.max(1, Math.min(4, Math.floor((width + 20) / 190)));
  const inner = (width - 20 * (columns - 1)) / columns;
  return chosen.map((parameter) => {
    const panel = html("figure", "panel parameter");
    panel.style.width = `${inner}px`;
    const caption = html("figcaption");
    caption.append(html("span", "name", parameter.name));
    const { explained, low, high, rank: rho, n } = parameter.associations[judged];
    const percent = (value) => (100 * value).toFixed(0);
    const sure = explained === null ? "" : `explains ${percent(explained)} % (${percent(low)} to ${percent(high)})`;
    const sign = rho === null ? "" : `, ρ ${rho > 0 ? "+" : ""}${rho.toFixed(2).replace("-", "−")}`;
    caption.append(html("span", "number", `${sure}${sign}${sure ? ", " : ""}${n} trials`));
    panel.append(caption, drawParameter(inner, parameter));
    return panel;
  });
}

// Wire the charts.

const redrawFront = chart("front-chart", several ? drawFront : drawScores);
chart("forest-chart", drawForest);
chart("parallel-chart", drawParallel);
chart("progress-chart", drawProgress);
const redrawParameters = chart("parameters-chart", drawParameters);

const names = objectives.map((o, k) => [k, o.name]);
for (const [id, side] of [["front-x", 0], ["front-y", 1]]) {
  select(id, names, shown[side], (value) => {
    const other = 1 - side;
    if (shown[other] === value) {
      shown[other] = shown[side];
      document.getElementById(other ? "front-y" : "front-x").value = shown[other];
    }
    shown[side] = value;
    redrawFront();
  });
}
select("parameters-objective", names, judged, (value) => {
  judged = value;
  redrawParameters();
});
const all = document.getElementById("parameters-all");
if (all) {
  all.hidden = data.parameters.length <= FEW;
  all.addEventListener("click", () => {
    everything = !everything;
    all.textContent = everything ? "Show fewer" : `Show all ${data.parameters.length}`;
    redrawParameters();
  });
}
