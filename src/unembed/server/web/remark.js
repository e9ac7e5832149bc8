/** What makes a text hard to recover, as far as its letters and tokens show it. */

import { plural } from "./dom.js";

const ENGLISH = "The packaged inverter was trained on English.";
const LETTERS = 0.3; // share beyond Latin from which a text is hardly English
const PIECES = 0.38; // share of word pieces: none in plain English, .2 to .35 with names and numbers, .4 to .6 in German, Polish or French

/** A sentence or two, or ""; `tokens` are the encoder's, none where they are not known. */
export function remark(text, tokens = []) {
  const said = [];
  const letters = text.match(/\p{L}/gu) ?? [];
  const foreign = letters.filter((letter) => !/\p{Script=Latin}/u.test(letter)).length;
  const unknown = tokens.filter((token) => /^[[<]unk[\]>]$/i.test(token)).length;
  const pieces = tokens.filter((token) => token.startsWith("##")).length;
  if (unknown) said.push(`${plural(unknown, "token is", "tokens are")} unknown to the encoder and cannot come back.`);
  if (foreign > LETTERS * letters.length) said.push(`Much of it is not in Latin letters. ${ENGLISH}`);
  else if (pieces > PIECES * tokens.length) said.push(`The encoder splits many of its words: rare ones, or not English? ${ENGLISH}`);
  return said.join(" ");
}
