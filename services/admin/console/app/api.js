// Talks to the API: one token, problem documents, pages, versions, requests that may be repeated.

const TOKEN = 'buri.token';

/** An answer that is no success, as the problem document says it; status 0: no answer at all. */
export class Problem extends Error {
  /** @param {{status: number, code: string, title?: string, detail?: string, request_id?: string, retryAfter?: number}} document */
  constructor({ status, code, title = '', detail = '', request_id = '', retryAfter = 0 }) {
    super(detail || title || code);
    this.status = status;
    this.code = code;
    this.title = title;
    this.detail = detail;
    this.requestId = request_id;
    this.retryAfter = retryAfter;
  }
}

/** @type {Set<(event: 'signed-in' | 'signed-out' | 'refused' | 'online' | 'offline') => void>} */
const listeners = new Set();
let offline = false;

/** @param {(event: string) => void} listener */
export function listen(listener) {
  listeners.add(listener);
  return () => void listeners.delete(listener);
}

/** @param {'signed-in' | 'signed-out' | 'refused' | 'online' | 'offline'} event */
function tell(event) {
  for (const listener of [...listeners]) listener(event);
}

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
  const asked = new URLSearchParams();
  for (const [name, value] of Object.entries(query ?? {})) {
    if (value !== undefined && value !== null && value !== '') asked.set(name, String(value));
  }
  /** @type {Record<string, string>} */
  const headers = { authorization: `Bearer ${token}` };
  if (body !== undefined) headers['content-type'] = 'application/json';
  if (etag) headers['if-match'] = etag;
  // Whoever presses twice, or whose line breaks, has it done once.
  if (method === 'POST') headers['idempotency-key'] = crypto.randomUUID?.() ?? random();
  const text = asked.toString();
  let response;
  try {
    const sent = body === undefined ? undefined : JSON.stringify(body);
    response = await fetch(text ? `${path}?${text}` : path, { method, headers, body: sent, signal, cache: 'no-store' });
  } catch (error) {
    if (signal?.aborted) throw error;
    reach(false);
    throw new Problem({ status: 0, code: 'offline', title: 'No answer', detail: 'The admin role cannot be reached from this browser.' });
  }
  reach(true);
  const type = response.headers.get('content-type') ?? '';
  if (response.ok || (raw && response.status === 503)) {
    const data = response.status === 204 ? null : type.includes('json') && !type.includes('ndjson') ? await response.json() : await response.text();
    return { data, etag: response.headers.get('etag'), status: response.status };
  }
  const retryAfter = Number(response.headers.get('retry-after') ?? 0);
  const document = type.includes('json') ? await response.json().catch(() => ({})) : {};
  const problem = new Problem({ code: `http-${response.status}`, title: response.statusText, ...document, status: response.status, retryAfter });
  if (response.status === 401 && token === sessionStorage.getItem(TOKEN) && token) {
    sessionStorage.removeItem(TOKEN);
    tell('refused');
  }
  throw problem;
}

/** @param {boolean} reached */
function reach(reached) {
  if (offline !== reached) return;
  offline = !reached;
  tell(offline ? 'offline' : 'online');
}

function random() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** @param {string} path @param {Options} [options] */
export const get = async (path, options) => (await send('GET', path, options)).data;

/** The version of an object, then a change of it: what was looked at is what is changed.
 * @param {string} method @param {string} path @param {any} body @param {string | null | undefined} etag */
export const change = (method, path, body, etag) => send(method, path, { body, etag: etag || '*' });
