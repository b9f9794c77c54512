// The parts that every page is made of.

import { html, useEffect, useRef, useState } from '../vendor/preact-htm.js';
import { ago, date, hue, initials, short } from './format.js';
import { to, useNow, useTheme } from './live.js';
import { Icon } from './icons.js';

/** @param {{title: any, kind?: string, back?: {to: string, text: string}, children?: any, lead?: any}} props */
export function Head({ title, kind, back, children, lead }) {
  useEffect(() => {
    document.title = `${typeof title === 'string' ? title : kind ?? 'Console'} · Buri`;
  }, [title, kind]);
  return html`<header class="head">
    <div class="head-text">
      ${back && html`<a class="back" href=${back.to}><${Icon} name="previous" />${back.text}</a>`}
      <h1 tabindex="-1" id="title">${title}</h1>
      ${lead && html`<p class="lead">${lead}</p>`}
    </div>
    ${children && html`<div class="actions">${children}</div>`}
  </header>`;
}

/** @param {{title?: any, note?: any, tools?: any, flush?: boolean, children?: any, class?: string}} props */
export function Card({ title, note, tools, flush, children, class: more = '' }) {
  return html`<section class=${`card ${flush ? 'flush' : ''} ${more}`}>
    ${title && html`<div class="card-head"><div><h2>${title}</h2>${note && html`<p class="note">${note}</p>`}</div>${tools}</div>`}
    ${children}
  </section>`;
}

/** @param {{tone?: string, children?: any, dot?: boolean}} props */
export const Badge = ({ tone = 'calm', dot, children }) => html`<span class=${`badge ${tone}`}>${dot && html`<i class="dot" />`}${children}</span>`;

/** @param {{id: string, nick?: string | null, tone?: string, large?: boolean}} props */
export function Avatar({ id, nick = null, tone, large }) {
  return html`<span class=${`avatar ${large ? 'large' : ''}`} aria-hidden="true">
    <span class="face" style=${{ '--hue': String(hue(id)) }}>${initials(nick, id)}</span>
    ${tone && html`<i class=${`dot ${tone}`} />`}
  </span>`;
}

/** A moment in words, exactly when pointed at. @param {{at: number | null | undefined}} props */
export function When({ at }) {
  const now = useNow();
  if (!at) return html`<span class="faint">never</span>`;
  return html`<time datetime=${new Date(at).toISOString()} title=${date(at)}>${ago(at, now)}</time>`;
}

/** An id: short, whole when pointed at, copied when pressed. @param {{id: string, whole?: boolean}} props */
export function Id({ id, whole }) {
  const [done, set] = useState(false);
  const copy = async () => {
    await navigator.clipboard?.writeText(id).catch(() => {});
    set(true);
    setTimeout(() => set(false), 1_500);
  };
  return html`<span class="id"><code title=${id}>${whole ? id : short(id)}</code><button type="button" class="bare-button" onClick=${copy} aria-label=${`Copy ${id}`} title="Copy"><${Icon} name=${done ? 'check' : 'copy'} /></button></span>`;
}

/** @param {{id: string, nick?: string | null, tone?: string}} props */
export function ClientLink({ id, nick, tone }) {
  return html`<a class="person" href=${to('clients', id)}><${Avatar} id=${id} nick=${nick} tone=${tone} /><span class="person-text"><b>${nick || 'Unnamed'}</b><code>${short(id)}</code></span></a>`;
}

/** @param {{problem: any, retry?: () => void, small?: boolean}} props */
export function Trouble({ problem, retry, small }) {
  return html`<div class=${`trouble ${small ? 'small' : ''}`} role="alert">
    <${Icon} name="warn" />
    <div>
      <b>${problem.title || 'It did not work'}</b>
      <p>${problem.detail || problem.message}</p>
      ${problem.remedy && html`<p class="note">${problem.remedy}</p>`}
      <p class="fine"><code>${problem.code}</code>${problem.status > 0 && html` · HTTP ${problem.status}`}${problem.requestId && html` · request <code>${problem.requestId}</code>`}</p>
      ${retry && html`<button type="button" class="button" onClick=${retry}><${Icon} name="retry" />Try again</button>`}
    </div>
  </div>`;
}

/** @param {{icon?: string, title: string, children?: any}} props */
export const Empty = ({ icon = 'info', title, children }) => html`<div class="empty"><span class="empty-icon"><${Icon} name=${icon} /></span><b>${title}</b>${children && html`<p>${children}</p>`}</div>`;

/** @param {{lines?: number}} props */
export const Waiting = ({ lines = 4 }) => html`<div class="waiting" role="status"><span class="hidden">Loading</span>${Array.from({ length: lines }, (_, nth) => html`<span class="bone" key=${nth} />`)}</div>`;

/** What a page shows of something that is polled: bones, a problem, or it.
 * @param {{of: {data: any, problem: any, loading: boolean, reload: () => void}, lines?: number, children: (data: any) => any}} props */
export function Loaded({ of, lines, children }) {
  if (of.loading) return html`<${Waiting} lines=${lines} />`;
  if (!of.data) return html`<${Trouble} problem=${of.problem} retry=${of.reload} />`;
  return html`${of.problem && of.problem.status !== 0 && html`<${Trouble} small problem=${of.problem} retry=${of.reload} />`}${children(of.data)}`;
}

/** Arrow keys go from row to row. @param {KeyboardEvent} event */
function walk(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const row = /** @type {HTMLElement} */ (event.target).closest('tr, li');
  if (!step || !row || /** @type {HTMLElement} */ (event.target).matches('input, select, textarea')) return;
  event.preventDefault();
  const next = step > 0 ? row.nextElementSibling : row.previousElementSibling;
  /** @type {HTMLElement | null | undefined} */ (next?.querySelector('a, button'))?.focus();
}

/**
 * A table that turns into cards where it is narrow.
 * @typedef {{name: string, cell: (item: any) => any, end?: boolean, wide?: boolean}} Column
 * @param {{columns: Column[], items: any[], id: (item: any) => string, label: string}} props
 */
export function Table({ columns, items, id, label }) {
  return html`<div class="table-wrap"><table aria-label=${label}>
    <thead><tr>${columns.map((column) => html`<th scope="col" key=${column.name} class=${column.end ? 'end' : ''}>${column.name}</th>`)}</tr></thead>
    <tbody onKeyDown=${walk}>${items.map((item) => html`<tr key=${id(item)}>${columns.map((column) => html`<td key=${column.name} data-label=${column.name} class=${`${column.end ? 'end' : ''} ${column.wide ? 'wide' : ''}`}>${column.cell(item)}</td>`)}</tr>`)}</tbody>
  </table></div>`;
}

/** A list of a page, with its states and its way to the next page.
 * @param {{pages: any, columns: Column[], id: (item: any) => string, label: string, empty: any}} props */
export function List({ pages, columns, id, label, empty }) {
  return html`<${Loaded} of=${pages} lines=${6}>${() => (pages.items.length ? html`<${Table} columns=${columns} items=${pages.items} id=${id} label=${label} />` : empty)}<//><${Pager} pages=${pages} />`;
}

/** @param {{pages: any}} props */
export function Pager({ pages }) {
  if (!pages.next && !pages.previous) return null;
  return html`<nav class="pager" aria-label="Pages">
    <button type="button" class="button" disabled=${!pages.previous} onClick=${() => pages.previous?.()}><${Icon} name="previous" />Previous</button>
    <span>Page ${pages.number}</span>
    <button type="button" class="button" disabled=${!pages.next} onClick=${() => pages.next?.()}>Next<${Icon} name="next" /></button>
  </nav>`;
}

/** @param {{tabs: {id: string, name: string, count?: number}[], current: string, onPick: (id: string) => void, label: string}} props */
export function Tabs({ tabs, current, onPick, label }) {
  const turn = (/** @type {KeyboardEvent} */ event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const at = tabs.findIndex((tab) => tab.id === current);
    const next = tabs[(at + step + tabs.length) % tabs.length].id;
    onPick(next);
    document.getElementById(`tab-${next}`)?.focus();
  };
  return html`<div class="tabs" role="tablist" aria-label=${label} onKeyDown=${turn}>${tabs.map((tab) => html`<button type="button" role="tab" id=${`tab-${tab.id}`} key=${tab.id} aria-selected=${tab.id === current} tabindex=${tab.id === current ? 0 : -1} onClick=${() => onPick(tab.id)}>${tab.name}${tab.count !== undefined && html`<span class="count">${tab.count}</span>`}</button>`)}</div>`;
}

/** Names and values. @param {{rows: [string, any][]}} props */
export const Facts = ({ rows }) => html`<dl class="facts">${rows.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;

/** A dialog of the browser: it keeps the focus, and Esc closes it.
 * @param {{title: string, onClose: () => void, children?: any}} props */
export function Dialog({ title, onClose, children }) {
  const ref = useRef(/** @type {HTMLDialogElement | null} */ (null));
  useEffect(() => {
    const before = /** @type {HTMLElement | null} */ (document.activeElement);
    ref.current?.showModal();
    return () => before?.focus?.();
  }, []);
  return html`<dialog ref=${ref} class="dialog" aria-labelledby="dialog-title" onCancel=${(/** @type {Event} */ event) => { event.preventDefault(); onClose(); }}>
    <h2 id="dialog-title">${title}</h2>${children}
  </dialog>`;
}

/** The switch between light, dark, and what the system says. */
export function Theme() {
  const [theme, set] = useTheme();
  const next = /** @type {const} */ ({ auto: 'light', light: 'dark', dark: 'auto' })[theme];
  const names = { auto: 'as the system says', light: 'light', dark: 'dark' };
  return html`<button type="button" class="bare-button" id="theme" onClick=${() => set(next)} title=${`Colours: ${names[theme]}`} aria-label=${`Colours: ${names[theme]}. Change to ${names[next]}`}><${Icon} name=${{ auto: 'auto', light: 'sun', dark: 'moon' }[theme]} /></button>`;
}
