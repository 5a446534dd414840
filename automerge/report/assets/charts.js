const objectives = data.objectives;
const members = data.members;
const several = objectives.length > 1;

function memberLines(member) {
  const lines = objectives.map((o, k) => [
    o.name,
    member.scores[k] === null ? "no score" : withInterval(o, member.scores[k]),
  ]);
  for (const [k, versus] of member.versus.entries()) {
    if (versus === null) continue;
    const o = objectives[k];
    lines.push([`${o.name} against ${versus[3]}`, `${signed(o, versus[0])}${noun(o)}`]);
  }
  return lines;
}

function axes(width, height, room, x, y, xTitle, yTitle) {
  const { left, right, top, bottom } = room;
  const parts = [];
  for (const value of x.ticks.values) {
    const at = x.at(value);
    parts.push(
      svg("line", { class: "grid", x1: at, x2: at, y1: top, y2: height - bottom }),
      svg("text", { class: "tick", x: at, y: height - bottom + 16, "text-anchor": "middle" }, x.text(value)),
    );
  }
  for (const value of y.ticks.values) {
    const at = y.at(value);
    parts.push(
      svg("line", { class: "grid", x1: left, x2: width - right, y1: at, y2: at }),
      svg("text", { class: "tick", x: left - 7, y: at + 4, "text-anchor": "end" }, y.text(value)),
    );
  }
  if (xTitle) {
    const xText = shorten(xTitle, width - left - right, 12.5);
    parts.push(svg("text", { class: "axis", x: width - right, y: height - 6, "text-anchor": "end" }, xText));
  }
  if (yTitle) parts.push(svg("text", { class: "axis", x: 2, y: 13 }, shorten(yTitle, width - 4, 12.5)));
  return svg("g", {}, ...parts);
}

function axis(objective, values, range, wanted, flip, share) {
  const scaled = extent(values.map((v) => (v === null ? null : v * objective.scale)), share);
  const found = ticks(scaled, wanted);
  const at = linear(scaled, range, flip);
  return { ticks: found, at, of: (v) => at(v * objective.scale), text: (v) => tickText(v, found.digits) };
}

function better(objective) {
  const unit = objective.percent ? ", %" : "";
  return `${objective.name}${unit}${objective.minimize ? " (lower is better)" : ""}`;
}

// The values that a chart has room for: the models', and trials no further off than their range.

function nearby(models, trials) {
  const known = models.filter((v) => v !== null && Number.isFinite(v));
  if (known.length < 2) return [...models, ...trials];
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const reach = high - low;
  return [...models, ...trials.filter((v) => v >= low - reach && v <= high + reach)];
}

function within(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

// The front in two objectives; better is always up and to the right.

let shown = [0, 1];

function drawFront(width) {
  const [i, k] = shown;
  const [a, b] = [objectives[i], objectives[k]];
  const height = Math.round(Math.min(Math.max(width * 0.62, 300), 520));
  const room = { left: 48, right: 16, top: 30, bottom: 46 };
  const at = members.filter((m) => m.scores[i] && m.scores[k]);
  const trials = data.trials.filter((t) => t.values[i] !== null && t.values[k] !== null);
  const values = (o) => nearby(at.flatMap((m) => m.scores[o]), trials.map((t) => t.values[o]));
  const x = axis(a, values(i), [room.left, width - room.right], width / 90, a.minimize, 0.04);
  const y = axis(b, values(k), [height - room.bottom, room.top], height / 60, b.minimize, 0.05);
  const picture = svg("svg", { width, height, role: "group", "aria-label": `${a.name} and ${b.name}` });
  picture.append(axes(width, height, room, x, y, `${better(a)} →`, `↑ ${better(b)}`));
  const dots = svg("g", { class: "trials" });
  for (const t of trials) {
    const place = [x.of(t.values[i]), y.of(t.values[k])];
    const cx = within(place[0], room.left, width - room.right);
    const cy = within(place[1], room.top, height - room.bottom);
    const beyond = cx !== place[0] || cy !== place[1];
    const dot = svg("circle", { class: beyond ? "beyond" : null, cx, cy, r: 2.6 });
    const lines = () => [
      [a.name, show(a, t.values[i])], [b.name, show(b, t.values[k])],
      [`estimate on search items${beyond ? ", outside the chart" : ""}`],
    ];
    tip(dot, t.name, lines);
    dots.append(dot);
  }
  picture.append(dots);
  const labels = [];
  for (const m of [...at].reverse()) {
    const [cx, cy] = [x.of(m.scores[i][0]), y.of(m.scores[k][0])];
    const group = svg("g", { "data-member": m.index, class: `member ${m.kind}` });
    for (const [o, axisOf, horizontal] of [[i, x, true], [k, y, false]]) {
      const [, low, high] = m.scores[o];
      if (low === null || high === null) continue;
      const [p, q] = [axisOf.of(low), axisOf.of(high)];
      group.append(svg("line", horizontal
        ? { class: "whisker", x1: p, x2: q, y1: cy, y2: cy }
        : { class: "whisker", x1: cx, x2: cx, y1: p, y2: q }));
    }
    group.append(svg("circle", { class: "target", cx, cy, r: 14 }), marker(m, cx, cy));
    tip(group, m.label, () => memberLines(m), m.index);
    picture.append(group);
    labels.unshift({ x: cx, y: cy, text: m.name, member: m });
  }
  const box = { left: room.left, right: width - 2, top: room.top - 12, bottom: height - room.bottom };
  labels.sort((p, q) => (p.member.kind === "front") - (q.member.kind === "front"));
  for (const l of placeLabels(labels, box, 12)) {
    picture.append(svg("text", { class: `label ${l.member.kind}`, x: l.x, y: l.y, "data-member": l.member.index }, l.text));
  }
  return picture;
}

// Rows of dots with intervals: scores for one objective, or differences to the best parent.

function drawRows(width, objective, rows, zero, title) {
  const size = 12.5;
  const longest = Math.max(...rows.map((r) => textWidth(r.member.name, size)), 30);
  const gutter = Math.min(longest + 16, width * 0.38);
  const height = rows.length * 25 + 52;
  const room = { left: gutter, right: 14, top: 26, bottom: 26 };
  const scores = rows.flatMap((r) => r.score);
  const reach = Math.max(...scores.map((v) => Math.abs(v || 0)));
  const limits = zero ? [...scores, 0.12 * reach, -0.12 * reach] : scores;
  const x = axis(objective, limits, [room.left, width - room.right], (width - gutter) / 70, objective.minimize, 0.05);
  const picture = svg("svg", { width, height, role: "group", "aria-label": title });
  picture.append(svg("text", { class: "title", x: 2, y: 13 }, shorten(title, width - 4, 13.5)));
  picture.append(axes(width, height, room, x, { ticks: { values: [] } }, "", ""));
  if (zero) picture.append(svg("line", { class: "zero", x1: x.of(0), x2: x.of(0), y1: room.top, y2: height - room.bottom }));
  rows.forEach((row, position) => {
    const m = row.member;
    const cy = room.top + 12 + position * 25;
    const [value, low, high] = row.score;
    const group = svg("g", { "data-member": m.index, class: `member ${m.kind}` });
    group.append(svg("rect", { class: "target", x: 0, y: cy - 12, width, height: 24 }));
    group.append(svg("text", { class: "rowname", x: gutter - 10, y: cy + 4, "text-anchor": "end" }, shorten(m.name, gutter - 12, size)));
    if (low !== null && high !== null) {
      const sides = [x.of(low), x.of(high)];
      group.append(svg("line", { class: `whisker ${row.verdict}`, x1: sides[0], x2: sides[1], y1: cy, y2: cy }));
    }
    const mark = marker(m, x.of(value), cy);
    if (row.verdict) mark.classList.add(row.verdict);
    group.append(mark);
    tip(group, m.label, () => row.lines, m.index);
    picture.append(group);
  });
  return picture;
}

function drawScores(width) {
  const o = objectives[0];
  const rows = members.filter((m) => m.scores[0]).map((m) => ({
    member: m, score: m.scores[0], lines: memberLines(m), verdict: "",
  }));
  return drawRows(width, o, rows, false, better(o));
}

function forestRows(objective, versus) {
  return members.filter((m) => versus(m) && (m.kind === "front" || m.kind === "baseline")).map((m) => {
    const [value, low, high, against, verdict] = versus(m);
    const lines = [
      [`against ${against}`, `${signed(objective, value)}${noun(objective)}`],
      ["95 % interval", `${signed(objective, low)} to ${signed(objective, high)}`],
    ];
    return { member: m, score: [value, low, high], lines, verdict };
  });
}

function drawForest(width) {
  const inner = several && width >= 680 ? (width - 28) / 2 : width;
  const panels = objectives.map((o, k) => [o, o.name, o.best_parent, forestRows(o, (m) => m.versus[k]), inner]);
  if (data.means) {
    const o = objectives[0];
    const rows = forestRows(o, (m) => data.means.versus[m.index]);
    panels.unshift([o, `mean of ${objectives.length} objectives`, data.means.best_parent, rows, width]);
  }
  return panels.filter(([, , , rows]) => rows.length).map(([o, name, against, rows, room]) => {
    const panel = html("div", "panel");
    const suffix = o.minimize ? " (right is lower, better)" : "";
    panel.append(drawRows(room, o, rows, true, `${name} against ${against}${suffix}`));
    return panel;
  });
}

// All objectives side by side; the best of each is on top.

function drawParallel(width) {
  const side = Math.min(70, width * 0.12);
  const step = (width - 2 * side) / (objectives.length - 1);
  const stagger = step < 80 ? 16 : 0;
  const height = 280 + stagger;
  const room = { left: side, right: side, top: 8, bottom: 30 + stagger };
  const columns = objectives.map((o, k) => axis(
    o, members.map((m) => (m.scores[k] ? m.scores[k][0] : null)),
    [height - room.bottom, room.top], 4, o.minimize, 0.04,
  ));
  const picture = svg("svg", { width, height, role: "group", "aria-label": "all objectives" });
  objectives.forEach((o, k) => {
    const x = room.left + k * step;
    picture.append(svg("line", { class: "pillar", x1: x, x2: x, y1: room.top, y2: height - room.bottom }));
    for (const value of columns[k].ticks.values) {
      picture.append(svg("text", { class: "tick", x: x + 5, y: columns[k].at(value) + 4 }, columns[k].text(value)));
    }
    const name = shorten(o.name, Math.max((stagger ? 2 : 1) * step - 6, 40), 12.5);
    const lower = k % 2 === 1 ? stagger : 0;
    picture.append(svg("text", { class: "axis", x, y: height - room.bottom + 20 + lower, "text-anchor": "middle" }, name));
  });
  for (const m of [...members].reverse()) {
    const points = objectives.map((o, k) => (m.scores[k] ? [room.left + k * step, columns[k].of(m.scores[k][0])] : null));
    const known = points.filter((p) => p !== null);
    if (known.length < 2) continue;
    const path = known.map(([px, py], n) => `${n ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join("");
    const group = svg("g", { "data-member": m.index, class: `member ${m.kind}` });
    group.append(svg("path", { class: "thread", d: path }), svg("path", { class: "target", d: path }));
    for (const [px, py] of known) group.append(marker({ ...m, knee: false }, px, py, 3.6));
    tip(group, m.label, () => memberLines(m), m.index);
    picture.append(group);
  }
  return picture;
}

// The course of the search.

function drawProgress(width) {
  const height = 220;
  const room = { left: 48, right: 14, top: 26, bottom: 42 };
  const o = data.progress.objective === null
    ? { name: "dominated share of the box", scale: 100, decimals: 1, percent: true }
    : objectives[data.progress.objective];
  const points = data.progress.points;
  const x = axis({ scale: 1 }, [0, ...points.map((p) => p[0])], [room.left, width - room.right], width / 90, false, 0);
  x.ticks.values = x.ticks.values.filter(Number.isInteger);
  x.text = (v) => String(v);
  const y = axis(o, points.map((p) => p[1]), [height - room.bottom, room.top], 4, Boolean(o.minimize), 0.06);
  const [first, last] = [points[0], points[points.length - 1]].map(
    ([n, value]) => `${show(o, value)}${o.percent ? " %" : ""} after ${n} trials`,
  );
  const said = `${o.name}: ${first}, ${last}`;
  const picture = svg("svg", { width, height, role: "img", "aria-label": said });
  const title = data.progress.objective === null ? "↑ hypervolume, % of the box" : `↑ best so far: ${better(o)}`;
  picture.append(axes(width, height, room, x, y, "trials →", title));
  let path = "";
  points.forEach(([n, value], row) => {
    path += row ? `H${x.of(n).toFixed(1)}V${y.of(value).toFixed(1)}` : `M${x.of(n).toFixed(1)} ${y.of(value).toFixed(1)}`;
  });
  picture.append(svg("path", { class: "progress", d: path }));
  const cover = svg("rect", { class: "target", x: room.left, y: 0, width: width - room.left - room.right, height });
  hover(cover, (event) => {
    const left = picture.getBoundingClientRect().left;
    const nearest = points.reduce((best, p) => {
      const distance = Math.abs(x.of(p[0]) - (event.clientX - left));
      return distance < best[0] ? [distance, p] : best;
    }, [Infinity, points[0]])[1];
    showTip(`after ${nearest[0]} trials`, [[o.name, show(o, nearest[1]) + (o.percent ? " %" : "")]], event.clientX, event.clientY);
  });
  picture.append(cover);
  return picture;
}
