// Downloads: the report as JSON, and its parts as CSV.

/** @param {string} name of the file @param {string} kind @param {BlobPart} content */
function saveAs(name, kind, content) {
  const address = URL.createObjectURL(new Blob([content], { type: kind }));
  const link = make("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** The model's name as part of a file's name. */
const fileName = (part) => `${page.model.replace(/[^\w.-]+/g, "_").slice(0, 60) || "report"}-${part}`;

/** One field of RFC 4180. A text that a spreadsheet would run as a formula is marked as text. */
function csvField(value) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "string") return String(value);
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** @param {Record<string, any>[]} rows all keys of all rows are columns */
function csv(rows) {
  const columns = [...rows.reduce((names, row) => Object.keys(row).reduce((all, key) => all.add(key), names), new Set())];
  const lines = [columns, ...rows.map((row) => columns.map((column) => row[column]))];
  return lines.map((line) => line.map(csvField).join(",")).join("\r\n") + "\r\n";
}

/** This model's report and the untrained one's, named. */
function* both(report) {
  yield [OF[0], report];
  if (report.control) yield [OF[1], report.control];
}

const keyOf = (site) => `${site.loop}:${site.name}`;

/** Ranks as columns: `rank_at_99`. */
const byEnergy = (prefix, ranks) => Object.fromEntries(ranks.map((rank, i) => [`${prefix}_${Number((100 * page.energies[i]).toPrecision(4))}`, rank]));

/** @type {Record<string, (report: any) => Generator<Record<string, any>>>} the rows of each table, from `Report.to_dict` */
const TABLES = {
  *loops(report) {
    const around = [...report.loops].reverse().map((loop) => [loop, ""]);
    while (around.length) {
      const [{ children, ...loop }, parent] = around.pop();
      const texts = Object.entries(loop).map(([name, value]) => [name, Array.isArray(value) ? value.join("; ") : value]);
      yield { parent, ...Object.fromEntries(texts) };
      for (const child of [...children].reverse()) around.push([child, loop.name]);
    }
  },
  *sites(report) {
    for (const [of, each] of both(report)) {
      for (const { site, steps, rank_at, spectra, ...rest } of each.sites) {
        const did = Object.fromEntries(["tracked", "reset", "exact"].map((kind) => [kind, steps.filter((step) => step[kind]).length]));
        yield { of, ...site, ...byEnergy("rank_at", rank_at), ...rest, ...(steps.length ? did : {}) };
      }
    }
  },
  *steps(report) {
    for (const [of, each] of both(report)) {
      for (const { site, steps } of each.sites) for (const [step, values] of steps.entries()) yield { of, site: keyOf(site), step, ...values };
    }
  },
  *spectra(report) {
    for (const [of, each] of both(report)) {
      for (const { site, spectra } of each.sites) {
        for (const { values, ranks, centred_ranks, ...rest } of spectra) {
          const numbered = Object.fromEntries(values.map((value, i) => [`singular_value_${i}`, value]));
          yield { of, site: keyOf(site), ...rest, ...byEnergy("rank_at", ranks), ...byEnergy("centred_rank_at", centred_ranks), ...numbered };
        }
      }
    }
  },
  *trajectories(report) {
    for (const [of, each] of both(report)) {
      for (const { loop, carry, steps } of each.trajectories) for (const step of steps) yield { of, loop, carry, ...step };
    }
  },
  *dynamics(report) {
    for (const [of, each] of both(report)) {
      for (const { loop, size, steps, not_measured } of each.dynamics) {
        if (not_measured) yield { of, loop, size, not_measured };
        for (const { step, eigenvalues, residuals, norm } of steps) {
          for (const [i, [real, imaginary]] of eigenvalues.entries()) {
            yield { of, loop, size, step, eigenvalue: i, real, imaginary, modulus: Math.hypot(real, imaginary), residual: residuals[i], norm };
          }
        }
      }
    }
  },
  *memory(report) {
    for (const { name, classes, ...rest } of report.memory) for (const [kind, bytes] of Object.entries(classes)) yield { way: name, class: kind, bytes, ...rest };
  },
  *plan(report) {
    for (const row of report.plan?.rows ?? []) yield { ...row, shape: row.shape.join(" × ") };
  },
  *onnx(report) {
    yield* report.onnx;
  },
  *near_misses(report) {
    yield* report.near_misses;
  },
  *picture(report) {
    for (const node of report.picture?.nodes ?? []) yield { ...node, inputs: node.inputs.join("; "), carried: node.carried.join("; ") };
  },
};

/** Which tables have a row, by what the page shows of the report. */
function startFiles() {
  const note = byId("download-note");
  byId("download-json").addEventListener("click", async () => {
    saveAs(fileName("report.json"), "application/json", JSON.stringify(await wholeReport(), null, 1));
    note.textContent = "The report was handed to the browser.";
  });
  for (const button of all("[data-csv]")) {
    button.addEventListener("click", async () => {
      const rows = [...TABLES[button.dataset.csv](await wholeReport())];
      saveAs(fileName(`${button.dataset.csv}.csv`), "text/csv", csv(rows));
      note.textContent = `${counted(rows.length, "row")} of ${button.dataset.csv} handed to the browser.`;
    });
  }
}
