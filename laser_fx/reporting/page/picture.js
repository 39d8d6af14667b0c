// The rolled graph as an interactive picture: laid out by dagre, drawn as SVG, walked with the arrow keys.

const PICTURE_MOST = 32; // things that are seen at first
const TITLE = 18; // pixels of the title of an open box
const PICTURE_ALL = 200; // and when all is opened: a layout of more takes seconds

const picture = { graph: null, zoom: 1, size: [0, 0], focus: "" };

function startPicture() {
  if (!page.picture || !byId("picture")) return;
  picture.graph = buildNest(page.picture);
  openUpTo(picture.graph.root, PICTURE_MOST);
  for (const button of all("[data-picture]")) button.addEventListener("click", () => PICTURE_TOOLS[button.dataset.picture]());
  byId("picture").addEventListener("click", (event) => act(event.target.closest("[data-thing]")));
  byId("picture").addEventListener("keydown", pictureKey);
  onChoice((site, from) => ["picture", "start"].includes(from) || revealSite(site));
  drawPicture();
  fit();
}

const PICTURE_TOOLS = {
  open() {
    openUpTo(picture.graph.root, PICTURE_ALL);
    const closed = inside(picture.graph.root).filter((box) => isShown(box) && !box.open).length;
    drawPicture();
    byId("picture-note").textContent = closed ? `${counted(closed, "box")}es stay closed, to keep the picture readable` : "all boxes are open";
  },
  close() {
    for (const box of inside(picture.graph.root)) box.open = false;
    drawPicture();
    byId("picture-note").textContent = "all boxes are closed";
  },
  in: () => zoomTo(picture.zoom * 1.25),
  out: () => zoomTo(picture.zoom / 1.25),
  fit,
};

function zoomTo(zoom) {
  picture.zoom = Math.min(3, Math.max(0.2, zoom));
  const drawing = byId("picture").firstElementChild;
  drawing.setAttribute("width", picture.size[0] * picture.zoom);
  drawing.setAttribute("height", picture.size[1] * picture.zoom);
}

/** As wide as there is room, but no smaller than can be read. */
function fit() {
  const room = byId("picture").clientWidth - 4;
  zoomTo(Math.min(1, Math.max(0.6, room / picture.size[0])));
}

/** Opens and closes a box, or chooses a site. */
function act(thing) {
  if (!thing) return;
  picture.focus = thing.dataset.thing;
  const box = inside(picture.graph.root).find((each) => each.id === picture.focus);
  if (!box) {
    choose(Number(thing.dataset.site), "picture");
    return;
  }
  box.open = !box.open;
  drawPicture();
  byId("picture-note").textContent = `${box.title} is ${box.open ? "open" : "closed"}`;
  focusThing(picture.focus);
}

function pictureKey(event) {
  const things = all("[data-thing]", byId("picture"));
  const at = things.indexOf(document.activeElement);
  if (at < 0) return;
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    act(things[at]);
    return;
  }
  const next = moved(event.key, at, things.length);
  if (next === null) return;
  event.preventDefault();
  focusThing(things[next].dataset.thing);
}

function focusThing(id) {
  for (const thing of all("[data-thing]", byId("picture"))) {
    thing.setAttribute("tabindex", thing.dataset.thing === id ? 0 : -1);
    if (thing.dataset.thing === id) thing.focus();
  }
}

/** Opens what is around a site's node, and brings it into the picture's view without moving the page. */
function revealSite(site) {
  const node = picture.graph.nodes.find((each) => each.site === site);
  if (!node) return;
  let opened = false;
  for (let box = node.box; box; box = box.parent) {
    opened ||= !box.open;
    box.open = true;
  }
  if (opened) drawPicture();
  const place = byId("picture");
  const drawn = place.querySelector(`[data-thing="${node.id}"]`);
  const [from, to] = [place.getBoundingClientRect(), drawn.getBoundingClientRect()];
  place.scrollTo({ top: place.scrollTop + to.top - from.top - place.clientHeight / 2, left: place.scrollLeft + to.left - from.left - place.clientWidth / 2 });
}

/** About as wide as the text is drawn. */
const textWidth = (text, size = 12) => 0.6 * size * text.length;

/** What is written in a thing: one line in an operator, two in a closed box. */
function words(thing) {
  if (thing.boxes) {
    const { operators, sites } = contents(thing);
    return [tail(thing.title, 32), counted(operators, "operator") + (sites.size ? `, ${counted(sites.size, "site")}` : "")];
  }
  const name = thing.site >= 0 && thing.module ? thing.module.split(".").pop() : thing.label;
  return [tail(name, 26)];
}

function layout({ open, things, edges }) {
  const graph = new dagre.graphlib.Graph({ compound: true });
  graph.setGraph({ rankdir: "TB", nodesep: 26, ranksep: 24, marginx: 10, marginy: 10 });
  graph.setDefaultEdgeLabel(() => ({}));
  for (const box of open) graph.setNode(box.id, {});
  for (const thing of things) {
    const lines = words(thing);
    const width = Math.max(textWidth(lines[0], 13), textWidth(lines[1] ?? "", 11)) + 22;
    graph.setNode(thing.id, { width, height: lines.length > 1 ? 42 : 26 });
  }
  for (const each of [...open, ...things]) {
    const parent = each.boxes ? each.parent : each.box;
    if (parent && parent.kind !== "root") graph.setParent(each.id, parent.id);
  }
  for (const { from, to } of edges) graph.setEdge(from.id, to.id);
  dagre.layout(graph);
  makeRoomForTitles(graph, open, things, edges);
  return graph;
}

/** Everything below the top of an open box moves down by the height of its title. */
function makeRoomForTitles(graph, open, things, edges) {
  const tops = [...new Set(open.map((box) => Math.round(graph.node(box.id).y - graph.node(box.id).height / 2)))];
  const down = (y) => TITLE * tops.filter((top) => top < y - 1).length;
  const moves = new Map(things.map(({ id }) => [id, down(graph.node(id).y - graph.node(id).height / 2)]));
  for (const { from, to } of edges) {
    const { points } = graph.edge(from.id, to.id);
    points.forEach((point, i) => {
      point.y += i === 0 ? moves.get(from.id) : i === points.length - 1 ? moves.get(to.id) : down(point.y);
    });
  }
  for (const [id, move] of moves) graph.node(id).y += move;
  for (const { id } of open) {
    const box = graph.node(id);
    const [top, bottom] = [box.y - box.height / 2, box.y + box.height / 2];
    const [newTop, newBottom] = [top + down(top), bottom + down(bottom)];
    Object.assign(box, { y: (newTop + newBottom) / 2, height: newBottom - newTop });
  }
  graph.graph().height += TITLE * tops.length;
}

function drawPicture() {
  const seen = visible(picture.graph);
  const graph = layout(seen);
  const { width, height } = graph.graph();
  picture.size = [width, height];
  const arrow = draw("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto-start-reverse" }, draw("path", { d: "M0 0 8 4 0 8z" }));
  const drawing = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "rolled graph", "aria-describedby": "picture-help" }, draw("defs", {}, arrow));
  for (const box of seen.open) drawing.append(frame(box, graph.node(box.id)));
  const edges = draw("g", { class: "edges", "aria-hidden": "true" });
  for (const { from, to } of seen.edges) edges.append(draw("path", { d: smooth(graph.edge(from.id, to.id).points), "marker-end": "url(#arrow)" }));
  seen.carries.forEach((carry, i) => edges.append(carryPath(carry, graph, i)));
  drawing.append(edges);
  for (const box of seen.open) drawing.append(title(box, graph.node(box.id)));
  for (const thing of seen.things) drawing.append(thing.boxes ? closedBox(thing, graph.node(thing.id)) : operator(thing, graph.node(thing.id)));
  const place = byId("picture");
  place.replaceChildren(drawing);
  zoomTo(picture.zoom);
  const first = drawing.querySelector(`[data-thing="${CSS.escape(picture.focus)}"]`) ?? drawing.querySelector("[data-thing]");
  first?.setAttribute("tabindex", 0);
}

const smooth = (points) => {
  const [first, ...rest] = points;
  const middle = rest.slice(0, -1).map((point, i) => `Q${point.x} ${point.y} ${(point.x + rest[i + 1].x) / 2} ${(point.y + rest[i + 1].y) / 2}`);
  const last = rest[rest.length - 1];
  return `M${first.x} ${first.y}${middle.join("")}L${last.x} ${last.y}`;
};

/** From what makes a carried value back up to what reads it at the next step, along the right of the loop's box. */
function carryPath({ from, to, loop }, graph, i) {
  const [a, b] = [graph.node(from.id), graph.node(to.id)];
  const box = picture.graph.loops.get(loop);
  const around = box && graph.hasNode(box.id) ? graph.node(box.id) : null;
  const edge = Math.max(a.x + a.width / 2, b.x + b.width / 2) + 10;
  const x = around ? Math.max(edge, around.x + around.width / 2 - 7 - 4 * (i % 3)) : edge;
  const [ax, bx, ay, by] = [a.x + a.width / 2, b.x + b.width / 2, a.y + a.height / 4, b.y - b.height / 4];
  const r = Math.min(8, Math.abs(ay - by) / 2, x - Math.max(ax, bx));
  const up = by < ay ? -1 : 1;
  const d = `M${ax} ${ay}H${x - r}Q${x} ${ay} ${x} ${ay + up * r}V${by - up * r}Q${x} ${by} ${x - r} ${by}H${bx}`;
  return draw("path", { class: "carry", d, "marker-end": "url(#arrow)" });
}

const titled = (element, text) => {
  element.prepend(draw("title", {}, text));
  return element;
};

/** An open box: its frame lies under the edges, its title over them. */
function frame(box, { x, y, width, height }) {
  return draw("g", { class: `box ${box.kind}` }, draw("rect", { x: x - width / 2, y: y - height / 2, width, height, rx: 6 }));
}

function title(box, { x, y, width, height }) {
  const [left, top] = [x - width / 2, y - height / 2];
  const words = tail(box.title, Math.max(8, Math.floor(width / 7.8) - 3));
  const head = draw("g", { class: `head ${box.kind}`, role: "button", tabindex: -1, "data-thing": box.id, "aria-expanded": "true", "aria-label": `${box.kind} ${box.title}` });
  head.append(draw("rect", { x: left, y: top, width, height: 20, rx: 6 }), draw("text", { x: left + 8, y: top + 14.5 }, `▾ ${words}`));
  return titled(head, `${box.title}: close`);
}

function closedBox(box, { x, y, width, height }) {
  const [name, inner] = words(box);
  const sites = [...contents(box).sites];
  const group = draw("g", { class: `closed ${box.kind}`, role: "button", tabindex: -1, "data-thing": box.id, "aria-expanded": "false", "aria-label": `${box.kind} ${box.title}, ${inner}` });
  group.append(
    draw("rect", { x: x - width / 2, y: y - height / 2, width, height, rx: 6 }),
    draw("text", { x, y: y - 3 }, `▸ ${name}`),
    draw("text", { x, y: y + 13, class: "inner" }, inner),
  );
  if (sites.length === 1) group.setAttribute("data-site", sites[0]);
  return titled(group, `${box.title}: open`);
}

function operator(node, { x, y, width, height }) {
  const [name] = words(node);
  const where = [node.module, node.shape].filter(Boolean).join(", ");
  const group = draw("g", { class: `operator ${node.kind}${node.site >= 0 ? " site" : ""}` });
  if (node.site >= 0) {
    const chosen = String(node.site === selection.site);
    for (const [key, value] of Object.entries({ role: "button", tabindex: -1, "data-thing": node.id, "data-site": node.site, "aria-pressed": chosen, "aria-label": `site ${node.module || name}` })) group.setAttribute(key, value);
    group.classList.toggle("chosen", node.site === selection.site);
  }
  group.append(draw("rect", { x: x - width / 2, y: y - height / 2, width, height, rx: node.kind === "operator" ? 5 : 13 }), draw("text", { x, y: y + 4 }, name));
  return titled(group, where ? `${node.label}: ${where}` : node.label);
}
