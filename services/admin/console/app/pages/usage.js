// What was relayed in a month, by who pays for it.

import { html, useState } from '../../vendor/preact-htm.js';
import { bytes } from '../format.js';
import { usePages } from '../hooks.js';
import { Card, ClientLink, Empty, Head, List } from '../ui.js';

export function Usage() {
  const [month, setMonth] = useState(new Date().toISOString().slice(0, 7));
  const pages = usePages('/v1/usage', { month });
  const months = Array.from({ length: 12 }, (_, nth) => new Date(Date.UTC(new Date().getUTCFullYear(), new Date().getUTCMonth() - nth, 1)).toISOString().slice(0, 7));
  const most = Math.max(1, ...(pages.items ?? []).map((/** @type {any} */ one) => one.bytes));
  const columns = [
    { name: 'Payer', wide: true, cell: (/** @type {any} */ one) => html`<${ClientLink} id=${one.payer} nick="Client" />` },
    { name: 'Share', cell: (/** @type {any} */ one) => html`<span class="track"><i style=${{ width: `${(100 * one.bytes) / most}%` }} /></span>` },
    { name: 'Relayed', end: true, cell: (/** @type {any} */ one) => html`<b>${bytes(one.bytes)}</b>` },
  ];
  return html`<${Head} title="Usage" lead="Bytes that relays carried, as far as they reported them. Months are in UTC."><label class="filter"><span class="hidden">Month</span><select value=${month} onChange=${(/** @type {any} */ event) => setMonth(event.target.value)}>${months.map((one) => html`<option key=${one} value=${one}>${one}</option>`)}</select></label><//>
    <${Card} flush><${List} pages=${pages} label="Usage" id=${(/** @type {any} */ one) => one.payer} columns=${columns} empty=${html`<${Empty} icon="usage" title="Nothing was relayed in this month">Or the relays have not reported it yet: they do when a lease of theirs is spent.<//>`} /><//>`;
}
