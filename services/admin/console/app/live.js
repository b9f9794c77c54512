// What all pages share: data that is asked for again and again, the address, the theme, the clock.

import { useCallback, useEffect, useLayoutEffect, useRef, useState } from '../vendor/preact-htm.js';
import { Problem } from './http.js';

const EVERY_MS = 5_000;

/**
 * Loads at once, then every few seconds while somebody looks. What was loaded stays while a later attempt fails.
 * @template T
 * @param {((signal: AbortSignal) => Promise<T>) | null} load `null`: nothing to load
 * @param {readonly any[]} inputs @param {number} [every]
 */
export function usePoll(load, inputs, every = EVERY_MS) {
  const [state, set] = useState(/** @type {{data: T | null, problem: Problem | null, of: readonly any[]}} */ ({ data: null, problem: null, of: inputs }));
  const again = useRef(() => {});
  useEffect(() => {
    if (!load) return;
    const abort = new AbortController();
    let timer = 0;
    let busy = false;
    const turn = async () => {
      clearTimeout(timer);
      if (busy) return;
      busy = true;
      let wait = every;
      try {
        const data = await load(abort.signal);
        if (abort.signal.aborted) return;
        set({ data, problem: null, of: inputs });
      } catch (error) {
        if (abort.signal.aborted) return;
        const problem = error instanceof Problem ? error : new Problem({ status: -1, code: 'page-failed', title: 'The page failed', detail: String(error) });
        if (problem.status === -1) console.error(error);
        wait = Math.max(every, problem.retryAfter * 1000);
        set((before) => ({ data: same(before.of, inputs) ? before.data : null, problem, of: inputs }));
      } finally {
        busy = false;
      }
      if (document.visibilityState === 'visible') timer = setTimeout(turn, wait);
    };
    const seen = () => void (document.visibilityState === 'visible' ? turn() : clearTimeout(timer));
    again.current = turn;
    document.addEventListener('visibilitychange', seen);
    turn();
    return () => {
      abort.abort();
      clearTimeout(timer);
      document.removeEventListener('visibilitychange', seen);
    };
  }, inputs);
  const current = same(state.of, inputs) ? state : { data: null, problem: null, of: inputs };
  const reload = useCallback(() => again.current(), []);
  return { data: current.data, problem: current.problem, loading: !current.data && !current.problem, reload };
}

const same = (/** @type {readonly any[]} */ a, /** @type {readonly any[]} */ b) => a.length === b.length && a.every((one, nth) => Object.is(one, b[nth]));

/** The page that the address names: the parts of its path, and its query. */
export function useRoute() {
  const [hash, setHash] = useState(location.hash);
  useEffect(() => {
    const changed = () => setHash(location.hash);
    addEventListener('hashchange', changed);
    return () => removeEventListener('hashchange', changed);
  }, []);
  const [path, query] = hash.replace(/^#\/?/, '').split('?');
  return { hash, parts: path.split('/').filter(Boolean).map(decoded), query: new URLSearchParams(query ?? '') };
}

/** @param {string} part */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** @param {...(string | number)} parts */
export const to = (...parts) => `#/${parts.map(encodeURIComponent).join('/')}`;

/** @param {string} hash */
export function go(hash) {
  location.hash = hash;
}

const THEME = 'buri.theme';

/** @returns {['auto' | 'light' | 'dark', (theme: 'auto' | 'light' | 'dark') => void]} */
export function useTheme() {
  const [theme, set] = useState(/** @returns {any} */ () => localStorage.getItem(THEME) ?? 'auto');
  useLayoutEffect(() => {
    document.documentElement.dataset.theme = theme;
    localStorage.setItem(THEME, theme);
  }, [theme]);
  return [theme, set];
}

/** The clock, for times that are told in words. */
export function useNow(every = 10_000) {
  const [now, set] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => set(Date.now()), every);
    return () => clearInterval(timer);
  }, [every]);
  return now;
}

/** A value, once it has not changed for a moment. @template T @param {T} value */
export function useSettled(value, after = 250) {
  const [settled, set] = useState(value);
  const text = JSON.stringify(value);
  useEffect(() => {
    const timer = setTimeout(() => set(value), after);
    return () => clearTimeout(timer);
  }, [text, after]);
  return settled;
}
