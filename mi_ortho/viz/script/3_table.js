const titles = { match: "match", what: "what", index: "index", status: "status", norm: "norm", norm_shrunk: "norm shrunk", loss: "loss L", kl_base_vector: "KL base‖vector",
  kl_vector_base: "KL vector‖base", log_odds: "log-odds", mode: "behaviour", keeps: "keeps", transfer: "transfer", text: "completion" };
const PAGE = 60;
for (const explorer of all(".explorer")) select(explorer.dataset.match, 0);

const table = document.getElementById("rows");
if (table) {
  const state = { sort: null, down: false, full: false };
  const filters = Object.fromEntries(all("[data-filter]").map((one) => [one.dataset.filter, one]));
  for (const name of ["match", "what", "mode"]) {
    const found = [...new Set(data.rows.map((row) => value(row, name)).filter((one) => one !== null))].map((one) => (one.startsWith("held out: ") ? "held out" : one));
    for (const one of new Set(found)) filters[name].append(make("option", { value: one, textContent: one }));
  }
  const chosen = () => {
    const wanted = filters.text.value.toLowerCase();
    const fits = (row, name) => !filters[name].value || value(row, name) === filters[name].value || (name === "what" && filters.what.value === "held out" && value(row, name).startsWith("held out: "));
    const rows = data.rows.filter((row) => ["match", "what", "mode"].every((name) => fits(row, name)) && (!wanted || value(row, "text").toLowerCase().includes(wanted)));
    if (state.sort === null) return rows;
    const order = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b);
    const [known, unknown] = [rows.filter((row) => row[state.sort] !== null), rows.filter((row) => row[state.sort] === null)];
    known.sort((a, b) => (state.down ? -1 : 1) * order(a[state.sort], b[state.sort]));
    return [...known, ...unknown];
  };
  const cell = (row, name) => {
    const one = value(row, name);
    if (name === "mode") return make("td", {}, ...(one === null ? [] : [chip(one)]));
    if (name !== "text") return make("td", { className: typeof one === "number" ? "n" : "", textContent: format(one) });
    const text = make("div", { textContent: one, tabIndex: 0, dir: "auto", title: "Click to open or close" }), flip = () => text.classList.toggle("open");
    text.addEventListener("click", flip);
    text.addEventListener("keydown", (event) => { if (event.key === "Enter") flip(); });
    return make("td", { className: "text" }, text);
  };
  const draw = () => {
    const rows = chosen(), shown = state.full ? rows : rows.slice(0, PAGE);
    table.tBodies[0].replaceChildren(...shown.map((row) => make("tr", {}, ...data.fields.map((name) => cell(row, name)))));
    document.getElementById("shown").textContent = `${shown.length} of ${rows.length} rows shown`;
    document.getElementById("more").hidden = shown.length === rows.length;
    all("th", table).forEach((head, k) => head.setAttribute("aria-sort", k !== state.sort ? "none" : state.down ? "descending" : "ascending"));
  };
  table.tHead.append(make("tr", {}, ...data.fields.map((name, k) => {
    const button = make("button", { type: "button", textContent: titles[name] || name });
    button.addEventListener("click", () => { state.down = state.sort === k && !state.down; state.sort = k; draw(); });
    return make("th", { scope: "col" }, button);
  })));
  for (const one of Object.values(filters)) one.addEventListener("input", () => { state.full = false; draw(); });
  document.getElementById("more").addEventListener("click", () => { state.full = true; draw(); });
  document.getElementById("csv").addEventListener("click", () => {
    const quote = (one) => {
      const text = one === null ? "" : String(one), inert = typeof one === "string" && /^[=+\-@\t\r]/.test(text) ? "'" + text : text;
      return /[",\n\r]/.test(inert) ? '"' + inert.replaceAll('"', '""') + '"' : inert;
    };
    const lines = [data.fields, ...chosen()].map((row) => row.map(quote).join(","));
    const link = make("a", { href: URL.createObjectURL(new Blob(["\ufeff" + lines.join("\r\n")], { type: "text/csv" })), download: "measurements.csv" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  filters.what.value = data.rows.some((row) => value(row, "what") === "family") ? "family" : "";
  draw();
}
