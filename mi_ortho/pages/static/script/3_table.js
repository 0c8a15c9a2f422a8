const titles = {
  match: "match",
  what: "what",
  index: "index",
  status: "status",
  norm: "norm",
  norm_shrunk: "norm shrunk",
  loss: "loss L",
  kl_base_vector: "KL base‖vector",
  kl_vector_base: "KL vector‖base",
  log_odds: "log-odds",
  mode: "behaviour",
  keeps: "keeps",
  transfer: "transfer",
  text: "completion",
};
const PAGE = 60;
for (const explorer of all(".explorer")) select(explorer.dataset.match, 0);

// A table of the page's own rows, or of the rows it brings along.
for (const box of all(".data")) {
  const own = box.querySelector('script[type="application/json"]'),
    given = own
      ? JSON.parse(own.textContent)
      : { ...data, name: "measurements", long: ["text"], chips: ["mode"], first: "family" };
  Object.assign(modes, given.modes);
  const table = box.querySelector("table"),
    more = box.querySelector(".more"),
    at = Object.fromEntries(given.fields.map((name, k) => [name, k]));
  const state = { sort: null, down: false, full: false };
  const inputs = all("[data-filter]", box),
    choices = inputs.filter((one) => one.tagName === "SELECT"),
    search = inputs.find((one) => one.tagName === "INPUT");
  const short = (one) => (String(one).startsWith("held out: ") ? "held out" : one);
  for (const one of choices) {
    const found = given.rows.map((row) => row[at[one.dataset.filter]]).filter((each) => each !== null);
    for (const each of new Set(found.map(short))) one.append(make("option", { value: each, textContent: each }));
  }
  const chosen = () => {
    const wanted = search ? search.value.toLowerCase() : "",
      places = search && search.dataset.filter ? [at[search.dataset.filter]] : given.fields.map((_, k) => k);
    const fits = (row, one) =>
      !one.value || row[at[one.dataset.filter]] === one.value ||
      (one.value === "held out" && short(row[at[one.dataset.filter]]) === one.value);
    const rows = given.rows.filter((row) =>
      choices.every((one) => fits(row, one)) &&
      (!wanted || places.some((k) => typeof row[k] === "string" && row[k].toLowerCase().includes(wanted)))
    );
    if (state.sort === null) return rows;
    const order = (
      a,
      b,
    ) => (typeof a === "string" || typeof b === "string" ? String(a).localeCompare(String(b)) : a - b);
    const [known, unknown] = [
      rows.filter((row) => row[state.sort] !== null),
      rows.filter((row) => row[state.sort] === null),
    ];
    known.sort((a, b) => (state.down ? -1 : 1) * order(a[state.sort], b[state.sort]));
    return [...known, ...unknown];
  };
  const counts = given.fields.map((_, k) =>
    given.rows.some((row) => typeof row[k] === "number") &&
    given.rows.every((row) => row[k] === null || typeof row[k] === "number")
  );
  const links = given.links || {}, numbered = new Map(given.rows.map((row, k) => [row, k]));
  const cell = (one, name, row) => {
    const link = links[name] && links[name][numbered.get(row)];
    if (link) return make("td", { className: "link" }, make("a", { href: link, textContent: format(one) }));
    if (given.chips.includes(name)) return make("td", {}, ...(one === null ? [] : [chip(one)]));
    if (!given.long.includes(name)) {
      return make("td", {
        className: typeof one === "number" || counts[at[name]] ? "n" : "",
        textContent: format(one),
      });
    }
    const text = make("div", {
        textContent: one === null ? "–" : one,
        tabIndex: 0,
        dir: "auto",
        title: "Click to open or close",
      }),
      flip = () => text.classList.toggle("open");
    text.addEventListener("click", flip);
    text.addEventListener("keydown", (event) => {
      if (event.key === "Enter") flip();
    });
    return make("td", { className: "text" }, text);
  };
  const draw = () => {
    const rows = chosen(), shown = state.full ? rows : rows.slice(0, PAGE);
    table.tBodies[0].replaceChildren(
      ...shown.map((row) => make("tr", {}, ...given.fields.map((name, k) => cell(row[k], name, row)))),
    );
    box.querySelector(".shown").textContent = `${shown.length} of ${rows.length} rows shown`;
    more.hidden = shown.length === rows.length;
    all("th", table).forEach((head, k) =>
      head.setAttribute("aria-sort", k !== state.sort ? "none" : state.down ? "descending" : "ascending")
    );
  };
  table.tHead.append(make(
    "tr",
    {},
    ...given.fields.map((name, k) => {
      const button = make("button", { type: "button", textContent: (given.titles || titles)[name] || name });
      button.addEventListener("click", () => {
        state.down = state.sort === k && !state.down;
        state.sort = k;
        draw();
      });
      return make("th", { scope: "col", className: counts[k] ? "n" : "" }, button);
    }),
  ));
  for (const one of inputs) {
    one.addEventListener("input", () => {
      state.full = false;
      draw();
    });
  }
  more.addEventListener("click", () => {
    state.full = true;
    draw();
  });
  box.querySelector(".csv").addEventListener("click", () => {
    const quote = (one) => {
      const text = one === null ? "" : String(one),
        inert = typeof one === "string" && /^[=+\-@\t\r]/.test(text) ? "'" + text : text;
      return /[",\n\r]/.test(inert) ? '"' + inert.replaceAll('"', '""') + '"' : inert;
    };
    const lines = [given.fields, ...chosen()].map((row) => row.map(quote).join(","));
    const link = make("a", {
      href: URL.createObjectURL(new Blob(["\ufeff" + lines.join("\r\n")], { type: "text/csv" })),
      download: given.name + ".csv",
    });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  for (const one of choices) {
    if (given.first && all("option", one).some((each) => each.value === given.first)) one.value = given.first;
  }
  draw();
}
