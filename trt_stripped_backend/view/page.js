
"use strict";
// All text of the report reaches the page by textContent or createTextNode: nothing of it is read as HTML.
const { report, graphs } = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const $ = (id) => document.getElementById(id);

function html(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.filter((one) => one !== null && one !== undefined));
  return element;
}
function svg(tag, attributes = {}, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}
const short = (op) => op.replace(/^aten\./, "");
const cut = (text, length) => (text.length > length ? text.slice(0, length - 1) + "…" : text);
const bytes = (count) => (count >= 1e9 ? `${(count / 1e9).toFixed(2)} GB` : count >= 1e5 ? `${(count / 1e6).toFixed(2)} MB`
  : count >= 1e3 ? `${(count / 1e3).toFixed(1)} kB` : `${count} B`);
const counted = (ops) => Object.entries(ops).sort((a, b) => b[1] - a[1]).map(([op, n]) => `${short(op)}×${n}`).join(", ");
/** Parts of a key; nodes of the graph are too many to be named. */
const parts = (differs) => {
  const named = differs.filter((one) => !/^(node |graph\.)/.test(one)), rest = differs.length - named.length;
  return [...(rest > 4 ? [`the graph, in ${rest} places`] : differs.filter((one) => !named.includes(one))), ...named].join(", ");
};
const sum = (list, of) => list.reduce((total, one) => total + of(one), 0);
const engineOf = (graph, name) => report.partitions.findLast((one) => one.graph === graph && one.name === name);

// ---------------------------------------------------------------------------------------------- layout

/** Places items in layers, each below what it takes. Items have w and h, edges are pairs of places in the list. */
function layered(items, edges, gapX = 18, gapY = 30) {
  const from = items.map(() => []), to = items.map(() => []);
  for (const [a, b] of edges) { to[a].push(b); from[b].push(a); }
  const rank = items.map(() => 0), missing = from.map((one) => one.length), ready = [];
  missing.forEach((count, i) => { if (!count) ready.push(i); });
  const order = [];
  while (ready.length) {
    const one = ready.pop();
    order.push(one);
    for (const user of to[one]) {
      rank[user] = Math.max(rank[user], rank[one] + 1);
      if (!--missing[user]) ready.push(user);
    }
  }
  for (const one of order) if (!from[one].length && to[one].length) rank[one] = Math.min(...to[one].map((u) => rank[u])) - 1;

  // An edge over several layers goes through points, which all edges of one item share.
  const points = items.map((item, i) => ({ w: item.w, h: item.h, rank: rank[i], up: [], down: [], x: 0 }));
  const through = new Map();
  const link = (a, b) => { points[a].down.push(b); points[b].up.push(a); };
  const point = (item, layer) => {
    if (layer === rank[item]) return item;
    const name = `${item}/${layer}`;
    if (!through.has(name)) {
      through.set(name, points.length);
      points.push({ w: 4, h: 0, rank: layer, up: [], down: [], x: 0 });
      link(point(item, layer - 1), through.get(name));
    }
    return through.get(name);
  };
  const long = sum(edges, ([a, b]) => rank[b] - rank[a]) > 60000;
  for (const [a, b] of edges) {
    if (!long) for (let layer = rank[a] + 1; layer < rank[b] - 1; layer++) point(a, layer);
    link(long ? a : point(a, rank[b] - 1), b);
  }

  const layers = [];
  points.forEach((one, i) => (layers[one.rank] ??= []).push(i));
  const place = new Array(points.length);
  const number = () => layers.forEach((layer) => layer.forEach((one, i) => { place[one] = i; }));
  number();
  const mean = (list, of) => (list.length ? sum(list, of) / list.length : null);
  for (let sweep = 0; sweep < 4; sweep++) {
    const side = sweep % 2 ? "down" : "up";
    for (const layer of sweep % 2 ? [...layers].reverse() : layers) {
      const wanted = new Map(layer.map((one) => [one, mean(points[one][side], (i) => place[i]) ?? place[one]]));
      layer.sort((a, b) => wanted.get(a) - wanted.get(b) || place[a] - place[b]);
      layer.forEach((one, i) => { place[one] = i; });
    }
  }
  // Towards the middle of the neighbours: pushed to the right from the left, to the left from the right, then the mean.
  for (const layer of layers) {
    let x = 0;
    for (const one of layer) { points[one].x = x + points[one].w / 2; x += points[one].w + gapX; }
    const half = (x - gapX) / 2;
    for (const one of layer) points[one].x -= half;
  }
  for (let sweep = 0; sweep < 6; sweep++) {
    for (const layer of sweep % 2 ? [...layers].reverse() : layers) {
      const wanted = layer.map((one) => mean([...points[one].up, ...points[one].down], (i) => points[i].x) ?? points[one].x);
      const apart = (i) => (points[layer[i - 1]].w + points[layer[i]].w) / 2 + gapX;
      const right = [...wanted], left = [...wanted];
      for (let i = 1; i < layer.length; i++) right[i] = Math.max(right[i], right[i - 1] + apart(i));
      for (let i = layer.length - 1; i > 0; i--) left[i - 1] = Math.min(left[i - 1], left[i] - apart(i));
      layer.forEach((one, i) => { points[one].x = (right[i] + left[i]) / 2; });
    }
  }
  let y = 0, low = Infinity, high = -Infinity;
  for (const layer of layers) {
    const height = Math.max(...layer.map((one) => points[one].h));
    for (const one of layer) {
      points[one].y = y;
      points[one].bottom = y + height;
      low = Math.min(low, points[one].x - points[one].w / 2);
      high = Math.max(high, points[one].x + points[one].w / 2);
    }
    y += height + gapY;
  }
  for (const one of points) one.x -= low;
  const line = ([a, b]) => {
    const end = points[b], way = [[points[a].x, points[a].y + points[a].h]];
    if (points[a].bottom > way[0][1]) way.push([points[a].x, points[a].bottom]);
    for (let layer = rank[a] + 1; !long && layer < rank[b]; layer++) {
      const one = points[through.get(`${a}/${layer}`)];
      way.push([one.x, one.y], [one.x, one.bottom]);
    }
    way.push([end.x, end.y]);
    return way.map(([px, py], i) => {
      if (!i) return `M${px},${py}`;
      const middle = (way[i - 1][1] + py) / 2;
      return px === way[i - 1][0] ? `V${py}` : `C${way[i - 1][0]},${middle} ${px},${middle} ${px},${py}`;
    }).join("");
  };
  return { at: items.map((_, i) => points[i]), lines: edges.map(line), w: Math.max(high - low, 0), h: Math.max(y - gapY, 0) };
}

// ---------------------------------------------------------------------------------------------- graph

const CHAR = 7.3, PAD = 14, HEAD = 30;

class Graph {
  constructor(data, index) {
    Object.assign(this, data, { index, zoom: 1, found: new Set(), here: null });
    this.inside = this.boxes.map(() => []);
    this.nodes.forEach((node, i) => { if (node.box !== undefined) this.inside[node.box].push(i); });
    const small = this.nodes.length <= 80;
    this.open = new Set(this.boxes.flatMap((name, box) => (small || (!name && this.inside[box].length <= 6) ? [box] : [])));
    this.canvas = html("div", { class: "canvas" });
    this.view = html("div", {}, this.tools(), this.canvas);
    this.draw();
  }

  tools() {
    const button = (text, label, act) => {
      const one = html("button", { type: "button", "aria-label": label, title: label }, text);
      one.addEventListener("click", act);
      return one;
    };
    const key = (kind, text) => html("span", {}, html("i", { class: kind }), text);
    return html("div", { class: "tools" },
      html("h2", {}, graphs.length > 1 ? `Graph ${this.index}` : "Graph"),
      button("Open all", "Show what is inside every box", () => { this.boxes.forEach((_, b) => this.open.add(b)); this.draw(); }),
      button("Close all", "Show boxes only", () => { this.open.clear(); this.draw(); }),
      button("−", "Smaller", () => this.scale(this.zoom / 1.25)),
      button("+", "Larger", () => this.scale(this.zoom * 1.25)),
      button("Fit", "Fit the width", () => this.scale(Math.min(1.5, (this.canvas.clientWidth - 4) / this.w))),
      html("span", { class: "legend" }, key("engine", "engine"), key("torch", "PyTorch"), key("end", "input, output")));
  }

  scale(zoom) {
    this.zoom = Math.min(3, Math.max(0.05, zoom));
    this.svg.setAttribute("width", this.w * this.zoom);
    this.svg.setAttribute("height", this.h * this.zoom);
  }

  /** A box of one node is drawn as that node. */
  alone(box) { return this.inside[box].length === 1 && !this.boxes[box]; }

  draw() {
    const items = [], item = new Map();
    const sized = (i) => {
      const label = cut(short(this.nodes[i].op), 30), value = cut(this.nodes[i].value ?? "", 30);
      return { w: Math.max(label.length, (value.length * 11) / 12) * CHAR + PAD, h: value ? 36 : 22, label, value, node: i };
    };
    const add = (what) => items.push(what) - 1;
    this.nodes.forEach((node, i) => {
      if (node.box === undefined || this.alone(node.box)) item.set(i, add(sized(i)));
      else if (!item.has(this.inside[node.box][0])) {
        const place = add(this.box(node.box, sized));
        for (const one of this.inside[node.box]) item.set(one, place);
      }
    });
    const seen = new Set(), edges = [];
    this.nodes.forEach((node, i) => (node.inputs ?? []).forEach((input) => {
      const [a, b] = [item.get(input), item.get(i)], name = `${a}/${b}`;
      if (a !== b && !seen.has(name)) { seen.add(name); edges.push([a, b]); }
    }));
    const plan = layered(items, edges, 26, 38);
    const margin = 16;
    this.w = plan.w + 2 * margin;
    this.h = plan.h + 2 * margin;
    this.svg = svg("svg", { viewBox: `0 0 ${this.w} ${this.h}`, role: "group", "aria-label": `Graph ${this.index}` });
    this.drawn = new Map();
    this.near = new Map();
    const top = svg("g", { transform: `translate(${margin},${margin})` });
    this.svg.append(top);
    this.lines(top, plan, edges, items);
    items.forEach((one, i) => {
      const { x, y } = plan.at[i];
      top.append(one.box === undefined ? this.node(one, x - one.w / 2, y) : this.boxed(one, x - one.w / 2, y));
    });
    this.canvas.replaceChildren(this.svg);
    this.scale(this.zoom);
    this.mark();
  }

  box(box, sized) {
    const inside = this.inside[box], engine = engineOf(this.index, this.boxes[box]);
    const plural = inside.length === 1 ? "operator" : "operators";
    const label = `${this.boxes[box] || "PyTorch"}: ${inside.length} ${plural}`;
    const ops = {};
    for (const i of inside) ops[this.nodes[i].op] = (ops[this.nodes[i].op] ?? 0) + 1;
    const sub = this.boxes[box]
      ? [engine?.status, engine?.plan_bytes ? `${bytes(engine.plan_bytes)} plan` : ""].filter(Boolean).join(", ")
      : cut(counted(ops), 40);
    const one = { box, label, sub, w: Math.max(label.length + 3, sub.length + 1) * CHAR + PAD, h: 44 };
    if (!this.open.has(box)) return one;
    const place = new Map(inside.map((i, n) => [i, n]));
    one.items = inside.map(sized);
    one.edges = inside.flatMap((i) => (this.nodes[i].inputs ?? []).filter((j) => place.has(j)).map((j) => [place.get(j), place.get(i)]));
    one.plan = layered(one.items, one.edges);
    one.w = Math.max(one.w, one.plan.w + 24);
    one.h = one.plan.h + HEAD + 12;
    return one;
  }

  lines(parent, plan, edges, items) {
    const name = (one) => (one.box === undefined ? `n${one.node}` : `b${one.box}`);
    plan.lines.forEach((d, i) => {
      const path = svg("path", { class: "edge", d });
      parent.append(path);
      for (const end of edges[i]) {
        const key = name(items[end]);
        if (!this.near.has(key)) this.near.set(key, []);
        this.near.get(key).push(path);
      }
    });
  }

  node(one, x, y) {
    const data = this.nodes[one.node];
    const kind = data.box === undefined ? "end" : this.boxes[data.box] ? "engine" : "torch";
    const group = svg("g", { class: `node ${kind}`, transform: `translate(${x},${y})` });
    group.append(svg("rect", { width: one.w, height: one.h }), svg("text", { x: 7, y: 15 }, one.label));
    if (one.value) group.append(svg("text", { x: 7, y: 29, class: "sub" }, one.value));
    this.drawn.set(`n${one.node}`, group);
    this.hover(group, `n${one.node}`, () => about(data, this.boxes[data.box]));
    return group;
  }

  boxed(one, x, y) {
    const name = this.boxes[one.box], engine = engineOf(this.index, name), open = this.open.has(one.box);
    const kind = `box ${name ? "engine" : "torch"}${open ? " open" : ""}${engine?.status === "failed" ? " failed" : ""}`;
    const group = svg("g", { class: kind, transform: `translate(${x},${y})` });
    const title = svg("g", { class: "title", tabindex: 0, role: "button", "aria-expanded": open, "aria-label": one.label });
    title.append(
      svg("rect", { width: one.w, height: open ? HEAD : one.h, "fill-opacity": 0, "stroke-opacity": 0 }),
      svg("text", { x: 9, y: 19 }, `${open ? "▾" : "▸"} ${one.label}`));
    if (!open) title.append(svg("text", { x: 9, y: 35, class: "sub" }, one.sub));
    const toggle = () => {
      if (!this.open.delete(one.box)) this.open.add(one.box);
      const { scrollLeft, scrollTop } = this.canvas;
      this.draw();
      this.canvas.scrollTo(scrollLeft, scrollTop);
      this.drawn.get(`b${one.box}`).querySelector(".title").focus({ preventScroll: true });
    };
    title.addEventListener("click", toggle);
    title.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); toggle(); }
    });
    group.append(svg("rect", { width: one.w, height: one.h }), title);
    this.drawn.set(`b${one.box}`, group);
    this.hover(title, `b${one.box}`, () => aboutBox(one.label, one.sub, engine));
    if (open) {
      const inner = svg("g", { transform: `translate(${12 + (one.w - 24 - one.plan.w) / 2},${HEAD})` });
      this.lines(inner, one.plan, one.edges, one.items);
      one.items.forEach((item, i) => inner.append(this.node(item, one.plan.at[i].x - item.w / 2, one.plan.at[i].y)));
      group.append(inner);
    }
    return group;
  }

  hover(element, key, tell) {
    const near = (on) => (this.near.get(key) ?? []).forEach((path) => path.classList.toggle("near", on));
    element.addEventListener("pointerenter", (event) => { near(true); show(tell(), event.clientX, event.clientY); });
    element.addEventListener("pointermove", (event) => move(event.clientX, event.clientY));
    element.addEventListener("pointerleave", () => { near(false); $("tip").hidden = true; });
  }

  // Search: `found` are places of nodes.
  search(words) {
    const text = (node) => [node.name, node.op, node.value, node.where, node.code, node.reason, ...(node.weights ?? []),
      this.boxes[node.box] ?? ""].join("\n").toLowerCase();
    this.texts ??= this.nodes.map(text);
    this.found = new Set(words ? this.texts.flatMap((one, i) => (one.includes(words) ? [i] : [])) : []);
    this.here = null;
    this.mark(Boolean(words));
    return this.found.size;
  }

  mark(searching = this.found.size > 0) {
    this.svg.classList.toggle("searching", searching);
    for (const [, element] of this.drawn) element.classList.remove("found", "here");
    for (const i of this.found) (this.drawn.get(`n${i}`) ?? this.drawn.get(`b${this.nodes[i].box}`))?.classList.add("found");
    if (this.here !== null) this.drawn.get(`n${this.here}`)?.classList.add("here");
  }

  /** Opens the box of a node that was found and brings the node into view. */
  go(i) {
    const { box } = this.nodes[i];
    this.here = i;
    if (box !== undefined && !this.open.has(box) && !this.alone(box)) { this.open.add(box); this.draw(); }
    this.mark();
    this.reveal(`n${i}`);
  }

  reveal(key) {
    this.view.scrollIntoView({ block: "nearest" });
    const one = this.drawn.get(key).getBoundingClientRect(), frame = this.canvas.getBoundingClientRect();
    this.canvas.scrollBy(one.left + one.width / 2 - frame.left - frame.width / 2,
      one.top + Math.min(one.height, frame.height) / 2 - frame.top - frame.height / 2);
  }
}

// ---------------------------------------------------------------------------------------------- hints

const line = (tag, text, kind) => (text ? html(tag, kind ? { class: kind } : {}, text) : null);

function about(node, engine) {
  const home = node.box === undefined ? "" : engine ? `in ${engine}` : "in PyTorch";
  return [line("b", node.op), line("span", [node.name, home].filter(Boolean).join(", "), "soft"), line("code", node.value),
    ...(node.weights ?? []).map((one) => line("span", `weight ${one}`)), line("span", node.reason, "why"),
    line("span", node.where, "soft"), line("code", node.code)];
}

function aboutBox(label, sub, engine) {
  if (!engine) return [line("b", label), line("span", sub)];
  const why = engine.differs.length ? `nearest entry differs in: ${parts(engine.differs)}` : "";
  return [line("b", label), line("span", sub), line("span", `key ${engine.key.slice(0, 12)}`, "soft"),
    line("span", counted(engine.ops)), line("span", why, "why")];
}

function show(lines, x, y) {
  $("tip").replaceChildren(...lines.filter(Boolean));
  $("tip").hidden = false;
  move(x, y);
}

function move(x, y) {
  const { offsetWidth: w, offsetHeight: h } = $("tip");
  $("tip").style.left = `${Math.max(4, Math.min(x + 14, innerWidth - w - 8))}px`;
  $("tip").style.top = `${y + 18 + h > innerHeight ? Math.max(4, y - h - 12) : y + 18}px`;
}

// ---------------------------------------------------------------------------------------------- tables

function table(title, columns, rows) {
  const head = columns.map(([name, kind]) => html("th", kind ? { class: kind, scope: "col" } : { scope: "col" }, name));
  const body = rows.map((cells) => html("tr", {}, ...cells.map((cell, i) => html("td", columns[i][1] ? { class: columns[i][1] } : {}, cell))));
  return [html("h2", {}, title), html("div", { class: "wide" }, html("table", {}, html("thead", {}, html("tr", {}, ...head)), html("tbody", {}, ...body)))];
}
const code = (text) => html("code", {}, text);
const lines = (...parts) => {
  const whole = html("div");
  whole.append(...parts.filter(Boolean).flatMap((part, i) => (i ? [html("br"), part] : [part])));
  return whole;
};

function summary() {
  const inside = report.nodes_in_engines, all = report.nodes, engines = report.partitions;
  const status = {};
  for (const one of engines) status[one.status] = (status[one.status] ?? 0) + 1;
  const card = (big, text, extra) => html("div", { class: "card" }, html("b", {}, big), html("span", {}, text), extra);
  const share = svg("svg", { class: "bar", width: "100%", height: 6, viewBox: "0 0 100 6", preserveAspectRatio: "none", role: "presentation" });
  share.append(svg("rect", { width: all ? (100 * inside) / all : 0, height: 6 }));
  const saved = sum(engines, (one) => one.saved_seconds), spent = sum(engines, (one) => (one.status === "miss" ? 0 : one.seconds));
  const plans = sum(engines, (one) => one.plan_bytes), weights = bytes(sum(engines, (one) => one.weight_bytes));
  $("summary").append(html("div", { class: "cards" },
    card(`${inside} of ${all}`, "operators in engines", all ? share : null),
    card(`${engines.length}`, `engines: ${Object.entries(status).map(([name, n]) => `${n} ${name}`).join(", ") || "none"}`),
    plans ? card(bytes(plans), `plans, for ${weights} of weights`) : card(weights, "of weights in engines"),
    spent ? card(`${spent.toFixed(2)} s`, saved ? `spent, ${saved.toFixed(2)} s saved by the cache` : "spent on engines") : null,
    card(report.mode || "none", report.mode ? `refit mode: ${report.why}` : "no engines"),
    card(`${report.derived}`, "derived weights"),
    report.graphs > 1 ? card(`${report.graphs}`, "graphs: the model breaks the graph") : null));
}

function engines() {
  if (!report.partitions.length) return;
  const rows = report.partitions.map((one) => {
    const name = html("button", { type: "button", title: "Show it in the graph" }, (report.graphs > 1 ? `graph ${one.graph}, ` : "") + one.name);
    const graph = drawn[one.graph];
    name.addEventListener("click", () => graph.reveal(`b${graph.boxes.indexOf(one.name)}`));
    const status = html("span", { class: `status ${one.status}` }, one.status);
    const why = one.differs.length ? html("span", { class: "soft" }, `nearest entry differs in: ${parts(one.differs)}`) : null;
    return [graph ? name : one.name, status, `${one.nodes}`, one.seconds.toFixed(2), one.saved_seconds ? one.saved_seconds.toFixed(2) : "",
      one.plan_bytes ? bytes(one.plan_bytes) : "", `${bytes(one.weight_bytes)} in ${one.weights}`, code(one.key.slice(0, 12)), lines(counted(one.ops), why)];
  });
  $("engines").append(...table("Engines", [["engine"], ["status"], ["operators", "number"], ["seconds", "number"], ["saved", "number"],
    ["plan", "number"], ["weights", "number"], ["key", "number"], ["of", "long"]], rows));
}

function rejections() {
  const groups = new Map();
  for (const one of report.rejections) {
    const name = JSON.stringify([one.kind, one.reason]);
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(one);
  }
  if (!groups.size) return;
  const rows = [...groups.values()].sort((a, b) => b.length - a.length).map((group) => {
    const ops = {};
    for (const one of group) ops[one.target] = (ops[one.target] ?? 0) + 1;
    const item = (one) => html("li", {}, code(one.node || one.target), one.where ? ` ${one.where} ` : "", one.code ? code(one.code) : "");
    const list = html("details", group.length < 4 ? { open: "" } : {}, html("summary", {}, group.length === 1 ? "1 node" : `${group.length} nodes`), html("ul", {}, ...group.map(item)));
    return [group[0].reason, group[0].kind, `${group.length}`, counted(ops), list];
  });
  $("rejections").append(...table("In PyTorch", [["reason", "long"], ["kind"], ["operators", "number"], ["of"], ["where", "long"]], rows));
}

function derived() {
  if (!report.derived_weights.length) return;
  const rows = report.derived_weights.map((one) => [code(one.name), code(one.value), one.sources.join(", "), counted(one.ops)]);
  $("derived").append(...table("Derived weights: computed in PyTorch when a parameter changes",
    [["weight"], ["value"], ["from", "long"], ["by", "long"]], rows));
}

// ---------------------------------------------------------------------------------------------- search

function search() {
  const words = $("search").value.trim().toLowerCase();
  let rows = 0;
  for (const row of document.querySelectorAll("tbody tr")) {
    row.hidden = Boolean(words) && !row.textContent.toLowerCase().includes(words);
    rows += !row.hidden;
  }
  const nodes = sum(drawn, (graph) => graph.search(words));
  $("found").textContent = words ? `${nodes} nodes, ${rows} rows` : "";
  step.place = -1;
}

function step(back) {
  const all = drawn.flatMap((graph) => [...graph.found].map((i) => [graph, i]));
  if (!all.length) return;
  step.place = (step.place + (back ? -1 : 1) + all.length) % all.length;
  const [graph, i] = all[step.place];
  for (const other of drawn) if (other !== graph) { other.here = null; other.mark(); }
  graph.go(i);
  $("found").textContent = `${step.place + 1} of ${all.length} nodes`;
}
step.place = -1;

$("head").textContent = report.mode ? `${report.flavour}, refit mode ${report.mode}` : report.flavour;
const drawn = graphs.map((graph, i) => new Graph(graph, i));
$("graph").append(...drawn.map((graph) => graph.view));
for (const graph of drawn) if (graph.w > graph.canvas.clientWidth) graph.scale(Math.max(0.4, (graph.canvas.clientWidth - 4) / graph.w));
summary();
engines();
rejections();
derived();
let wait = 0;
$("search").addEventListener("input", () => { clearTimeout(wait); wait = setTimeout(search, 120); });
$("search").addEventListener("keydown", (event) => {
  if (event.key === "Enter") { event.preventDefault(); clearTimeout(wait); if ($("search").value.trim() && !drawn.some((g) => g.found.size)) search(); step(event.shiftKey); }
  if (event.key === "Escape") { $("search").value = ""; search(); }
});
