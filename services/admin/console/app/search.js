// The search for anything: clients by nickname, id or address, networks by name or id, accounts by e-mail address, and pairs by
// two ids.

import { html, useEffect, useRef, useState } from '../vendor/preact-htm.js';
import { Problem, get } from './api.js';
import { short } from './format.js';
import { go, to } from './hooks.js';
import { Icon } from './icons.js';
import { Avatar } from './ui.js';

const HEX = /^[0-9a-f]{2,32}$/i;
const WHOLE = /^[0-9a-f]{32}$/i;
const EMAIL = /^[^\s@]+@[^\s@]+\.[^\s@]+$/;
const ADDRESS = /^\d{1,3}(\.\d{1,3}){3}$/;

/** @typedef {{to: string, kind: string, title: string, note: string, id: string}} Hit */

/** @param {string} text @param {(path: string) => boolean} has @param {AbortSignal} signal @returns {Promise<Hit[]>} */
async function find(text, has, signal) {
  const ids = text.split(/[\s,]+/).filter((word) => WHOLE.test(word)).map((word) => word.toLowerCase());
  if (ids.length === 2 && ids[0] !== ids[1]) {
    return [{ to: to('pairs', ids[0], ids[1]), kind: 'Pair', title: `${short(ids[0])} and ${short(ids[1])}`, note: 'Why they are connected as they are', id: ids[0] }];
  }
  const list = async (/** @type {string} */ path, /** @type {any} */ query) => (has(path) ? (await get(path, { query: { ...query, limit: 5 }, signal })).items : []);
  const client = (/** @type {any} */ one) => ({ to: to('clients', one.client), kind: 'Client', title: one.nick || 'Unnamed', note: `${short(one.client)}${one.address4 ? ` · ${one.address4}` : ''}`, id: one.client });
  const network = (/** @type {any} */ one) => ({ to: to('networks', one.network), kind: 'Network', title: one.name, note: `${one.members} of ${one.seats} members`, id: one.network });
  const account = (/** @type {any} */ one) => ({ to: to('accounts', one.account), kind: 'Account', title: one.owner ?? short(one.account), note: `${one.plan}, ${one.clients} clients`, id: one.account });
  if (EMAIL.test(text)) {
    // One's own before those that one was invited to.
    const own = (/** @type {any} */ one) => Number(one.owner?.toLowerCase() === text.toLowerCase());
    const accounts = await list('/v1/accounts', { email: text });
    return accounts.sort((/** @type {any} */ one, /** @type {any} */ other) => own(other) - own(one)).map(account);
  }
  const asked = [];
  if (ADDRESS.test(text)) asked.push(list('/v1/clients', { address: text }).then((items) => items.map(client)));
  else {
    asked.push(list('/v1/clients', { nick: text }).then((items) => items.map(client)));
    if (HEX.test(text)) asked.push(list('/v1/clients', { id: text.toLowerCase() }).then((items) => items.map(client)));
    asked.push(list('/v1/networks', { name: text }).then((items) => items.map(network)));
    if (WHOLE.test(text) && has('/v1/networks/{network}')) asked.push(get(`/v1/networks/${text.toLowerCase()}`, { signal }).then((one) => [network(one)]).catch(() => []));
  }
  const found = await Promise.allSettled(asked);
  const failed = found.find((one) => one.status === 'rejected');
  const hits = found.flatMap((one) => (one.status === 'fulfilled' ? one.value : []));
  if (!hits.length && failed) throw /** @type {PromiseRejectedResult} */ (failed).reason;
  return [...new Map(hits.map((hit) => [hit.to, hit])).values()];
}

/** @param {{has: (path: string) => boolean}} props */
export function Search({ has }) {
  const [text, setText] = useState('');
  const [found, setFound] = useState(/** @type {{text: string, hits?: Hit[], problem?: any} | null} */ (null));
  const [at, setAt] = useState(0);
  const [open, setOpen] = useState(false);
  const input = useRef(/** @type {HTMLInputElement | null} */ (null));
  /** What Enter was pressed for before anything was found. */
  const hurried = useRef('');
  const wanted = text.trim();
  // What was found for an earlier text is nobody's answer to this one.
  const answer = found?.text === wanted ? found : null;
  const [hits, problem] = [answer?.hits, answer?.problem];

  useEffect(() => {
    const slash = (/** @type {KeyboardEvent} */ event) => {
      const target = /** @type {HTMLElement} */ (event.target);
      if (event.key !== '/' || event.ctrlKey || event.metaKey || event.altKey || target.matches('input, textarea, select') || document.querySelector('dialog[open]')) return;
      event.preventDefault();
      input.current?.focus();
      input.current?.select();
    };
    addEventListener('keydown', slash);
    return () => removeEventListener('keydown', slash);
  }, []);

  useEffect(() => {
    setFound(null);
    setAt(0);
    if (!wanted) return;
    const abort = new AbortController();
    const timer = setTimeout(async () => {
      const result = await find(wanted, has, abort.signal).then(
        (hits) => ({ text: wanted, hits }),
        (error) => ({ text: wanted, problem: error instanceof Problem ? error : new Problem({ status: -1, code: 'console-failed' }) }),
      );
      if (abort.signal.aborted) return;
      const first = 'hits' in result ? result.hits[0] : undefined;
      if (first && hurried.current === wanted) leave(first);
      else setFound(result);
    }, 200);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }, [wanted]);

  const leave = (/** @type {Hit} */ hit) => {
    hurried.current = '';
    setOpen(false);
    setText('');
    input.current?.blur();
    go(hit.to);
  };
  const key = (/** @type {KeyboardEvent} */ event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && hits?.length) {
      event.preventDefault();
      setAt((at) => (at + step + hits.length) % hits.length);
    } else if (event.key === 'Enter' && wanted) {
      event.preventDefault();
      if (hits?.[at]) leave(hits[at]);
      else hurried.current = wanted;
    } else if (event.key === 'Escape') {
      setText('');
      setOpen(false);
      input.current?.blur();
    }
  };
  const shown = open && wanted !== '';
  return html`<div class="search" role="search" onFocusOut=${(/** @type {FocusEvent} */ event) => { if (!(/** @type {Element} */ (event.currentTarget)).contains(/** @type {Node | null} */ (event.relatedTarget))) setOpen(false); }}>
    <label><${Icon} name="search" /><span class="hidden">Search for clients, networks, addresses or a pair</span>
      <input ref=${input} id="search" type="search" role="combobox" autocomplete="off" spellcheck=${false} placeholder="Search for anything" aria-expanded=${shown} aria-controls="hits" aria-autocomplete="list" aria-activedescendant=${shown && hits?.length ? `hit-${at}` : undefined}
        value=${text} onInput=${(/** @type {any} */ event) => { setText(event.target.value); setOpen(true); }} onFocus=${() => setOpen(true)} onKeyDown=${key} />
      <kbd aria-hidden="true">/</kbd></label>
    <div class=${`hits ${shown ? '' : 'gone'}`} id="hits" role="listbox" aria-label="Found">
      ${shown && hits?.map((hit, nth) => html`<a key=${hit.to} id=${`hit-${nth}`} role="option" tabindex="-1" aria-selected=${nth === at} href=${hit.to} onClick=${(/** @type {Event} */ event) => { event.preventDefault(); leave(hit); }} onPointerMove=${() => setAt(nth)}>
        ${hit.kind === 'Client' ? html`<${Avatar} id=${hit.id} nick=${hit.title} />` : html`<span class="hit-icon"><${Icon} name=${{ Pair: 'pairs', Account: 'accounts' }[hit.kind] ?? 'networks'} /></span>`}
        <span class="hit-text"><b>${hit.title}</b><small>${hit.note}</small></span><span class="hit-kind">${hit.kind}</span></a>`)}
      ${shown && !hits && !problem && html`<p class="hits-note">Searching …</p>`}
      ${shown && hits && !hits.length && html`<p class="hits-note">Nothing begins with <b>${wanted}</b>. Try a nickname, a network, an address like 100.64.0.1, a whole e-mail address, the first digits of an id, or two whole ids for a pair.</p>`}
      ${shown && problem && html`<p class="hits-note bad-text">${problem.detail || problem.message} <code>${problem.code}</code></p>`}
    </div>
  </div>`;
}
