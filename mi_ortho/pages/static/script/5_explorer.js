// Tokens coloured by value: hover or arrow keys tell the number.
const tokenStrip = (holder, words, values, largest, start) => {
  let at = -1;
  const spans = words.map((word, k) => {
    const share = Math.min(1, Math.abs(values[k]) / largest),
      span = make("span", { textContent: word.replaceAll("\n", "↵\n"), className: k < start ? "given" : "" });
    span.style.background = `rgba(${values[k] > 0 ? "0, 114, 178" : "213, 94, 0"}, ${(0.75 * share).toFixed(2)})`;
    span.addEventListener("pointermove", (event) => showTip(event.clientX, event.clientY, pair(word, values[k])));
    return span;
  });
  holder.replaceChildren(...spans);
  holder.onpointerleave = hideTip;
  holder.onblur = () => {
    hideTip();
    spans.forEach((one) => one.classList.remove("at"));
  };
  holder.onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -1e9, End: 1e9 }[event.key];
    if (!step || !spans.length) return;
    event.preventDefault();
    at = Math.max(0, Math.min(spans.length - 1, at + step));
    spans.forEach((one, k) => one.classList.toggle("at", k === at));
    showTip(...below(spans[at]), pair(words[at], values[at]));
  };
};
const unpacked = (text, largest) => Array.from(bytes(text), (one) => (one / 127 - 1) * largest);
const bars = (list, found, null_value, sign) =>
  list.replaceChildren(...(found || []).map(([word, cosine]) => {
    const bar = make("i"), held = make("span", { className: "bar" }, bar);
    bar.style.width = 100 * Math.min(1, Math.max(0, sign * cosine)) + "%";
    if (typeof null_value === "number") {
      const mark = make("b");
      mark.style.left = 100 * Math.min(1, null_value) + "%";
      held.append(mark);
    }
    return make(
      "li",
      {},
      make("code", { textContent: word.replaceAll("\n", "↵") }),
      held,
      make("span", { className: "n", textContent: format(cosine) }),
    );
  }));
// A lower triangle of one head as a picture.
const triangle = (raw, head, n) => (k) => {
  const row = Math.floor(k / n), column = k % n;
  return column > row
    ? [228, 228, 228]
    : diverging(raw[head * n * (n + 1) / 2 + row * (row + 1) / 2 + column] / 127 - 1);
};
function setUpExplorer(box) {
  const given = embedded(box),
    select = box.querySelector(".which"),
    slider = box.querySelector("input[type=range]"),
    find = (name) => box.querySelector(name);
  Object.assign(modes, given.modes);
  const byName = new Map(given.vectors.map((one) => [one.match + "|" + one.index, one])),
    words = (tokens) => tokens.map((k) => given.words[k]);
  let match = box.dataset.first;
  // names only where rows are as high as letters
  if (given.layers <= 24 && given.heads <= 16) {
    find(".layers").append(
      ...Array.from(
        { length: given.layers },
        (_, layer) => make("span", { textContent: (layer ? "" : "layer ") + layer }),
      ),
    );
  }
  find(".deepest").textContent = format(given.presence);
  find(".completion.base").textContent = given.base;
  const pictures = given.pictures, n = given.prompt.length;
  if (pictures) find(".largest").textContent = format(pictures.largest);
  const picture = (name, raw, head, k, scale) => {
    const canvas = make("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${name}, head ${head}`);
    paint(canvas, n, n, triangle(raw, k, n));
    readout(canvas, given.prompt, () => `${name}, head ${head}`, (place) => {
      const row = Math.floor(place / n);
      return (raw[k * n * (n + 1) / 2 + row * (row + 1) / 2 + place % n] / 127 - 1) * scale;
    });
    return make("span", {}, make("small", { textContent: "head " + head }), canvas);
  };
  const drawAttention = (one) => {
    const plain = bytes(pictures.plain), changed = bytes(one.attention);
    find(".grids").replaceChildren(
      ...pictures.heads.map((head, k) => picture("without steering", plain, head, k, 1)),
      ...pictures.heads.map((head, k) => picture("change", changed, head, k, pictures.largest)),
    );
    find(".grids").style.gridTemplateColumns = `repeat(${pictures.heads.length}, minmax(70px, 1fr))`;
  };
  const show = (index) => {
    const one = byName.get(match + "|" + index);
    if (!one) return;
    const at = given.groups[match].indexOf(index);
    slider.max = given.groups[match].length - 1;
    slider.value = at;
    slider.setAttribute("aria-valuetext", `index ${index}, ${match}`);
    find("output").textContent = match === "base" ? "θ₀" : index;
    find(".numbers").replaceChildren(
      ...(one.mode === null ? [] : [pair("behaviour", chip(one.mode))]),
      ...Object.entries(one.numbers).map(([name, each]) => pair(titles[name] || name, each)),
    );
    find(".completion.vector").replaceChildren(...(match === "base" ? [one.text] : marked(one.text, given.base)));
    const card = (title, mode, text) =>
      make(
        "figure",
        {},
        make("figcaption", {}, title, " ", ...(mode ? [chip(mode)] : [])),
        make("pre", { className: "completion", textContent: text, dir: "auto", tabIndex: 0 }),
      );
    find(".elsewhere").replaceChildren(
      card("Without steering", null, given.unsteered),
      ...one.elsewhere.map(([prompt, mode, text]) => card(prompt, mode, text)),
    );
    tokenStrip(
      find(".tokens.own"),
      words(one.tokens),
      unpacked(one.presence, given.presence),
      given.presence,
      one.start,
    );
    if (given.natural) {
      tokenStrip(
        find(".tokens.natural"),
        words(given.natural.tokens),
        unpacked(one.natural, given.natural.largest),
        given.presence,
        given.natural.start,
      );
    }
    const change = unpacked(one.change, 1), canvas = find("canvas.change");
    paint(canvas, given.heads, given.layers, (k) => sequential(change[k]));
    canvas.onpointermove = (event) => {
      const [layer, head] = cellAt(canvas, event);
      showTip(event.clientX, event.clientY, pair(`layer ${layer}, head ${head}`, change[layer * given.heads + head]));
    };
    canvas.onpointerleave = hideTip;
    if (pictures) drawAttention(one);
    bars(find(".near"), one.nearest, given.null, 1);
    bars(find(".far"), one.farthest, given.null, -1);
    for (const group of all(".panels[data-match]", box)) {
      group.hidden = group.dataset.match !== match && match !== "base";
    }
    for (const group of Object.keys(given.groups)) drawCursors(group, group === match ? index : null);
  };
  const pick = (at) => show(given.groups[match][Math.max(0, Math.min(given.groups[match].length - 1, at))]);
  slider.addEventListener("input", () => pick(Number(slider.value)));
  for (const button of all(".step", box)) {
    button.addEventListener("click", () => pick(Number(slider.value) + Number(button.dataset.step)));
  }
  if (select) {
    select.addEventListener("change", () => {
      match = select.value;
      slider.max = given.groups[match].length - 1;
      pick(0);
    });
  }
  box.choose = (group, index) => {
    if (!given.groups[group]) return;
    match = group;
    if (select) select.value = group;
    show(nearest(given.groups[group], index));
  };
  slider.max = given.groups[match].length - 1;
  pick(0);
}
for (const box of all(".explore")) setUpExplorer(box);
