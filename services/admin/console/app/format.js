// Figures as people read them.

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

/** @param {number} bytes */
export function bytes(bytes) {
  let nth = 0;
  while (bytes >= 1024 && nth < UNITS.length - 1) {
    bytes /= 1024;
    nth += 1;
  }
  return `${nth && bytes < 100 ? bytes.toFixed(1) : Math.round(bytes)} ${UNITS[nth]}`;
}

/** A rate: a number of bytes a second, or its text form like `8 kbit/s`.
 * @param {number | string | null | undefined} rate */
export function rate(rate) {
  if (rate === null || rate === undefined) return 'no limit';
  const count = typeof rate === 'number' ? rate : rateOf(rate);
  return count === Infinity ? 'no limit' : `${bytes(count)}/s`;
}

/** Bytes a second of the text form. @param {string} text */
export function rateOf(text) {
  const [, count, unit] = /^([\d.]+) (B|KiB|MiB|kbit|Mbit)\/s$/.exec(text) ?? [];
  return count === undefined ? Infinity : Number(count) * { B: 1, KiB: 1_024, MiB: 1_048_576, kbit: 125, Mbit: 125_000 }[/** @type {'B'} */ (unit)];
}

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
/** @param {number} count */
export const number = (count) => whole.format(count);

/** @param {number} part @param {number} all */
export const percent = (part, all) => (all ? `${(100 * part / all).toFixed(part === all || !part ? 0 : 1)} %` : '–');

/** @param {number} count @param {string} one @param {string} [many] */
export const counted = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;

/** @param {number} ms */
export function span(ms) {
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  const seconds = ms / 1000;
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const minutes = seconds / 60;
  if (minutes < 60) return `${Math.round(minutes)} min`;
  const hours = minutes / 60;
  return hours < 48 ? `${Math.round(hours)} h` : `${Math.round(hours / 24)} days`;
}

/** @param {number} at @param {number} [now] */
export function ago(at, now = Date.now()) {
  const past = now - at;
  if (Math.abs(past) < 5_000) return 'just now';
  return past > 0 ? `${span(Math.max(past, 1_000))} ago` : `in ${span(-past)}`;
}

const moment = new Intl.DateTimeFormat('en-GB', { dateStyle: 'medium', timeStyle: 'medium' });
const clock = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit' });
const exact = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' });
/** @param {number} at */
export const date = (at) => moment.format(at);
/** @param {number} at */
export const time = (at) => clock.format(at);
/** @param {number} at */
export const timeExact = (at) => exact.format(at);

/** @param {string} id */
export const short = (id) => id.slice(0, 8);

/** A colour that belongs to an id. @param {string} id */
export const hue = (id) => (parseInt(id.slice(0, 6), 16) || 0) % 360;

/** @param {string | null} nick @param {string} id */
export function initials(nick, id) {
  const words = (nick ?? '').trim().split(/[\s._-]+/).filter(Boolean);
  const letters = words.length > 1 ? words[0][0] + words[1][0] : [...(words[0] ?? id)].slice(0, 2).join('');
  return letters.toUpperCase();
}
