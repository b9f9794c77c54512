// Talks HTTP: problem documents, and whether anybody answers at all. Who asks, and with what, is said by whoever uses it.

/** An answer that is no success, as the problem document says it; status 0: no answer at all. */
export class Problem extends Error {
  /** @param {{status: number, code: string, title?: string, detail?: string, request_id?: string, retryAfter?: number, remedy?: string}} document */
  constructor({ status, code, title = '', detail = '', request_id = '', retryAfter = 0, remedy = '' }) {
    super(detail || title || code);
    this.status = status;
    this.code = code;
    this.title = title;
    this.detail = detail;
    this.requestId = request_id;
    this.retryAfter = retryAfter;
    /** What to do about it. */
    this.remedy = remedy;
  }
}

/** @typedef {'signed-in' | 'signed-out' | 'refused' | 'online' | 'offline'} Happening */

/** @type {Set<(event: Happening) => void>} */
const listeners = new Set();
let offline = false;

/** @param {(event: Happening) => void} listener */
export function listen(listener) {
  listeners.add(listener);
  return () => void listeners.delete(listener);
}

/** @param {Happening} event */
export function tell(event) {
  for (const listener of [...listeners]) listener(event);
}

/**
 * @param {string} method @param {string} path
 * @param {{query?: Record<string, any>, headers: Record<string, string>, body?: any, signal?: AbortSignal, also?: number, unanswered: string}} options
 *   `also`: a status that is a success, too; `unanswered`: what is said when nobody answers
 * @returns {Promise<{data: any, etag: string | null, status: number}>}
 */
export async function exchange(method, path, { query, headers, body, signal, also, unanswered }) {
  const asked = new URLSearchParams();
  for (const [name, value] of Object.entries(query ?? {})) {
    if (value !== undefined && value !== null && value !== '') asked.set(name, String(value));
  }
  if (body !== undefined) headers['content-type'] = 'application/json';
  const text = asked.toString();
  let response;
  try {
    const sent = body === undefined ? undefined : JSON.stringify(body);
    response = await fetch(text ? `${path}?${text}` : path, { method, headers, body: sent, signal, cache: 'no-store' });
  } catch (error) {
    if (signal?.aborted) throw error;
    reach(false);
    throw new Problem({ status: 0, code: 'offline', title: 'No answer', detail: unanswered });
  }
  reach(true);
  const type = response.headers.get('content-type') ?? '';
  if (response.ok || response.status === also) {
    const data = response.status === 204 ? null : type.includes('json') && !type.includes('ndjson') ? await response.json() : await response.text();
    return { data, etag: response.headers.get('etag'), status: response.status };
  }
  const retryAfter = Number(response.headers.get('retry-after') ?? 0);
  const document = type.includes('json') ? await response.json().catch(() => ({})) : {};
  throw new Problem({ code: `http-${response.status}`, title: response.statusText, ...document, status: response.status, retryAfter });
}

/** @param {boolean} reached */
function reach(reached) {
  if (offline !== reached) return;
  offline = !reached;
  tell(offline ? 'offline' : 'online');
}
