// Talks to the API for operators: one token, pages, versions, requests that may be repeated.

import { Problem, exchange, listen, tell } from './http.js';
import { remedy } from './words.js';

export { Problem, listen };

const TOKEN = 'buri.token';

export const signedIn = () => sessionStorage.getItem(TOKEN) !== null;

/** @param {string} token */
export async function signIn(token) {
  const index = await send('GET', '/', { token });
  sessionStorage.setItem(TOKEN, token);
  tell('signed-in');
  return index.data;
}

export function signOut() {
  sessionStorage.removeItem(TOKEN);
  tell('signed-out');
}

/**
 * @typedef {{query?: Record<string, any>, body?: any, etag?: string, signal?: AbortSignal, token?: string, raw?: boolean}} Options
 * @param {string} method @param {string} path @param {Options} options
 * @returns {Promise<{data: any, etag: string | null, status: number}>}
 */
export async function send(method, path, options = {}) {
  const { query, body, etag, signal, token = sessionStorage.getItem(TOKEN) ?? '', raw } = options;
  /** @type {Record<string, string>} */
  const headers = { authorization: `Bearer ${token}` };
  if (etag) headers['if-match'] = etag;
  // Whoever presses twice, or whose line breaks, has it done once.
  if (method === 'POST') headers['idempotency-key'] = crypto.randomUUID?.() ?? random();
  try {
    return await exchange(method, path, { query, headers, body, signal, also: raw ? 503 : undefined, unanswered: 'The admin role cannot be reached from this browser.' });
  } catch (error) {
    if (error instanceof Problem) {
      error.remedy = remedy(error);
      if (error.status === 401 && token === sessionStorage.getItem(TOKEN) && token) {
        sessionStorage.removeItem(TOKEN);
        tell('refused');
      }
    }
    throw error;
  }
}

function random() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** @param {string} path @param {Options} [options] */
export const get = async (path, options) => (await send('GET', path, options)).data;

/** The version of an object, then a change of it: what was looked at is what is changed.
 * @param {string} method @param {string} path @param {any} body @param {string | null | undefined} etag */
export const change = (method, path, body, etag) => send(method, path, { body, etag: etag || '*' });
