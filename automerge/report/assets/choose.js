// The merge on the front that fits somebody's preferences, by the rule of `automerge pick`.

const wishList = document.getElementById("preferences");

function meets(merge, bounds) {
  return bounds.every((bound, k) => bound === null
    || (objectives[k].minimize ? merge.select[k] <= bound : merge.select[k] >= bound));
}

// Where a score lies between the front's worst, 0, and best, 1.
function share(merge, k) {
  const losses = data.merges.map((m) => (objectives[k].minimize ? m.select[k] : -m.select[k]));
  const [low, high] = [Math.min(...losses), Math.max(...losses)];
  const mine = objectives[k].minimize ? merge.select[k] : -merge.select[k];
  return high === low ? 1 : (high - mine) / (high - low);
}

// The merges that meet the bounds, by weighted mean on select items, and whether scores are rescaled.
function rank(weights, bounds) {
  const wanted = weights.map((w, k) => [w, k]).filter(([w]) => w > 0);
  const rescaled = !wanted.every(([, k]) => objectives[k].percent && !objectives[k].minimize);
  const total = wanted.reduce((sum, [w]) => sum + w, 0);
  const of = (merge) => wanted.reduce(
    (sum, [w, k]) => sum + w * (rescaled ? share(merge, k) : merge.select[k]), 0,
  ) / total;
  const found = data.merges.filter((m) => meets(m, bounds)).map((merge) => ({ merge, utility: of(merge) }));
  return { rescaled, found: found.sort((p, q) => q.utility - p.utility) };
}

// What the inputs say, by objective; those held out have none.
function wishes() {
  const said = (key, k) => wishList.querySelector(`[data-${key}="${k}"]`)?.value ?? "";
  return {
    weights: objectives.map((_, k) => Number(said("weight", k))),
    bounds: objectives.map((o, k) => (said("bound", k) === "" ? null : Number(said("bound", k)) / o.scale)),
  };
}

function quoted(word) {
  return /^[\w./:=,@%+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\"'\"'")}'`;
}

function pickCommand({ weights, bounds }) {
  const prefer = objectives.map((o, k) => `${o.name}=${weights[k]}`).filter((_, k) => weights[k] > 0).join(",");
  const least = objectives.flatMap((o, k) => (bounds[k] === null ? [] : ["--min", quoted(`${o.name}=${bounds[k]}`)]));
  return ["automerge pick . --prefer", quoted(prefer), ...least].join(" ");
}

function command(text) {
  const shown = html("pre", "command", text);
  const place = html("div", "copyable");
  place.append(shown);
  copyable(shown);
  return place;
}

function testScores(member) {
  const table = html("table", "picked-scores");
  table.append(html("caption", "", `Test scores of ${member.name}`));
  const body = html("tbody");
  for (const [k, o] of objectives.entries()) {
    if (!member.scores[k]) continue;
    const row = html("tr");
    const head = html("th", "name", o.name);
    head.scope = "row";
    const versus = member.versus[k];
    const gain = versus === null ? "" : `${signed(o, versus[0])}${noun(o)} against ${versus[3]}`;
    row.append(head, html("td", "", withInterval(o, member.scores[k]) + (o.percent ? " %" : "")), html("td", "", gain));
    body.append(row);
  }
  table.append(body);
  return table;
}

function showPicked() {
  const wished = wishes();
  for (const node of wishList.querySelectorAll("[data-weight]")) node.nextElementSibling.value = node.value;
  const place = document.getElementById("picked");
  if (!wished.weights.some((w) => w > 0)) {
    place.replaceChildren(html("p", "empty", "Give at least one objective a weight above 0."));
    return;
  }
  const { rescaled, found } = rank(wished.weights, wished.bounds);
  if (!found.length) {
    place.replaceChildren(html("p", "empty", "No merge on the front meets these bounds on select items."));
    return;
  }
  const inWords = (utility) => (rescaled ? utility.toFixed(3) : `${(100 * utility).toFixed(1)} %`);
  const { merge, utility } = found[0];
  const member = members[merge.index];
  const title = html("h3", "", member.name);
  title.dataset.picked = member.name;
  const among = wished.bounds.some((b) => b !== null) ? "merges within the bounds" : "merges on the front";
  const scale = rescaled ? ", the front's worst being 0 and its best 1" : "";
  const why = `${merge.method}: weighted mean ${inWords(utility)}${scale}, the highest on select items of ${found.length} ${among}.`;
  const next = found.slice(1, 4).map((f) => `${members[f.merge.index].name} ${inWords(f.utility)}`);
  place.replaceChildren(
    title, html("p", "about", why), testScores(member),
    html("p", "about", next.length ? `Next: ${next.join(", ")}.` : ""),
    command(`${pickCommand(wished)}\nautomerge export . --trial ${merge.trial}`),
    html("p", "small", "To be run in the run folder."),
  );
  for (const node of document.querySelectorAll("[data-member]")) {
    node.classList.toggle("picked", node.dataset.member === String(merge.index));
  }
}

if (wishList) {
  wishList.addEventListener("input", showPicked);
  wishList.querySelector("button").addEventListener("click", () => {
    for (const node of wishList.querySelectorAll("input")) node.value = node.defaultValue;
    showPicked();
  });
}
