// The chosen site's activations: singular values, ranks and turning.

const SHOWN_STEPS = 6;

/** Shades from early to late. */
const shade = (i, count) => `color-mix(in oklab, var(--early), var(--late) ${count < 2 ? 100 : Math.round((100 * i) / (count - 1))}%)`;

const ofSite = () => page.spectra.filter((series) => series.site === selection.site);

function spectraSpec(width) {
  const series = ofSite();
  if (!series.length) return null;
  return { values: valuesSpec, rank: ranksSpec, drift: driftSpec }[tabOf.spectra](width, series);
}

function valuesSpec(width, series) {
  const own = series.find((one) => one.of === 0) ?? series[0];
  const places = [...new Set(Array.from({ length: SHOWN_STEPS }, (_, i) => Math.round((i * (own.steps.length - 1)) / (SHOWN_STEPS - 1))))];
  const order = places.map((place) => `step ${own.steps[place]}`);
  const rows = places.flatMap((place) => singular(own, place, `step ${own.steps[place]}`));
  const control = series.find((one) => one.of === 1);
  if (control) rows.push(...singular(control, control.steps.length - 1, "untrained"));
  const colours = [...order.map((_, i) => shade(i, order.length)), "var(--c1)"];
  const y = { scale: { type: "log", nice: false }, title: "singular value, of ‖X‖", axis: { values: POWERS, format: "~g" } };
  const spec = lines(rows, { width, x: "number of the direction", y, order: control ? [...order, "untrained"] : order, legend: null });
  for (const layer of spec.layer) if (layer.encoding.color) layer.encoding.color.scale.range = colours;
  return spec;
}

function singular(series, place, colour) {
  return series.values[place]
    .map((value, i) => ({ x: i + 1, y: value, colour, of: OF[series.of], tip: `${colour}, direction ${i + 1}: ${short(value)}` }))
    .filter((row) => row.y > 0);
}

const percent = (energy) => `${Number((100 * energy).toPrecision(4))} %`;

function ranksSpec(width, series) {
  const order = [...page.energies.map(percent), `${percent(page.energies[2])}, centred`];
  const rows = series.flatMap((one) =>
    one.at.flatMap((step, i) => {
      const tip = tipped(i, one.at.length);
      const ranks = [...page.energies.map((_, j) => one.ranks[i][j] ?? null), one.centred[i][2] ?? null];
      return ranks.map((y, j) => ({ x: step, y, colour: order[j], of: OF[one.of], tip: tip && `${OF[one.of]}, step ${step}\n${y} directions hold ${order[j]}` }));
    }),
  );
  const present = order.filter((name) => rows.some((row) => row.colour === name && row.y !== null));
  return lines(rows.filter((row) => row.y !== null), { width, x: "step", y: { title: "directions" }, order: present, legend: "to hold" });
}

function driftSpec(width, series) {
  const rows = series.flatMap((one) =>
    one.at
      .map((step, i) => ({ x: step, y: one.drift[i] === null ? null : (180 * one.drift[i]) / Math.PI, colour: "largest angle", of: OF[one.of], step, i }))
      .filter((row) => row.y !== null)
      .map((row) => ({ ...row, tip: tipped(row.i, one.at.length) && `${row.of}, step ${row.step}\nturned by ${row.y.toFixed(1)}°` })),
  );
  if (!rows.length) return null;
  return lines(rows, { width, x: "step", y: { title: "largest angle, degrees" }, order: ["largest angle"], legend: null });
}

function startSpectra() {
  startTabs("spectra", () => redraw("spectra"));
  addChart("spectra", spectraSpec);
  onChoice(() => redraw("spectra"));
}
