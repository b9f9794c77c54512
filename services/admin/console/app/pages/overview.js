// How the service is: who is online, how many talk directly, what the relays carry, and what needs a look.

import { html } from '../../vendor/preact-htm.js';
import { get, send } from '../api.js';
import { Lines, Meter, Ring, Spark } from '../charts.js';
import { bytes, counted, number, percent, rate, short } from '../format.js';
import { usePoll } from '../hooks.js';
import { Icon } from '../icons.js';
import { Badge, Card, Empty, Head, Loaded } from '../ui.js';
import { CLASSES, STRATEGIES } from '../words.js';

/** @param {{has: (path: string) => boolean}} props */
export function Overview({ has }) {
  const overview = usePoll((signal) => get('/v1/overview', { signal }), []);
  const ready = usePoll(async (signal) => (await send('GET', '/ready', { signal, raw: true })).data, [], 10_000);
  const relays = usePoll((signal) => get('/v1/relays', { signal }), []);
  return html`<${Head} title="Overview" lead="Live figures of every process that tells them, in the last hour." />
    <${Alerts} ready=${ready.data} relays=${relays.data?.items} overview=${overview.data} />
    <${Loaded} of=${overview} lines=${8}>${(/** @type {any} */ data) => html`<${Figures} data=${data} relays=${relays.data?.items ?? []} has=${has} />`}<//>`;
}

/** @param {{data: any, relays: any[], has: (path: string) => boolean}} props */
function Figures({ data, relays, has }) {
  const history = data.history;
  const at = history.map((/** @type {any} */ one) => one.at_ms);
  const of = (/** @type {string} */ field) => history.map((/** @type {any} */ one) => one[field]);
  const total = (/** @type {string} */ outcome) => data.pairs.filter((/** @type {any} */ one) => one.outcome === outcome).reduce((/** @type {number} */ sum, /** @type {any} */ one) => sum + one.count, 0);
  const [direct, relayed] = [total('direct'), total('relayed')];
  const slots = data.relays;
  return html`
    <div class="tiles">
      <${Tile} name="Online now" value=${number(data.sessions)} note=${`at ${counted(data.gateways, 'gateway')}`} href=${has('/v1/sessions') ? '#/sessions' : undefined}><${Spark} values=${of('sessions')} /><//>
      <${Tile} name="Direct rate" value=${percent(direct, direct + relayed)} note=${`${number(direct)} of ${counted(direct + relayed, 'attempt')}`}><div class="tile-ring"><${Ring} part=${direct} all=${direct + relayed} label=${`${percent(direct, direct + relayed)} of attempts ended with a direct path`} /></div><//>
      <${Tile} name="Pairs on relays" value=${number(slots.slots)} note=${`of ${number(slots.max_slots)} slots`} href="#/relays"><${Spark} values=${of('slots')} tone="warn" /><//>
      <${Tile} name="Relayed now" value=${rate(slots.bytes_per_second)} note=${`through ${counted(slots.count, 'relay')}`} href="#/relays"><${Spark} values=${of('bytes_per_second')} tone="info" /><//>
    </div>
    <div class="columns">
      <${Card} title="Clients online" note="Sessions of all gateways">
        <${Lines} label="Clients online over time" at=${at} format=${number} series=${[{ name: 'Online', tone: 'accent', values: of('sessions'), area: true }]} />
      <//>
      <${Card} title="How attempts ended" note="Since the processes started">
        <${Lines} label="Attempts that ended directly and on a relay, over time" at=${at} format=${number} series=${[{ name: 'Direct', tone: 'good', values: of('direct'), area: true }, { name: 'Relayed', tone: 'warn', values: of('relayed') }]} />
      <//>
      <${Card} title="Relay traffic" note="Bytes a second, all relays together">
        <${Lines} label="Relay traffic over time" at=${at} binary format=${(/** @type {number} */ value) => bytes(value)} series=${[{ name: 'Relayed', tone: 'info', values: of('bytes_per_second'), area: true }]} />
      <//>
      <${Card} title="Relays" note=${`${counted(relays.length, 'relay')} alive`} tools=${html`<a class="quiet" href="#/relays">All relays</a>`}>
        ${relays.length ? html`<ul class="loads">${relays.slice(0, 6).map((relay) => html`<li key=${relay.relay}><div><code>${short(relay.relay)}</code><span class="faint">${relay.region || 'no region'}</span>${relay.draining && html`<${Badge} tone="info">draining</${Badge}>`}<span class="push">${number(relay.slots)} / ${number(relay.max_slots)} pairs · ${rate(relay.rate)}</span></div><${Meter} part=${relay.slots} all=${relay.max_slots} label=${`Load of relay ${short(relay.relay)}`} /></li>`)}</ul>` : html`<${Empty} icon="relays" title="No relay gives a sign of life">Pairs without a direct path cannot talk. Start a relay.<//>`}
      <//>
    </div>
    <${Classes} pairs=${data.pairs} />`;
}

/** @param {{name: string, value: string, note: string, href?: string, children?: any}} props */
function Tile({ name, value, note, href, children }) {
  const inside = html`<span class="tile-name">${name}</span><span class="tile-value">${value}</span><span class="tile-note">${note}</span>${children}`;
  return href ? html`<a class="tile" href=${href}>${inside}</a>` : html`<div class="tile">${inside}</div>`;
}

/** Which routers met which, and how it went. @param {{pairs: any[]}} props */
function Classes({ pairs }) {
  /** @type {Map<string, {a: string, b: string, direct: number, relayed: number, strategies: Set<string>}>} */
  const met = new Map();
  for (const { class_a, class_b, strategy, outcome, count } of pairs) {
    const [a, b] = [class_a, class_b].sort((one, other) => (CLASSES[other]?.ease ?? 0) - (CLASSES[one]?.ease ?? 0));
    const row = met.get(`${a} ${b}`) ?? { a, b, direct: 0, relayed: 0, strategies: new Set() };
    if (outcome === 'direct') row.direct += count;
    if (outcome === 'relayed') row.relayed += count;
    row.strategies.add(strategy);
    met.set(`${a} ${b}`, row);
  }
  const rows = [...met.values()].filter((row) => row.direct + row.relayed).sort((one, other) => other.direct + other.relayed - one.direct - one.relayed);
  return html`<${Card} title="By kinds of routers" note="How attempts ended, by what the two routers are like">
    ${rows.length ? html`<ul class="meetings">${rows.map((row) => html`<li key=${row.a + row.b}>
      <span class="meeting-names"><b>${CLASSES[row.a]?.name ?? row.a}</b> and <b>${CLASSES[row.b]?.name ?? row.b}</b><small>${[...row.strategies].map((one) => STRATEGIES[one]?.name ?? one).join(', ')}</small></span>
      <span class="split" role="img" aria-label=${`${row.direct} direct, ${row.relayed} relayed`}>${row.direct > 0 && html`<i class="good" style=${{ flexGrow: String(row.direct) }} />`}${row.relayed > 0 && html`<i class="warn" style=${{ flexGrow: String(row.relayed) }} />`}</span>
      <span class="meeting-count">${percent(row.direct, row.direct + row.relayed)} direct <span class="faint">of ${number(row.direct + row.relayed)}</span></span>
    </li>`)}</ul>` : html`<${Empty} icon="pairs" title="No attempt ended yet">As soon as two members of one network are online, their way to each other is negotiated and counted here.<//>`}
  <//>`;
}

/** What needs a look, with what to do about it. @param {{ready: any, relays: any[] | undefined, overview: any}} props */
function Alerts({ ready, relays, overview }) {
  /** @type {{tone: string, title: string, text: string, href?: string}[]} */
  const alerts = [];
  for (const check of ready?.checks ?? []) {
    if (!check.ok) alerts.push({ tone: 'bad', title: `${check.name} is not ready: ${check.problem}`, text: check.remedy ?? '' });
  }
  if (relays && !relays.length) alerts.push({ tone: 'bad', title: 'No relay gives a sign of life', text: 'Pairs without a direct path cannot talk: start a relay, or look into its log.', href: '#/relays' });
  for (const relay of relays ?? []) {
    const share = relay.max_slots ? relay.slots / relay.max_slots : 0;
    if (share > 0.9) alerts.push({ tone: 'warn', title: `Relay ${short(relay.relay)} is ${percent(relay.slots, relay.max_slots)} full`, text: 'New pairs go elsewhere. Add a relay in its region.', href: '#/relays' });
    if (relay.draining) alerts.push({ tone: 'info', title: `Relay ${short(relay.relay)} is being drained`, text: relay.slots ? `${counted(relay.slots, 'pair')} to be moved. Resume it if this is not wanted any more.` : 'It is empty and may be stopped. Resume it if this is not wanted any more.', href: '#/relays' });
  }
  if (relays?.length && relays.every((relay) => relay.draining)) alerts.push({ tone: 'bad', title: 'Every relay is being drained', text: 'Pairs that need one stay where they are, and new ones find no room. Resume one.', href: '#/relays' });
  if (overview && !overview.gateways) alerts.push({ tone: 'bad', title: 'No gateway tells its figures', text: 'Clients cannot sign in: start a gateway, or see why the bus does not carry its figures.' });
  if (!alerts.length) {
    return ready ? html`<div class="calm-line"><span class="dot good" />Nothing needs a look: every check passes${relays ? `, ${counted(relays.length, 'relay')} alive` : ''}.</div>` : null;
  }
  return html`<ul class="alerts" aria-label="Alerts">${alerts.map((alert) => html`<li key=${alert.title} class=${alert.tone}><${Icon} name=${alert.tone === 'info' ? 'info' : 'warn'} /><div><b>${alert.title}</b><span>${alert.text}</span></div>${alert.href && html`<a class="quiet" href=${alert.href} aria-label=${`Look at: ${alert.title}`}>Look</a>`}</li>`)}</ul>`;
}

