/** Making elements. Text only ever enters as text nodes: recovered text is hostile input. */

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** h("button", {class: "plain", onclick: run}, "Run") */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

export const find = (selector) => document.querySelector(selector);

/** Show `message` in an error paragraph, or hide it where there is none. */
export function showError(paragraph, message) {
  paragraph.textContent = message || "";
  paragraph.hidden = !message;
}

/** Says things to screen readers, not more often than they can be heard. */
export class Announcer {
  constructor(element, pause = 1500) {
    this.element = element;
    this.pause = pause;
    this.last = 0;
  }

  /** What is said `urgent`ly is never dropped. */
  say(text, urgent = true) {
    const now = performance.now();
    if (!urgent && now - this.last < this.pause) return;
    this.last = now;
    this.element.textContent = text;
  }
}

const integer = new Intl.NumberFormat("en");
export const count = (n) => integer.format(n);
export const percent = (share) => `${Math.round(share * 100)} %`;
export const fixed = (x, digits = 3) => x.toFixed(digits).replace(/^-(0(\.0*)?)$/, "$1").replace("-", "\u2212");
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;
