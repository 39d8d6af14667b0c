// The report as the page has it.

/**
 * What charts draw, rounded; `of` is 0 for this model and 1 for the untrained one, `site` a number in `sites`.
 * @typedef {object} Site
 * @property {string} name
 * @property {string} loop
 * @property {number} features D
 * @property {number | null} rank k
 * @property {number | null} low the lowest fidelity that was used
 * @property {number[]} trips of the loops around it, outermost first
 * @property {number} steps
 * @property {number} each how many steps an entry of the next three stands for
 * @property {(number | null)[]} lost 1 − fidelity, in millionths
 * @property {number[]} ranks
 * @property {string} did a digit each: 0 kept, 1 tracked, 2 reset, 3 exact
 */

/**
 * @type {{model: string, threshold: number, levels: number[], energies: number[], sites: Site[],
 *   loops: {name: string, trips: number, parent: string, source: string}[],
 *   spectra: {of: number, site: number, steps: number[], values: number[][], at: number[], ranks: number[][],
 *     centred: number[][], drift: (number | null)[], mean: (number | null)[]}[],
 *   trajectories: {of: number, loop: string, carry: string, at: number[], change: (number | null)[],
 *     cosine: (number | null)[], error: (number | null)[]}[],
 *   dynamics: {of: number, loop: string, at: number[], radius: number[], norm: (number | null)[],
 *     values: [number, number][][]}[],
 *   memory: {name: string, classes: Record<string, number>}[], onnx: {form: string, bytes: number}[],
 *   picture: {nodes: any[][], left_out: number} | null}}
 */
const page = JSON.parse(byId("page-data").textContent);

const OF = ["this model", "untrained"];

/** Whether any series is of the untrained model. */
const hasControl = [page.spectra, page.trajectories, page.dynamics].some((series) => series.some((one) => one.of === 1));

let unpacked = null;

/** The whole report, as `Report.to_dict` gives it. @returns {Promise<any>} */
function wholeReport() {
  unpacked ??= unpack();
  return unpacked;
}

async function unpack() {
  const binary = atob(byId("report-packed").textContent);
  const bytes = Uint8Array.from(binary, (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}
