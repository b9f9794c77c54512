// What pages for operators share: all that pages share, and lists in pages.

import { useState } from '../vendor/preact-htm.js';
import { send } from './api.js';
import { usePoll } from './live.js';

export * from './live.js';

/** A list in pages: forwards by cursor, backwards by the cursors that led here.
 * @param {string} path @param {Record<string, any>} [query] @param {number} [limit] */
export function usePages(path, query = {}, limit = 50) {
  const key = JSON.stringify([path, query]);
  const [place, setPlace] = useState({ key, cursors: /** @type {string[]} */ ([]) });
  const cursors = place.key === key ? place.cursors : [];
  const cursor = cursors.at(-1);
  const polled = usePoll(async (signal) => (await send('GET', path, { query: { ...query, limit, cursor }, signal })).data, [key, cursor]);
  const next = polled.data?.next_cursor;
  return {
    ...polled,
    items: polled.data?.items ?? null,
    number: cursors.length + 1,
    next: next ? () => setPlace({ key, cursors: [...cursors, next] }) : null,
    previous: cursors.length ? () => setPlace({ key, cursors: cursors.slice(0, -1) }) : null,
  };
}
