// Clients: the list, and one of them with its session, its networks, what was relayed for it, and what may be done.

import { html, useState } from '../../vendor/preact-htm.js';
import { ask } from '../acting.js';
import { change, get, send } from '../api.js';
import { bytes, number, short } from '../format.js';
import { to, usePages, usePoll, useSettled } from '../hooks.js';
import { Icon } from '../icons.js';
import { Avatar, Badge, Card, ClientLink, Dialog, Empty, Facts, Head, Id, List, Loaded, Table, Trouble, When } from '../ui.js';
import { CLASSES } from '../words.js';

export function Clients() {
  const [nick, setNick] = useState('');
  const pages = usePages('/v1/clients', { nick: useSettled(nick.trim()) });
  return html`<${Head} title="Clients" lead="Every machine that ever registered its key here.">
      <label class="filter"><${Icon} name="search" /><span class="hidden">Nickname begins with</span><input type="search" placeholder="Nickname begins with …" value=${nick} onInput=${(/** @type {any} */ event) => setNick(event.target.value)} /></label>
    <//>
    <${Card} flush><${List} pages=${pages} label="Clients" id=${(/** @type {any} */ one) => one.client} columns=${COLUMNS}
      empty=${nick ? html`<${Empty} icon="search" title="Nobody is called so">Nicknames are searched by how they begin. Ids and addresses: the search on top.<//>` : html`<${Empty} icon="clients" title="No client has registered yet">Start <code>buri daemon</code> on a machine: it shows up here at once.<//>`} /><//>`;
}

const COLUMNS = [
  { name: 'Client', wide: true, cell: (/** @type {any} */ one) => html`<${ClientLink} id=${one.client} nick=${one.nick} />` },
  { name: 'Address', cell: (/** @type {any} */ one) => (one.address4 ? html`<code>${one.address4}</code>` : html`<span class="faint">none yet</span>`) },
  { name: 'Plan', cell: (/** @type {any} */ one) => one.plan },
  { name: 'State', cell: (/** @type {any} */ one) => (one.blocked ? html`<${Badge} tone="bad">Blocked</${Badge}>` : html`<span class="faint">fine</span>`) },
  { name: 'Seen', end: true, cell: (/** @type {any} */ one) => html`<${When} at=${one.seen_ms} />` },
];

/** @param {{id: string, has: (path: string) => boolean}} props */
export function Client({ id, has }) {
  const client = usePoll((signal) => get(`/v1/clients/${id}`, { signal }), [id]);
  const data = client.data;
  const name = data?.nick || short(id);
  const [planning, setPlanning] = useState(false);
  const end = () => ask({
    title: `Disconnect ${name}?`,
    text: 'Its control connection ends. It comes back by itself within seconds, and its tunnels go on meanwhile.',
    verb: 'Disconnect',
    run: () => send('DELETE', `/v1/sessions/${id}`),
    done: `${name} was disconnected.`,
    after: client.reload,
  });
  return html`<${Head} title=${name} kind="Client" back=${{ to: '#/clients', text: 'Clients' }}>
      ${data && has('/v1/plans') && html`<button type="button" class="button" onClick=${() => setPlanning(true)}>Change plan</button>`}
      ${data && has('/v1/sessions/{client}') && html`<button type="button" class="button" disabled=${!data.session} onClick=${end}>Disconnect</button>`}
    <//>
    <${Loaded} of=${client}>${() => html`
      <div class="columns">
        <${Card}>
          <div class="who"><${Avatar} large id=${id} nick=${data.nick} tone=${data.session ? 'good' : 'calm'} /><div><b>${data.nick || 'Unnamed'}</b><p>${data.session ? html`Online since <${When} at=${data.session.since_ms} />` : html`Offline, seen <${When} at=${data.seen_ms} />`}</p></div>${data.blocked && html`<${Badge} tone="bad">Blocked</${Badge}>`}</div>
          <${Facts} rows=${[
            ['Id', html`<${Id} id=${id} />`],
            ['Address', data.address4 ? html`<code>${data.address4}</code>` : html`<span class="faint">none until it joins a network</span>`],
            ['Plan', data.plan],
            ['Account', data.account ? html`<a class="quiet" href=${to('accounts', data.account)}><code>${short(data.account)}</code></a>` : html`<span class="faint">none</span>`],
            ['Registered', html`<${When} at=${data.registered_ms} />`],
            ...(data.session ? [['Gateway', html`<${Id} id=${data.session.gateway} />`]] : []),
          ]} />
        <//>
        <${Card} title="Its router" note="What decides whether pairs get a direct path"><${Router} session=${data.session} /><//>
      </div>
      <${Card} title="Networks" flush>${data.networks.length ? html`<${Table} label="Networks" items=${data.networks} id=${(/** @type {any} */ one) => one.network} columns=${MEMBERSHIPS} />` : html`<${Empty} icon="networks" title="In no network">It has no peers, and no address.<//>`}<//>
      <${Card} title="Relayed for it" note="By month, as far as relays reported it">${data.usage.length ? html`<${Months} usage=${data.usage} />` : html`<${Empty} icon="usage" title="Nothing was relayed">All of its traffic went directly, or there was none.<//>`}<//>`}<//>
    ${planning && html`<${ChangePlan} id=${id} name=${name} close=${() => setPlanning(false)} done=${client.reload} />`}`;
}

const MEMBERSHIPS = [
  { name: 'Network', wide: true, cell: (/** @type {any} */ one) => html`<a class="row-link" href=${to('networks', one.network)}>${one.name}</a>` },
  { name: 'Role', cell: (/** @type {any} */ one) => html`<${Badge} tone=${one.role === 'owner' ? 'accent' : 'calm'}>${one.role}</${Badge}>` },
  { name: 'Members', end: true, cell: (/** @type {any} */ one) => `${number(one.members)} of ${number(one.seats)}` },
];

/** @param {{session: any}} props */
export function Router({ session }) {
  if (!session) return html`<${Empty} icon="sessions" title="Offline">What its router is like is measured at every login.<//>`;
  const found = CLASSES[session.nat_class];
  if (!found) return html`<${Empty} icon="info" title="Not measured yet">The client is asking our reflectors just now, or cannot reach them.<//>`;
  return html`<div class="router"><div class="ease" role="img" aria-label=${`Ease ${found.ease} of 4`}>${[1, 2, 3, 4].map((nth) => html`<i key=${nth} class=${nth <= found.ease ? (found.ease > 2 ? 'good' : 'warn') : ''} />`)}</div><b>${found.name}</b><p>It ${found.text}.</p></div>`;
}

/** @param {{usage: any[]}} props */
function Months({ usage }) {
  const most = Math.max(...usage.map((one) => one.bytes), 1);
  return html`<ul class="bars">${usage.slice(0, 12).map((one) => html`<li key=${one.month}><span>${one.month}</span><span class="track"><i style=${{ width: `${(100 * one.bytes) / most}%` }} /></span><b>${bytes(one.bytes)}</b></li>`)}</ul>`;
}

/** @param {{id: string, name: string, close: () => void, done: () => void}} props */
function ChangePlan({ id, name, close, done }) {
  const plans = usePoll(async (signal) => {
    const [all, now] = await Promise.all([get('/v1/plans', { signal }), send('GET', `/v1/clients/${id}/plan`, { signal })]);
    return { all: all.items, now: now.data.plan, etag: now.etag };
  }, [id], 60_000);
  const [picked, pick] = useState('');
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  const save = async (/** @type {Event} */ event) => {
    event.preventDefault();
    try {
      await change('PUT', `/v1/clients/${id}/plan`, { plan: picked }, plans.data?.etag);
      close();
      done();
    } catch (error) {
      setProblem(error);
    }
  };
  const chosen = picked || plans.data?.now;
  return html`<${Dialog} title=${`Plan of ${name}`} onClose=${close}><form onSubmit=${save}>
    <p>Where a network of its own has more members than the plan allows, nobody is removed: some have no seat until there is one.</p>
    <${Loaded} of=${plans} lines=${3}>${(/** @type {any} */ data) => html`<div class="choices">${data.all.map((/** @type {any} */ plan) => html`<label key=${plan.name} class="choice"><input type="radio" name="plan" value=${plan.name} checked=${plan.name === chosen} onChange=${() => pick(plan.name)} /><span><b>${plan.name}</b><small>${plan.members_per_network} members, ${plan.relay_bytes_per_second === null ? 'no limit' : `${bytes(plan.relay_bytes_per_second)}/s`} over relays</small></span></label>`)}</div>`}<//>
    ${problem && html`<${Trouble} small problem=${problem} />`}
    <div class="dialog-actions"><button type="button" class="button" onClick=${close}>Cancel</button><button class="button primary" disabled=${!picked || picked === plans.data?.now}>Change plan</button></div>
  </form><//>`;
}

