// Colour scales: diverging orange – white – blue around zero, and a sequential one from light to dark blue.
const mix = (a, b, share) => a.map((one, k) => Math.round(one + (b[k] - one) * share));
const ORANGE = [178, 85, 15], WHITE = [255, 255, 255], BLUE = [8, 81, 156], PALE = [247, 251, 255], NIGHT = [8, 24, 58];
const diverging = (
  share,
) => (share < 0 ? mix(WHITE, ORANGE, Math.min(1, -share)) : mix(WHITE, BLUE, Math.min(1, share)));
const sequential = (
  share,
) => (share < 0.6 ? mix(PALE, BLUE, Math.max(0, share) / 0.6) : mix(BLUE, NIGHT, (Math.min(1, share) - 0.6) / 0.4));
const bytes = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
const paint = (canvas, columns, rows, colour) => {
  Object.assign(canvas, { width: columns, height: rows });
  const context = canvas.getContext("2d"), image = context.createImageData(columns, rows);
  for (let k = 0; k < rows * columns; k++) image.data.set([...colour(k), 255], 4 * k);
  context.putImageData(image, 0, 0);
};
const cellAt = (canvas, event) => {
  const box = canvas.getBoundingClientRect(),
    inside = (share, size) => Math.max(0, Math.min(size - 1, Math.floor(share * size)));
  return [
    inside((event.clientY - box.top) / box.height, canvas.height),
    inside((event.clientX - box.left) / box.width, canvas.width),
  ];
};

for (const box of all(".heats")) {
  const given = embedded(box), packed = new Int16Array(bytes(given.values).buffer);
  const n = given.columns,
    place = (k) => {
      const low = Math.min(Math.floor(k / n), k % n), high = Math.max(Math.floor(k / n), k % n);
      return given.symmetric ? low * n - low * (low - 1) / 2 + high - low : k;
    };
  const decode = (
    at,
    k = place(at),
  ) => (packed[k] === 0 ? 0 : Math.sign(packed[k]) * 10 ** ((Math.abs(packed[k]) - 1) / 2000 - 12));
  all(".heat", box).forEach((element, k) => heat(element, given, decode, ...given.scales[k]));
}
function heat(element, given, decode, scale, low, high) {
  const canvas = element.querySelector("canvas"), log = scale === "log", colour = log ? sequential : diverging;
  const share = (
    one,
  ) => (log
    ? (Math.log10(Math.max(Math.abs(one), 1e-300)) - low) / (high - low)
    : one / Math.max(Math.abs(low), Math.abs(high)));
  paint(canvas, given.columns, given.rows, (k) => colour(share(decode(k))));
  canvas.style.aspectRatio = `${given.columns} / ${given.rows}`;
  // a short wide matrix would have rows lower than the names beside them
  if (element.querySelector(".rownames")) canvas.style.minHeight = 13 * given.rows + "px";
  const stops = [...Array(11).keys()].map((k) => `rgb(${colour(log ? k / 10 : k / 5 - 1).join(",")})`), bar = make("i");
  bar.style.background = `linear-gradient(to right, ${stops.join(",")})`;
  const name = (
    edge,
  ) => (log
    ? "10" + String(edge).replace(/[-\d]/g, (one) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(one)])
    : String(Number(edge.toPrecision(3))).replace("-", "−"));
  element.querySelector(".scale").append(name(low), bar, name(high));
  given.ticks.forEach(([start, label], k) => {
    const size = (k + 1 < given.ticks.length ? given.ticks[k + 1][0] : given.rows * given.block) - start;
    if (size < 0.05 * given.rows * given.block) return;
    const mark = make("span", { className: "mark", textContent: label });
    mark.style.top = 100 * start / given.block / given.rows + "%";
    element.querySelector(".held").append(mark);
  });
  const title = (k, axis) => {
    if (given.names && given.names[axis].length) return given.names[axis][k];
    const found = given.ticks.filter(([start]) => start <= k * given.block).pop();
    return found ? `${found[1]} ${k * given.block - found[0]}` : String(k * given.block);
  };
  let at = [0, 0];
  const show = (place) =>
    showTip(...place, pair(title(at[0], 0) + " · " + title(at[1], 1), decode(at[0] * given.columns + at[1])));
  canvas.addEventListener("pointermove", (event) => {
    at = cellAt(canvas, event);
    show([event.clientX, event.clientY]);
  });
  canvas.addEventListener("pointerleave", hideTip);
  element.addEventListener("blur", hideTip);
  element.addEventListener("keydown", (event) => {
    const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    if (!step) return;
    event.preventDefault();
    at = [
      Math.max(0, Math.min(given.rows - 1, at[0] + step[0])),
      Math.max(0, Math.min(given.columns - 1, at[1] + step[1])),
    ];
    const box = canvas.getBoundingClientRect();
    show([box.left + (at[1] + 0.5) / given.columns * box.width, box.top + (at[0] + 0.5) / given.rows * box.height]);
  });
}

let serial = 0;
const circuits = (holder, component, props) => {
  holder.id = "circuits-" + serial++;
  CircuitsVis.render(holder.id, CircuitsVis[component], props);
};
const tokenRows = (holder, props) =>
  props.values.forEach((values, k) => {
    const drawing = make("div");
    holder.append(
      props.values.length === 1
        ? drawing
        : make("div", { className: "row" }, make("b", { textContent: props.labels[k] }), drawing),
    );
    circuits(drawing, "ColoredTokens", { ...props, values, paddingBottom: 0 });
  });
const shading =
  (raw, head, n) => (k) => (k % n > Math.floor(k / n) ? [228, 228, 228] : diverging(raw[head * n * n + k] / 127 - 1));
const readout = (canvas, tokens, name, find) => {
  canvas.addEventListener("pointermove", (event) => {
    const [row, across] = cellAt(canvas, event), n = tokens.length;
    showTip(
      event.clientX,
      event.clientY,
      pair(name(), ""),
      pair("from " + row, tokens[row]),
      pair("to " + across, tokens[across]),
      pair("value", across > row ? null : find(row * n + across)),
    );
  });
  canvas.addEventListener("pointerleave", hideTip);
};
const heads = (holder, props) => {
  const raw = bytes(props.data), n = props.tokens.length, big = make("canvas"), name = make("b");
  let current = 0;
  const choose = (head) => {
    current = head;
    name.textContent = props.heads[head];
    paint(big, n, n, shading(raw, head, n));
  };
  props.heads.forEach((title, head) => {
    const small = make("canvas"), button = make("button", { type: "button" }, title, small);
    paint(small, n, n, shading(raw, head, n));
    button.addEventListener("click", () => choose(head));
    holder.append(make("span", { className: "head" }, button));
  });
  readout(big, props.tokens, () => props.heads[current], (k) => (raw[current * n * n + k] / 127 - 1) * props.max);
  holder.append(make("div", { className: "big" }, name, big));
  choose(0);
};
const compared = (holder, props) => {
  const n = props.tokens.length,
    grid = make(
      "div",
      { className: "compared" },
      make("span"),
      ...[...Array(props.heads).keys()].map((head) => make("span", { className: "top", textContent: "head " + head })),
    );
  grid.style.setProperty("--heads", props.heads);
  for (const row of props.rows) {
    const raw = bytes(row.data);
    grid.append(
      make(
        "b",
        { textContent: row.name },
        make("small", { textContent: row.max === 1 ? "" : ` ±${format(row.max)}` }),
      ),
    );
    for (let head = 0; head < props.heads; head++) {
      const canvas = make("canvas");
      paint(canvas, n, n, shading(raw, head, n));
      readout(
        canvas,
        props.tokens,
        () => `${row.name}, head ${head}`,
        (k) => (raw[head * n * n + k] / 127 - 1) * row.max,
      );
      grid.append(canvas);
    }
  }
  holder.append(grid);
};
// Tokens to step through; each shows the predictions made after it.
const predictions = (holder, props) => {
  const list = make("ol"), name = make("b"), strip = make("div", { className: "steps" });
  const choose = (k) => {
    all("button", strip).forEach((one, at) => one.setAttribute("aria-pressed", String(at === k)));
    name.textContent = `after token ${k}: ` + props.tokens[k];
    list.replaceChildren(...props.top[k].map(([word, share]) => {
      const bar = make("i"), next = k + 1 < props.tokens.length && props.tokens[k + 1] === word;
      bar.style.width = 100 * share + "%";
      return make(
        "li",
        { className: next ? "came" : "" },
        make("code", { textContent: word.replaceAll("\n", "↵") }),
        make("span", { className: "bar" }, bar),
        make("span", { textContent: format(share) }),
      );
    }));
  };
  props.tokens.forEach((word, k) => {
    const button = make("button", { type: "button", textContent: word.replaceAll("\n", "↵") }),
      own = props.own && props.own[k];
    if (typeof own === "number") {
      button.style.background = `rgba(0, 114, 178, ${(0.6 * own).toFixed(2)})`;
      button.title = "probability " + format(own);
    }
    button.addEventListener("click", () => choose(k));
    strip.append(button, ...(word.includes("\n") ? [make("br")] : []));
  });
  strip.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key],
      buttons = all("button", strip),
      at = buttons.indexOf(document.activeElement);
    if (!step || at < 0) return;
    event.preventDefault();
    const next = buttons[Math.max(0, Math.min(buttons.length - 1, at + step))];
    next.focus();
    next.click();
  });
  holder.append(strip, name, list);
  choose(props.tokens.length - 1);
};
const drawVisual = (element) => {
  if (element.dataset.drawn) return;
  element.dataset.drawn = "yes";
  const holder = element.querySelector(".drawing"), props = embedded(element), component = element.dataset.component;
  if (component === "ColoredTokens") tokenRows(holder, props);
  else if (component === "Heads") heads(holder, props);
  else if (component === "Compare") compared(holder, props);
  else if (component === "Logits") predictions(holder, props);
  else circuits(holder, component, props);
};
for (const tabs of all(".tabs")) {
  all(".choices button", tabs).forEach((button, k, buttons) =>
    button.addEventListener("click", () => {
      buttons.forEach((one) => one.setAttribute("aria-pressed", String(one === button)));
      all(".choice", tabs).forEach((one, at) => {
        one.hidden = at !== k;
      });
    })
  );
}
const watcher = new IntersectionObserver(
  (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => drawVisual(entry.target)),
  { rootMargin: "600px" },
);
for (const element of all(".visual")) watcher.observe(element);
addEventListener("beforeprint", () => all(".visual").forEach(drawVisual));
