// How the carried state moves, and whether the loops contract.

const MOVES = {
  change: { title: "change of a step, of the norm", scale: { type: "log", nice: false } },
  cosine: { title: "cosine to the exact model's state", scale: { zero: false } },
  error: { title: "distance to the exact model's state, of its norm", scale: { type: "symlog", constant: 1e-6 } },
};

/** `z_H: float32[s0, 36, 192]` as `z_H`, with its loop. */
const carryName = (series) => `${series.carry.split(":")[0]} in ${series.loop}`;

function carriesSpec(width) {
  const { title, scale } = MOVES[tabOf.carries];
  const log = tabOf.carries === "change";
  const rows = page.trajectories.flatMap((series) =>
    series.at
      .map((step, i) => ({ x: step, y: series[tabOf.carries][i], colour: carryName(series), of: OF[series.of], i }))
      .filter((row) => row.y !== null && (!log || row.y > 0))
      .map((row) => ({ ...row, tip: tipped(row.i, series.at.length) && `${row.colour}, ${row.of}\nstep ${row.x}: ${short(row.y, 6)}` })),
  );
  const order = [...new Set(rows.map((row) => row.colour))];
  byId("plot-carries").nextElementSibling.textContent = rows.length ? "" : "Nothing approximates here: the state is the exact model's, step by step.";
  if (!rows.length) return null;
  const extra = log ? ruleAt(0.01, "settled below") : [];
  return lines(rows, { width, x: "step of the loop", y: { title, scale, axis: log ? { values: POWERS, format: "~g" } : { tickCount: 5, format: "~r" } }, order, legend: null, extra });
}

function dynamicsSpec(width) {
  return tabOf.dynamics === "plane" ? planeSpec(width) : radiusSpec(width);
}

function radiusSpec(width) {
  const rows = page.dynamics.flatMap((series) =>
    series.at.map((step, i) => ({ x: step, y: series.radius[i], colour: series.loop, of: OF[series.of], tip: `${series.loop}, ${OF[series.of]}, step ${step}\nradius ${short(series.radius[i])}, norm at least ${short(series.norm[i])}` })),
  );
  if (!rows.length) return null;
  const order = [...new Set(rows.map((row) => row.colour))];
  return lines(rows, { width, x: "step of the loop", y: { title: "largest modulus of an eigenvalue" }, order, legend: null, extra: ruleAt(1, "contracts below") });
}

/** The eigenvalues of the last measured step of each loop, and the unit circle. */
function planeSpec(width) {
  const rows = page.dynamics.flatMap((series) =>
    series.values[series.values.length - 1].map(([x, y]) => ({ x, y, colour: series.loop, of: OF[series.of], tip: `${series.loop}, ${OF[series.of]}, step ${series.at[series.at.length - 1]}\n${short(x)} ${y < 0 ? "−" : "+"} ${short(Math.abs(y))} i, modulus ${short(Math.hypot(x, y))}` })),
  );
  if (!rows.length) return null;
  const circle = Array.from({ length: 97 }, (_, i) => ({ x: Math.cos((i * Math.PI) / 48), y: Math.sin((i * Math.PI) / 48), i }));
  const reach = 1.1 * Math.max(1, ...rows.map((row) => Math.max(Math.abs(row.x), Math.abs(row.y))));
  const order = [...new Set(rows.map((row) => row.colour))];
  const side = Math.min(width - 70, 380);
  const scale = { domain: [-reach, reach], nice: false };
  const at = { x: { field: "x", type: "quantitative", scale, title: "real" }, y: { field: "y", type: "quantitative", scale, title: "imaginary" } };
  const colour = { field: "colour", type: "nominal", title: null, scale: { domain: order, range: order.map((_, i) => COLOURS[i % COLOURS.length]) }, legend: { orient: "bottom", columns: 1 } };
  const shape = hasControl ? { shape: { field: "of", type: "nominal", title: null, scale: { domain: OF, range: ["circle", "cross"] }, legend: { orient: "bottom", columns: 1, symbolFillColor: "var(--ink)", symbolStrokeWidth: 0 } } } : {};
  return {
    width: side, height: side,
    layer: [
      { data: { values: circle }, mark: { type: "line", color: "var(--warn)", strokeDash: [2, 3] }, encoding: { ...at, order: { field: "i" } } },
      { data: { values: rows }, mark: { type: "point", filled: true, size: 90, opacity: 0.9 }, encoding: { ...at, color: colour, ...shape, tooltip: { field: "tip" } } },
    ],
  };
}

function startDynamics() {
  startTabs("carries", () => redraw("carries"));
  startTabs("dynamics", () => redraw("dynamics"));
  addChart("carries", carriesSpec);
  addChart("dynamics", dynamicsSpec);
}
