// Elements and numbers. All text from the report goes through textContent or setAttribute, never through innerHTML.

/** @param {string} id @returns {HTMLElement | null} */
const byId = (id) => document.getElementById(id);

/** @param {string} selector @param {ParentNode} [within] @returns {HTMLElement[]} */
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

/**
 * @param {string} tag
 * @param {Record<string, string | number>} [attributes]
 * @param {...(Node | string)} children
 */
function make(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
function draw(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(...children);
  return element;
}

/** @param {number} value in any unit @param {number} [digits] significant ones */
const short = (value, digits = 4) => (value === null ? "–" : String(Number(value.toPrecision(digits))));

/** @param {number} count @param {string} noun */
const counted = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

/** @param {string} text @param {number} most characters; of a long one the end is kept, which tells siblings apart */
const tail = (text, most) => (text.length <= most ? text : `…${text.slice(1 - most)}`);

/** The same, with what is before its first dot, which often numbers it, kept as well. */
function ends(text, most) {
  const first = text.slice(0, text.indexOf(".") + 1);
  return text.length > most && first && first.length < most / 3 ? first + tail(text.slice(first.length), most - first.length) : tail(text, most);
}

/** @param {number} bytes @returns {[number, string]} the power of 1024 and its name, for numbers up to so many */
function byteUnit(bytes) {
  const names = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = Math.min(names.length - 1, Math.floor(Math.log2(Math.max(1, bytes)) / 10));
  return [1024 ** power, names[power]];
}
