// deno-lint-ignore-file no-unused-vars -- the other parts of the script use what stands here
const data = JSON.parse(document.getElementById("data").textContent);
for (const [field, names] of Object.entries(data.levels || {})) {
  const k = data.fields.indexOf(field);
  for (const row of data.rows) row[k] = names[row[k]];
}
const modes = { ...data.modes };
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const embedded = (element) => JSON.parse(element.querySelector('script[type="application/json"]').textContent);
const format = (value) => {
  if (value === null || value === undefined || value === "") return "–";
  if (value === true) return "yes";
  if (value === false) return "no";
  if (typeof value !== "number") return value;
  if (Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  return size >= 1e-3 && size < 1e5 ? String(Number(value.toPrecision(3))) : value.toExponential(2);
};
const chip = (mode) => make("span", { className: "chip " + (modes[mode] || "m7"), textContent: mode });
const pair = (name, value) =>
  make("div", {}, make("span", { textContent: name }), make("span", {}, value instanceof Node ? value : format(value)));

const tip = document.getElementById("tip");
const showTip = (x, y, ...content) => {
  tip.replaceChildren(...content);
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = Math.max(4, Math.min(x + 14, innerWidth - box.width - 4)) + "px";
  tip.style.top = Math.max(4, y + 16 + box.height > innerHeight ? y - box.height - 12 : y + 16) + "px";
};
const hideTip = () => {
  tip.hidden = true;
};
const below = (element, share = 0.5) => {
  const box = element.getBoundingClientRect();
  return [box.left + share * box.width, Math.min(box.bottom, innerHeight - 40)];
};

const theme = document.getElementById("theme");
if (theme) {
  theme.addEventListener("click", () => {
    const root = document.documentElement, dark = getComputedStyle(root).colorScheme.includes("dark");
    root.dataset.theme = dark ? "light" : "dark";
  });
}
for (const button of all("[data-copy]")) {
  button.addEventListener("click", () => {
    const source = document.getElementById(button.dataset.copy), selection = getSelection();
    selection.selectAllChildren(source);
    const copied = navigator.clipboard ? navigator.clipboard.writeText(source.textContent) : Promise.reject();
    copied.then(() => {
      button.textContent = "Copied";
    }, () => {
      document.execCommand("copy");
      button.textContent = "Copied";
    });
  });
}
addEventListener("keydown", (event) => {
  if (event.key === "Escape") hideTip();
});
