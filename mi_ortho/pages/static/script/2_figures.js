const column = data.rows ? Object.fromEntries(data.fields.map((name, k) => [name, k])) : {};
const value = (row, name) => row[column[name]];
// Rows of the table by match, what and index: figures look their numbers up here.
const groups = new Map();
for (const row of data.rows || []) {
  const key = value(row, "match") + "|" + value(row, "what");
  if (!groups.has(key)) groups.set(key, new Map());
  groups.get(key).set(value(row, "index"), row);
}
const rowOf = (match, what, index) => (groups.get(match + "|" + what) || new Map()).get(index);
const resolved = (group, one) => {
  if (one.from) {
    const found = [...(groups.get(group + "|" + one.from[0]) || new Map()).entries()].map((
      [x, row],
    ) => [x, value(row, one.from[1])]);
    return { ...one, points: new Map(found) };
  }
  const x = typeof one.x === "number" ? [...Array(one.x).keys()] : one.x;
  return { ...one, points: new Map(x.map((each, k) => [each, one.y[k]])) };
};

const drawCursors = (group, x) => {
  for (const panel of panels.filter((one) => one.group === group)) {
    const at = x === null
      ? panel.left
      : panel.left + panel.wide * (panel.scaled(x) - panel.low) / (panel.high - panel.low);
    panel.cursor.setAttribute("x1", at);
    panel.cursor.setAttribute("x2", at);
    panel.cursor.style.display = x === null ? "none" : "";
  }
};
const panels = all(".panel").map((element) => {
  const given = embedded(element), svg = element.querySelector("svg"), [left, top, wide, tall] = given.box;
  const cursor = document.createElementNS("http://www.w3.org/2000/svg", "line");
  cursor.setAttribute("class", "cursor");
  cursor.setAttribute("y1", top);
  cursor.setAttribute("y2", top + tall);
  cursor.style.display = "none";
  svg.append(cursor);
  const series = given.series.map((one) => resolved(given.group, one)),
    xs = [...new Set(series.flatMap((one) => [...one.points.keys()]))].sort((a, b) => a - b);
  return {
    element,
    svg,
    cursor,
    left,
    wide,
    low: given.xlim[0],
    high: given.xlim[1],
    scaled: given.logx ? Math.log10 : (x) => x,
    group: given.group,
    series,
    xlabel: given.xlabel,
    xs,
    at: 0,
  };
});
const showPanel = (panel, x, place) => {
  drawCursors(panel.group, x);
  const hidden = new Set(
    all('.legend [aria-pressed="false"]', panel.element.closest("figure") || document).map((one) => one.dataset.series),
  );
  const lines = panel.series.filter((one) => !hidden.has(one.key) && typeof one.points.get(x) === "number").map((one) =>
    pair(one.label, one.points.get(x))
  ).reverse();
  const row = rowOf(panel.group, "family", x), mode = row && value(row, "mode");
  showTip(...place, pair(panel.xlabel || "x", x), ...lines, ...(mode ? [pair("behaviour", chip(mode))] : []));
};
const nearest = (values, wanted) =>
  values.reduce((best, one) => (Math.abs(one - wanted) < Math.abs(best - wanted) ? one : best), values[0]);
for (const panel of panels) {
  const move = (event) => {
    const box = panel.svg.getBoundingClientRect(),
      inside = (event.clientX - box.left) / box.width * panel.svg.viewBox.baseVal.width;
    const wanted = panel.low + (inside - panel.left) / panel.wide * (panel.high - panel.low),
      x = nearest(panel.xs, panel.scaled === Math.log10 ? 10 ** wanted : wanted);
    panel.at = panel.xs.indexOf(x);
    showPanel(panel, x, [event.clientX, event.clientY]);
  };
  panel.svg.addEventListener("pointermove", move);
  panel.svg.addEventListener("pointerdown", (event) => {
    move(event);
    select(panel.group, panel.xs[panel.at]);
  });
  const leave = () => {
    hideTip();
    if (!panel.element.closest(".explore")) drawCursors(panel.group, null);
  };
  panel.element.addEventListener("pointerleave", leave);
  panel.element.addEventListener("blur", leave);
  panel.element.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -1e9, End: 1e9 }[event.key];
    if (!step || !panel.xs.length) return;
    event.preventDefault();
    panel.at = Math.max(0, Math.min(panel.xs.length - 1, panel.at + step));
    showPanel(panel, panel.xs[panel.at], below(panel.element, 0.2));
    select(panel.group, panel.xs[panel.at]);
  });
}
for (const button of all(".legend button")) {
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(shown));
    for (const part of all(".s-" + button.dataset.series, button.closest("figure"))) {
      part.classList.toggle("hidden", !shown);
    }
  });
}

const strips = all(".strip:not(.axis)").map((element) => {
  const given = embedded(element), marker = make("i", { className: "at" });
  marker.hidden = true;
  element.querySelector(".cells").append(marker);
  return {
    element,
    marker,
    cells: element.querySelector(".cells"),
    match: element.closest(".strips").dataset.match,
    ...given,
    rows: data.rows.slice(given.first, given.first + given.count),
    at: 0,
  };
});
const markStrip = (strip, index) => {
  const width = 100 / strip.width;
  strip.marker.hidden = index === null;
  strip.marker.style.left = index * width + "%";
  strip.marker.style.width = Math.max(width * strip.step, 0.4) + "%";
};
const showCell = (strip, k, place) => {
  const row = strip.rows[k], index = value(row, "index"), text = value(row, "text");
  strip.at = k;
  markStrip(strip, index);
  showTip(
    ...place,
    pair(strip.element.querySelector(".name").textContent, "index " + index),
    pair("behaviour", chip(value(row, "mode"))),
    ...["norm", "loss", "kl_base_vector"].filter((name) => value(row, name) !== null).map((name) =>
      pair(titles[name], value(row, name))
    ),
    make("p", { textContent: text.length > 220 ? text.slice(0, 220) + "…" : text }),
  );
};
for (const strip of strips) {
  const find = (event) => {
    const box = strip.cells.getBoundingClientRect(), wanted = (event.clientX - box.left) / box.width * strip.width;
    const indexes = strip.rows.map((row) => value(row, "index") + strip.step / 2);
    return indexes.length ? indexes.indexOf(nearest(indexes, wanted)) : -1;
  };
  const leave = () => {
    hideTip();
    strip.marker.hidden = true;
  };
  strip.cells.addEventListener("pointermove", (event) => {
    const k = find(event);
    if (k >= 0) showCell(strip, k, [event.clientX, event.clientY]);
  });
  strip.cells.addEventListener("click", (event) => {
    const k = find(event);
    if (k >= 0) select(strip.match, value(strip.rows[k], "index"));
  });
  strip.element.addEventListener("pointerleave", leave);
  strip.element.addEventListener("blur", leave);
  strip.element.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -1e9, End: 1e9 }[event.key];
    if (!step || !strip.rows.length) return;
    event.preventDefault();
    const k = Math.max(0, Math.min(strip.rows.length - 1, strip.at + step));
    showCell(strip, k, below(strip.element, 0.4));
    select(strip.match, value(strip.rows[k], "index"));
  });
}

// The words of a text, those not in the longest common subsequence with another text marked.
const marked = (text, other) => {
  const a = text.split(/(\s+)/), b = other.split(/(\s+)/);
  if (!other || a.length > 400 || b.length > 400) return [text];
  const best = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      best[i][j] = a[i] === b[j] ? best[i + 1][j + 1] + 1 : Math.max(best[i + 1][j], best[i][j + 1]);
    }
  }
  const parts = [];
  for (let i = 0, j = 0; i < a.length;) {
    if (j < b.length && a[i] === b[j]) parts.push([a[i++], false], ...(j++, []));
    else if (j < b.length && best[i][j + 1] >= best[i + 1][j]) j++;
    else parts.push([a[i++], true]);
  }
  return parts.map(([part, changed]) => (changed && part.trim() ? make("mark", { textContent: part }) : part));
};

const select = (match, index) => {
  for (const box of all(".explore")) if (box.choose) box.choose(match, index);
  const explorer = all(".explorer").find((one) => one.dataset.match === match), row = rowOf(match, "family", index);
  if (!explorer || !row) return;
  explorer.querySelector("input").value = index;
  explorer.querySelector("output").textContent = index;
  const others = [...groups.keys()].filter((key) =>
    key.startsWith(match + "|") && key !== match + "|family" && !key.startsWith(match + "|held out")
  ).map((key) => groups.get(key).get(index)).filter(Boolean);
  explorer.querySelector(".numbers").replaceChildren(
    pair("behaviour", chip(value(row, "mode"))),
    ...["status", "norm", "norm_shrunk", "loss", "kl_base_vector", "kl_vector_base", "log_odds", "transfer"].map((
      name,
    ) => pair(titles[name], value(row, name))),
    ...others.filter((one) => value(one, "mode")).map((one) => pair(value(one, "what"), chip(value(one, "mode")))),
  );
  explorer.querySelector(".vector").replaceChildren(
    ...marked(value(row, "text"), explorer.querySelector(".completion:not(.vector)").textContent),
  );
};
for (const explorer of all(".explorer")) {
  const input = explorer.querySelector("input"),
    pick = () => {
      select(explorer.dataset.match, Number(input.value));
      drawCursors(explorer.dataset.match, Number(input.value));
    };
  input.addEventListener("input", pick);
  for (const button of all(".step", explorer)) {
    button.addEventListener("click", () => {
      input.value = Number(input.value) + Number(button.dataset.step);
      pick();
    });
  }
}
