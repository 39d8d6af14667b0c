// The graph as boxes in boxes: loops as they nest, in each the modules whose operators it runs.

/**
 * @typedef {object} Box
 * @property {string} id
 * @property {"root" | "loop" | "module"} kind
 * @property {string} title
 * @property {Box | null} parent
 * @property {Box[]} boxes inside of it
 * @property {GraphNode[]} nodes inside of it, and in none of its boxes
 * @property {boolean} open
 */

/** @typedef {{id: string, label: string, kind: string, inputs: number[], loop: string, module: string, site: number, carried: number[], shape: string, box: Box}} GraphNode */

const newBox = (id, kind, title, parent) => {
  const box = { id, kind, title, parent, boxes: [], nodes: [], open: false };
  parent?.boxes.push(box);
  return box;
};

/** @returns {{root: Box, nodes: GraphNode[], loops: Map<string, Box>}} */
function buildNest(picture) {
  const root = newBox("root", "root", page.model, null);
  const loops = new Map([["", root]]);
  for (const { name, trips, parent } of page.loops) loops.set(name, newBox(`loop:${name}`, "loop", `${name} × ${trips}`, loops.get(parent) ?? root));
  const modules = new Map();
  const nodes = picture.nodes.map(([label, kind, inputs, loop, module, site, carried, shape], i) => {
    const box = moduleBox(modules, loops.get(loop) ?? root, loop, kind === "operator" ? module : "");
    const node = { id: `node:${i}`, label, kind, inputs, loop, module, site, carried, shape, box };
    box.nodes.push(node);
    return node;
  });
  flatten(root);
  root.open = true;
  return { root, nodes, loops };
}

/** The box of a module in a loop, with the boxes of the modules around it. */
function moduleBox(modules, loopBox, loop, path) {
  if (!path) return loopBox;
  const id = `module:${loop}:${path}`;
  if (!modules.has(id)) {
    const cut = path.lastIndexOf(".");
    const parent = moduleBox(modules, loopBox, loop, cut < 0 ? "" : path.slice(0, cut));
    modules.set(id, newBox(id, "module", path.slice(cut + 1), parent));
  }
  return modules.get(id);
}

/** Boxes that hold one thing are taken away: they say nothing that the thing does not. */
function flatten(box) {
  for (const inner of [...box.boxes]) flatten(inner);
  box.boxes = box.boxes.filter((inner) => inner.kind === "loop" || inner.boxes.length || inner.nodes.length);
  for (const inner of [...box.boxes]) {
    if (inner.kind !== "module" || inner.boxes.length + inner.nodes.length > 1) continue;
    box.boxes = box.boxes.filter((each) => each !== inner);
    for (const only of inner.boxes) {
      if (only.kind === "module") only.title = `${inner.title}.${only.title}`;
      only.parent = box;
      box.boxes.push(only);
    }
    for (const only of inner.nodes) {
      only.box = box;
      box.nodes.push(only);
    }
  }
}

/** Opens boxes, loops first and outer ones first, while no more than so many things are to be seen. */
function openUpTo(root, most) {
  let seen = root.nodes.length + root.boxes.length;
  for (const kind of ["loop", "module"]) {
    const queue = [...root.boxes];
    for (let box = queue.shift(); box; box = queue.shift()) {
      const more = box.nodes.length + box.boxes.length - 1;
      if (box.kind === kind && !box.open && seen + more <= most) {
        box.open = true;
        seen += more;
      }
      if (box.open) queue.push(...box.boxes);
    }
  }
}

/** Every box inside of another. @param {Box} box @returns {Box[]} */
const inside = (box) => box.boxes.flatMap((inner) => [inner, ...inside(inner)]);

/** Operators and sites in a box, those of its boxes included. */
function contents(box) {
  const nodes = [box, ...inside(box)].flatMap((each) => each.nodes);
  return { operators: nodes.filter((node) => node.kind === "operator").length, sites: new Set(nodes.map((node) => node.site).filter((site) => site >= 0)) };
}

/** What stands for a node: itself, or the outermost closed box around it. */
function standIn(node) {
  let found = node;
  for (let box = node.box; box; box = box.parent) if (!box.open) found = box;
  return found;
}

/** What is to be seen: boxes that are open, things in them, and edges between those. */
function visible({ root, nodes }) {
  const open = inside(root).filter((box) => isShown(box) && box.open);
  const things = [...new Set(nodes.map(standIn))];
  for (const box of [root, ...open]) for (const inner of box.boxes) if (!inner.open && !things.includes(inner)) things.push(inner);
  const edges = new Map();
  const carries = new Map();
  for (const node of nodes) {
    const to = standIn(node);
    for (const [numbers, into] of [[node.inputs, edges], [node.carried, carries]]) {
      for (const number of numbers) {
        const from = standIn(nodes[number]);
        if (from !== to || (into === carries && node.box.open)) into.set(`${from.id} ${to.id}`, { from, to, loop: node.loop });
      }
    }
  }
  return { open, things, edges: [...edges.values()], carries: [...carries.values()] };
}

/** Whether all boxes around one are open. */
function isShown(box) {
  for (let around = box.parent; around; around = around.parent) if (!around.open) return false;
  return true;
}
