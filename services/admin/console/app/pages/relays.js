// Relays: what each carries, and whether it takes more.

import { html } from '../../vendor/preact-htm.js';
import { ask } from '../acting.js';
import { get, send } from '../api.js';
import { Meter } from '../charts.js';
import { counted, number, percent, rate, short } from '../format.js';
import { usePoll } from '../hooks.js';
import { Badge, Empty, Facts, Head, Id, Loaded } from '../ui.js';

export function Relays() {
  const relays = usePoll((signal) => get('/v1/relays', { signal }), [], 2_000);
  return html`<${Head} title="Relays" lead="They carry what cannot go directly, and cannot read it." />
    <${Loaded} of=${relays}>${(/** @type {any} */ data) => (data.items.length ? html`<ul class="grid-list">${data.items.map((/** @type {any} */ relay) => html`<${Relay} key=${relay.relay} relay=${relay} reload=${relays.reload} others=${data.items.length - 1} />`)}</ul>` : html`<section class="card"><${Empty} icon="relays" title="No relay gives a sign of life">Pairs without a direct path cannot talk. Start one with <code>mediator relay</code>.<//></section>`)}<//>`;
}

/** @param {{relay: any, reload: () => void, others: number}} props */
function Relay({ relay, reload, others }) {
  const name = short(relay.relay);
  const drain = () => ask({
    title: `Drain relay ${name}?`,
    text: others
      ? `It takes no new pairs, and the ${counted(relay.slots, 'pair')} on it move to other relays without losing a packet. You can resume it at any time.`
      : `It is the only relay: ${relay.slots ? `its ${counted(relay.slots, 'pair')} stay` : 'what is on it stays'} until they have a direct path, and new pairs find no relay at all. You can resume it at any time.`,
    verb: 'Drain',
    danger: !others,
    name: name,
    run: () => send('POST', `/v1/relays/${relay.relay}/drain`),
    done: `Relay ${name} is being drained.`,
    after: reload,
  });
  const resume = () => ask({
    title: `Resume relay ${name}?`,
    text: 'It takes pairs again.',
    verb: 'Resume',
    run: () => send('POST', `/v1/relays/${relay.relay}/resume`),
    done: `Relay ${name} takes pairs again.`,
    after: reload,
  });
  return html`<li class="card relay">
    <div class="relay-head"><div><h2><code>${name}</code></h2><p class="note">${relay.region || 'no region'}</p></div>${relay.draining ? html`<${Badge} dot tone="info">${relay.slots ? 'Draining' : 'Drained'}</${Badge}>` : html`<${Badge} dot tone="good">Taking pairs</${Badge}>`}</div>
    <div class="relay-load"><b>${number(relay.slots)}</b><span>of ${number(relay.max_slots)} pairs</span><span class="push">${percent(relay.slots, relay.max_slots)}</span></div>
    <${Meter} part=${relay.slots} all=${relay.max_slots} label=${`Load of relay ${name}`} />
    <${Facts} rows=${[
      ['Carries now', rate(relay.rate)],
      ['Id', html`<${Id} id=${relay.relay} />`],
      ['UDP', html`<span class="stack">${relay.endpoints.map((/** @type {string} */ one) => html`<code key=${one}>${one}</code>`)}</span>`],
      ['TLS', relay.streams.length ? html`<span class="stack">${relay.streams.map((/** @type {any} */ one) => html`<code key=${String(one)}>${typeof one === 'string' ? one : one.address ?? JSON.stringify(one)}</code>`)}</span>` : html`<span class="faint">none: clients without UDP cannot use it</span>`],
    ]} />
    <div class="relay-actions">${relay.draining ? html`<button type="button" class="button primary" onClick=${resume}>Resume</button>` : html`<button type="button" class="button" onClick=${drain}>Drain …</button>`}</div>
  </li>`;
}
