// Sites by step: how much was kept, how many columns were used, and what was done to the basis.

const CELLS = 96; // of one row: what a phone still shows apart
const DID = ["kept", "tracked", "reset", "exact X"];
const RANK_BOUNDS = [0.05, 0.1, 0.25, 0.5];

/** What a stretch is coloured by: names, their colours, and which of them each stretch has. */
const HEAT = {
  fidelity: {
    title: "fidelity",
    names: [`below ${page.levels[0]}`, ...page.levels.map((level) => `≥ ${short(level, 6)}`), "exact X"],
    colours: ["var(--n0)", "var(--n1)", "var(--n2)", "var(--n3)", "var(--n4)", "var(--exact)"],
    of: (cell) => (cell.did === 3 ? 5 : page.levels.filter((level) => cell.lost !== null && 1 - 1e-6 * cell.lost >= level - 1e-9).length),
  },
  rank: {
    title: "columns in use, of D",
    names: ["up to 5 %", "up to 10 %", "up to 25 %", "up to 50 %", "more"],
    colours: ["var(--n0)", "var(--n1)", "var(--n2)", "var(--n3)", "var(--n4)"],
    of: (cell, site) => RANK_BOUNDS.filter((bound) => cell.rank > bound * site.features).length,
  },
  basis: {
    title: "basis",
    names: DID,
    colours: ["var(--n1)", "var(--n3)", "var(--c3)", "var(--exact)"],
    of: (cell) => cell.did,
  },
};

/** At most so many stretches of a site, of each the worst: a mean would hide the step that broke. */
function stretches(site, most) {
  const entries = site.ranks.length;
  const length = Math.max(1, Math.ceil(entries / most));
  return Array.from({ length: Math.ceil(entries / length) }, (_, i) => {
    const [from, to] = [i * length, Math.min(entries, (i + 1) * length)];
    const lost = site.lost.slice(from, to);
    return {
      first: from * site.each,
      last: Math.min(site.steps, to * site.each) - 1,
      lost: lost.includes(null) ? null : Math.max(...lost),
      rank: Math.max(...site.ranks.slice(from, to)),
      did: Math.max(...site.did.slice(from, to)),
    };
  });
}

/** The part of all names that is the same, up to a dot. */
function commonPrefix(names) {
  let prefix = names[0] ?? "";
  for (const name of names) while (!name.startsWith(prefix)) prefix = prefix.slice(0, -1);
  return names.length > 1 ? prefix.slice(0, prefix.lastIndexOf(".") + 1) : "";
}

/** Rows of the heat map: the sites that ran, under names that differ. */
function heatRows(width) {
  const ran = page.sites.map((site, number) => ({ site, number })).filter(({ site }) => site.steps);
  const cut = commonPrefix(ran.map(({ site }) => site.name)).length;
  const most = Math.max(10, Math.floor((0.3 * width) / 7));
  const loops = new Set(ran.map(({ site }) => site.loop));
  const where = (site) => (loops.size < 2 ? "" : width < 760 ? ` ·${site.loop.replace("loop_", "")}` : ` in ${site.loop}`);
  const labels = ran.map(({ site, number }) => [String(number), ends(site.name.slice(cut), most) + where(site)]);
  return { ran, labels: Object.fromEntries(labels) };
}

function heatSpec(width) {
  const kind = HEAT[tabOf.heat];
  const { ran, labels } = heatRows(width);
  const outermost = new Set(ran.map(({ site }) => site.trips[0]));
  const trips = outermost.size === 1 ? [...outermost][0] ?? 100 : 100;
  const most = Math.max(12, Math.min(CELLS, Math.floor(12_000 / ran.length)));
  const cells = ran.flatMap(({ site, number }) =>
    stretches(site, most).map((cell) => ({
      row: String(number),
      site: number,
      x: (trips * cell.first) / site.steps,
      x2: (trips * (cell.last + 1)) / site.steps,
      kind: kind.names[kind.of(cell, site)],
      tip: cellTip(site, cell),
    })),
  );
  const y = { field: "row", type: "nominal", sort: null, title: null, axis: { labelExpr: "labels[datum.value]", labelLimit: 0.45 * width, ticks: false, domain: false } };
  const axis = { grid: false, domain: false, tickCount: Math.min(trips, width < 560 ? 6 : 16), format: "d" };
  const x = { field: "x", type: "quantitative", scale: { domain: [0, trips], nice: false }, axis, title: trips === 100 ? "percent of the call" : "iterations of the outermost loop" };
  const colour = { field: "kind", type: "nominal", title: kind.title, scale: { domain: kind.names, range: kind.colours }, legend: { orient: "top", columns: width < 560 ? 2 : 6, symbolType: "square", symbolStrokeWidth: 0, symbolSize: 160 } };
  const height = { step: ran.length > 40 ? 14 : 24 };
  return {
    width, height, autosize: { type: "fit-x", contains: "padding" }, data: { values: cells },
    params: [{ name: "chosen", value: selection.site }, { name: "labels", value: labels }], // names are data, never part of an expression
    layer: [
      { mark: { type: "rect", stroke: null, height: { band: 0.86 } }, encoding: { x, x2: { field: "x2" }, y, color: colour, tooltip: { field: "tip" } } },
      {
        data: { values: ran.map(({ number }) => ({ row: String(number), site: number, x: 0, x2: trips })) },
        transform: [{ filter: "datum.site === chosen" }],
        mark: { type: "rect", fill: null, stroke: "var(--ink)", strokeWidth: 2, tooltip: null },
        encoding: { x, x2: { field: "x2" }, y },
      },
    ],
  };
}

function cellTip(site, cell) {
  const steps = cell.first === cell.last ? `step ${cell.first}` : `steps ${cell.first} – ${cell.last}`;
  const fidelity = cell.lost === null ? "NaN" : (1 - 1e-6 * cell.lost).toFixed(6);
  return `${site.name} in ${site.loop}\n${steps}: fidelity ${fidelity}, rank ${cell.rank}, ${DID[cell.did]}`;
}

/** The chosen site step by step: what is lost, and the columns in use. */
function stepsSpec(width) {
  const site = page.sites[selection.site];
  if (!site?.steps) return null;
  const cells = stretches(site, 600);
  const rows = cells.map((cell) => ({ x: cell.first, lost: cell.lost === null ? null : Math.max(1e-6, 1e-6 * cell.lost), rank: cell.rank, did: DID[cell.did], tip: cellTip(site, cell) }));
  const x = { field: "x", type: "quantitative", title: null, axis: { grid: false, tickMinStep: 1, format: "d" }, scale: { nice: false } };
  const did = { field: "did", type: "nominal", title: "basis", scale: { domain: DID, range: ["var(--dim)", ...HEAT.basis.colours.slice(1)] }, legend: { orient: "top", symbolType: "circle" } }; // a cell may be pale, a dot may not
  const inner = { width: Math.max(180, width - 84), height: 150 };
  const lost = { field: "lost", type: "quantitative", scale: { type: "log" }, title: "1 − fidelity", axis: { values: POWERS, format: "~e" } };
  return {
    data: { values: rows }, spacing: 16, resolve: { scale: { x: "shared" } },
    vconcat: [
      { ...inner, layer: [{ mark: { type: "circle", size: 34, opacity: 1 }, encoding: { x, y: lost, color: did, tooltip: { field: "tip" } } }, ...ruleAt(1 - page.threshold, "bound")] },
      { ...inner, height: 90, layer: [{ mark: { type: "line", interpolate: "step-after", strokeWidth: 1.5, color: "var(--c0)" }, encoding: { x: { ...x, title: "step" }, y: { field: "rank", type: "quantitative", title: "columns", axis: { tickCount: 3 } } } }] },
    ],
  };
}

function startHeat() {
  startTabs("heat", () => redraw("heat"));
  addChart("heat", heatSpec);
  addChart("steps", stepsSpec);
  onChoice((site) => {
    charts.get("heat")?.view?.signal("chosen", site).run();
    redraw("steps");
  });
}
