// Accounts of people: the list, and one of them with its people, clients, networks, plan and usage, and what may be done.

import { html, useState } from '../../vendor/preact-htm.js';
import { ask, say } from '../acting.js';
import { Meter } from '../charts.js';
import { get, send } from '../api.js';
import { bytes, number, rate, short } from '../format.js';
import { go, to, usePages, usePoll, useSettled } from '../hooks.js';
import { Icon } from '../icons.js';
import { Badge, Card, ClientLink, Dialog, Empty, Facts, Head, Id, List, Loaded, Table, Tabs, Trouble, When } from '../ui.js';

const TONES = /** @type {Record<string, string>} */ ({ owner: 'accent', admin: 'info', member: 'calm' });

/** What is searched for: an e-mail address, or the first digits of an id. @param {string} text */
function search(text) {
  if (text.includes('@') && /.@.+\../.test(text)) return { email: text };
  return /^[0-9a-f]{1,32}$/i.test(text) ? { id: text } : {};
}

export function Accounts() {
  const [text, setText] = useState('');
  const wanted = useSettled(text.trim());
  const pages = usePages('/v1/accounts', search(wanted));
  const vain = wanted && !Object.keys(search(wanted)).length;
  return html`<${Head} title="Accounts" lead="People who share a plan, clients and networks.">
      <label class="filter"><${Icon} name="search" /><span class="hidden">E-mail address, or first digits of an id</span><input type="search" placeholder="Whole e-mail, or id …" value=${text} onInput=${(/** @type {any} */ event) => setText(event.target.value)} /></label>
    <//>
    ${vain && html`<p class="note" role="status">Accounts are found by a whole e-mail address of somebody in them, or by the first digits of their id. All are listed.</p>`}
    <${Card} flush><${List} pages=${pages} label="Accounts" id=${(/** @type {any} */ one) => one.account} columns=${COLUMNS}
      empty=${wanted ? html`<${Empty} icon="search" title="No account is found so">An e-mail address has to be whole; an id is found by its first digits.<//>` : html`<${Empty} icon="accounts" title="Nobody has signed up yet">People do so on the page of the self-service listener. Clients need no account.<//>`} /><//>`;
}

/** @param {{account: any}} props */
const Standing = ({ account }) => (account.suspended ? html`<${Badge} tone="bad">Suspended</${Badge}>` : html`<${Badge} tone="good">Good</${Badge}>`);

const COLUMNS = [
  { name: 'Account', wide: true, cell: (/** @type {any} */ one) => html`<a class="stack row-link" href=${to('accounts', one.account)}><span>${one.owner ?? 'without an owner'}</span><code class="faint">${short(one.account)}</code></a>` },
  { name: 'Plan', cell: (/** @type {any} */ one) => one.plan },
  { name: 'State', cell: (/** @type {any} */ one) => html`<${Standing} account=${one} />` },
  { name: 'People', end: true, cell: (/** @type {any} */ one) => number(one.people) },
  { name: 'Clients', end: true, cell: (/** @type {any} */ one) => number(one.clients) },
  { name: 'Made', end: true, cell: (/** @type {any} */ one) => html`<${When} at=${one.made_ms} />` },
];

/** @param {{id: string, has: (path: string) => boolean}} props */
export function Account({ id, has }) {
  const polled = usePoll((signal) => get(`/v1/accounts/${id}`, { signal }), [id]);
  const [tab, setTab] = useState('people');
  const [planning, setPlanning] = useState(false);
  const account = polled.data;
  const owner = account?.people.find((/** @type {any} */ one) => one.role === 'owner');
  const name = owner?.email ?? short(id);
  const path = `/v1/accounts/${id}`;
  const suspend = () => ask(account.suspended
    ? { title: `Let ${name} act again?`, text: `Its people may change things again, and its clients have the plan ${account.plan}.`, verb: 'Resume', run: () => send('PUT', `${path}/standing`, { body: { suspended: false } }), done: 'The account is resumed.', after: polled.reload }
    : { title: `Suspend ${name}?`, text: 'Its people may only look, and its clients have the plan of those without an account. Nothing is deleted, and nobody is disconnected.', verb: 'Suspend', danger: true, name, run: () => send('PUT', `${path}/standing`, { body: { suspended: true } }), done: 'The account is suspended.', after: polled.reload });
  const erase = () => ask({ title: `Erase ${name}?`, text: 'The account goes, and everybody who is in no other. Their clients and networks go on without one. There is no way back.', verb: 'Erase account', danger: true, name, run: () => send('DELETE', path), done: `${name} is erased.`, after: () => go('#/accounts') });
  const save = async () => {
    try {
      const link = document.createElement('a');
      link.href = URL.createObjectURL(new Blob([JSON.stringify(await get(`${path}/export`), null, 2)], { type: 'application/json' }));
      link.download = `buri-account-${short(id)}.json`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
      say('The export is saved.');
    } catch (error) {
      say(error instanceof Error ? error.message : String(error));
    }
  };
  return html`<${Head} title=${name} kind="Account" back=${{ to: '#/accounts', text: 'Accounts' }}>
      ${account && html`
        ${has('/v1/plans') && html`<button type="button" class="button" onClick=${() => setPlanning(true)}>Change plan</button>`}
        <button type="button" class="button" onClick=${save}><${Icon} name="down" />Export</button>
        <button type="button" class=${`button ${account.suspended ? '' : 'danger'}`} onClick=${suspend}>${account.suspended ? 'Resume' : 'Suspend …'}</button>
        <button type="button" class="button danger" onClick=${erase}>Erase …</button>`}
    <//>
    <${Loaded} of=${polled}>${() => html`
      <div class="columns">
        <${Card}><${Facts} rows=${[
          ['Owner', owner?.email ?? html`<span class="faint">nobody</span>`],
          ['State', html`<${Standing} account=${account} />`],
          ['Id', html`<${Id} id=${id} />`],
          ['Made', html`<${When} at=${account.made_ms} />`],
        ]} /><//>
        <${Card} title=${`Plan ${account.plan}`} note=${account.suspended ? 'Suspended: its clients have the plan of those without an account.' : undefined}><${Allowance} account=${account} /><//>
      </div>
      <${Tabs} label="Parts of the account" current=${tab} onPick=${setTab} tabs=${[
        { id: 'people', name: 'People', count: account.people.length },
        { id: 'clients', name: 'Clients', count: account.clients.length },
        { id: 'networks', name: 'Networks', count: account.networks.length },
        { id: 'usage', name: 'Usage' },
      ]} />
      <div role="tabpanel" aria-labelledby=${`tab-${tab}`}>
        ${tab === 'people' && html`<${People} account=${account} path=${path} reload=${polled.reload} />`}
        ${tab === 'clients' && html`<${Clients} account=${account} path=${path} reload=${polled.reload} />`}
        ${tab === 'networks' && html`<${Card} flush>${account.networks.length ? html`<${Table} label="Networks" items=${account.networks} id=${(/** @type {any} */ one) => one.network} columns=${NETWORKS} />` : html`<${Empty} icon="networks" title="Its clients are in no network" />`}<//>`}
        ${tab === 'usage' && html`<${Card} title="Relayed for it" note="For all of its clients, by month, as far as relays reported it">${account.relayed.length ? html`<${Months} relayed=${account.relayed} />` : html`<${Empty} icon="usage" title="Nothing was relayed">All of its traffic went directly, or there was none.<//>`}<//>`}
      </div>`}<//>
    ${planning && html`<${ChangePlan} path=${path} name=${name} now=${account.plan} close=${() => setPlanning(false)} done=${polled.reload} />`}`;
}

/** @param {{account: any}} props */
function Allowance({ account }) {
  const { limits, relayed, clients } = account;
  const month = new Date().toISOString().slice(0, 7);
  const used = relayed.find((/** @type {any} */ one) => one.month === month)?.bytes ?? 0;
  const most = limits.relay_bytes_per_month;
  return html`<ul class="loads">
    <li><div><b>Clients</b><span class="push faint">${number(clients.length)} of ${number(limits.clients)}</span></div><${Meter} part=${clients.length} all=${limits.clients} label="Clients" /></li>
    <li><div><b>Relayed this month</b><span class="push faint">${bytes(used)}${most === null ? ', no limit' : ` of ${bytes(most)}`}</span></div>${most !== null && html`<${Meter} part=${used} all=${most} label="Relayed this month" />`}</li>
  </ul><p class="note above">${number(limits.members_per_network)} members in a network, ${rate(limits.relay_bytes_per_second)} over relays for each pair</p>`;
}

/** @param {{relayed: any[]}} props */
function Months({ relayed }) {
  const most = Math.max(1, ...relayed.map((one) => one.bytes));
  return html`<ul class="bars">${relayed.map((one) => html`<li key=${one.month}><span>${one.month}</span><span class="track"><i style=${{ width: `${(100 * one.bytes) / most}%` }} /></span><b>${bytes(one.bytes)}</b></li>`)}</ul>`;
}

const NETWORKS = [
  { name: 'Network', wide: true, cell: (/** @type {any} */ one) => html`<a class="row-link" href=${to('networks', one.network)}>${one.name}</a>` },
  { name: 'Members', cell: (/** @type {any} */ one) => `${number(one.members)} of ${number(one.seats)}` },
  { name: 'Owner', cell: (/** @type {any} */ one) => html`<a class="quiet" href=${to('clients', one.owner)}><code>${short(one.owner)}</code></a>` },
  { name: 'Belongs to', end: true, cell: (/** @type {any} */ one) => (one.awaiting ? html`<${Badge} tone="info">awaits approval</${Badge}>` : one.attached ? html`<${Badge} tone="accent">the account</${Badge}>` : html`<${Badge}>its owner</${Badge}>`) },
];

/** @param {{account: any, path: string, reload: () => void}} props */
function People({ account, path, reload }) {
  const name = account.people.find((/** @type {any} */ one) => one.role === 'owner')?.email ?? short(account.account);
  const give = (/** @type {any} */ one) => ask({ title: `Give the account to ${one.email}?`, text: `${one.email} owns it from now on; ${name} becomes an admin. Do this only when the owner asks for it, or cannot any more.`, verb: 'Transfer', danger: true, name: one.email, run: () => send('PUT', `${path}/owner`, { body: { person: one.person } }), done: `${one.email} owns the account now.`, after: reload });
  const columns = [
    { name: 'Person', wide: true, cell: (/** @type {any} */ one) => html`<b>${one.email}</b>` },
    { name: 'Role', cell: (/** @type {any} */ one) => html`<${Badge} tone=${TONES[one.role]}>${one.role}</${Badge}>` },
    { name: 'Signs in with', cell: (/** @type {any} */ one) => [one.password && 'password', one.provider].filter(Boolean).join(', ') || 'nothing' },
    { name: 'Since', cell: (/** @type {any} */ one) => html`<${When} at=${one.since_ms} />` },
    { name: 'Actions', end: true, cell: (/** @type {any} */ one) => (one.role === 'owner' ? null : html`<button type="button" class="quiet" aria-label=${`Make owner: ${one.email}`} onClick=${() => give(one)}>Make owner</button>`) },
  ];
  const invited = [
    { name: 'Person', wide: true, cell: (/** @type {any} */ one) => html`<b>${one.email}</b>` },
    { name: 'As', cell: (/** @type {any} */ one) => html`<${Badge} tone=${TONES[one.role]}>${one.role}</${Badge}>` },
    { name: 'Good until', end: true, cell: (/** @type {any} */ one) => html`<${When} at=${one.expires_ms} />` },
  ];
  return html`<${Card} flush><${Table} label="People" items=${account.people} id=${(/** @type {any} */ one) => one.person} columns=${columns} /><//>
    ${account.invitations.length > 0 && html`<${Card} flush class="below" title="Invited"><${Table} label="Invitations" items=${account.invitations} id=${(/** @type {any} */ one) => one.email} columns=${invited} /><//>`}`;
}

/** @param {{account: any, path: string, reload: () => void}} props */
function Clients({ account, path, reload }) {
  const nameOf = (/** @type {any} */ one) => one.nick || short(one.client);
  const detach = (/** @type {any} */ one) => ask({ title: `Detach ${nameOf(one)}?`, text: 'It goes on, on the plan of those without an account. A code of somebody in the account brings it back.', verb: 'Detach', danger: true, name: nameOf(one), run: () => send('DELETE', `${path}/clients/${one.client}`), done: `${nameOf(one)} is detached.`, after: reload });
  const columns = [
    { name: 'Client', wide: true, cell: (/** @type {any} */ one) => html`<${ClientLink} id=${one.client} nick=${one.nick} />` },
    { name: 'Registered', cell: (/** @type {any} */ one) => html`<${When} at=${one.registered_ms} />` },
    { name: 'Seen', cell: (/** @type {any} */ one) => html`<${When} at=${one.seen_ms} />` },
    { name: 'Actions', end: true, cell: (/** @type {any} */ one) => html`<button type="button" class="quiet bad" aria-label=${`Detach ${nameOf(one)}`} onClick=${() => detach(one)}>Detach</button>` },
  ];
  return html`<${Card} flush>${account.clients.length ? html`<${Table} label="Clients" items=${account.clients} id=${(/** @type {any} */ one) => one.client} columns=${columns} />` : html`<${Empty} icon="clients" title="No client is attached">Somebody of the account makes a code on their page; the client shows it with <code>buri account attach</code>.<//>`}<//>`;
}

/** @param {{path: string, name: string, now: string, close: () => void, done: () => void}} props */
function ChangePlan({ path, name, now, close, done }) {
  const plans = usePoll((signal) => get('/v1/plans', { signal }), [], 60_000);
  const [picked, pick] = useState(now);
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  const save = async (/** @type {Event} */ event) => {
    event.preventDefault();
    try {
      const lost = (await send('PUT', `${path}/plan`, { body: { plan: picked } })).data?.seats_lost?.members;
      close();
      done();
      say(`${name} has the plan ${picked} now.${lost ? ` Seats lost by it: ${number(lost)}.` : ''}`);
    } catch (error) {
      setProblem(error);
    }
  };
  return html`<${Dialog} title=${`Plan of ${name}`} onClose=${close}><form onSubmit=${save}>
    <p>It holds for all clients of the account, and for the networks that they own. Where these have more members than it allows, nobody is removed: some have no seat until there is one.</p>
    <${Loaded} of=${plans} lines=${3}>${(/** @type {any} */ data) => html`<div class="choices">${data.items.map((/** @type {any} */ plan) => html`<label key=${plan.name} class="choice"><input type="radio" name="plan" value=${plan.name} checked=${plan.name === picked} onChange=${() => pick(plan.name)} /><span><b>${plan.name}</b><small>${plan.members_per_network} members, ${rate(plan.relay_bytes_per_second)} over relays</small></span></label>`)}</div>`}<//>
    ${problem && html`<${Trouble} small problem=${problem} />`}
    <div class="dialog-actions"><button type="button" class="button" onClick=${close}>Cancel</button><button class="button primary" disabled=${picked === now}>Change plan</button></div>
  </form><//>`;
}
