// Who is online, and where.

import { html } from '../../vendor/preact-htm.js';
import { short } from '../format.js';
import { to, usePages } from '../hooks.js';
import { Avatar, Badge, Card, Empty, Head, Id, List, When } from '../ui.js';
import { CLASSES } from '../words.js';

export function Sessions() {
  const pages = usePages('/v1/sessions');
  return html`<${Head} title="Sessions" lead="Control connections that are open right now." />
    <${Card} flush><${List} pages=${pages} label="Sessions" id=${(/** @type {any} */ one) => one.client} columns=${COLUMNS} empty=${html`<${Empty} icon="sessions" title="Nobody is online">Tunnels that are up go on without us. Clients come back by themselves.<//>`} /><//>`;
}

const COLUMNS = [
  { name: 'Client', wide: true, cell: (/** @type {any} */ one) => html`<a class="person" href=${to('clients', one.client)}><${Avatar} id=${one.client} tone="good" /><code>${short(one.client)}</code></a>` },
  { name: 'Router', cell: (/** @type {any} */ one) => html`<${Badge} tone=${!one.nat_class ? 'calm' : CLASSES[one.nat_class].ease > 2 ? 'good' : 'warn'}>${CLASSES[one.nat_class]?.name ?? 'not measured'}</${Badge}>` },
  { name: 'Gateway', cell: (/** @type {any} */ one) => html`<${Id} id=${one.gateway} />` },
  { name: 'Online since', end: true, cell: (/** @type {any} */ one) => html`<${When} at=${one.since_ms} />` },
];
