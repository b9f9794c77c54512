// Networks: the list, and one of them with its members, who waits, who must not come in, and its invites.

import { html, useState } from '../../vendor/preact-htm.js';
import { ask } from '../acting.js';
import { change, get, send } from '../api.js';
import { counted, number, short } from '../format.js';
import { go, to, usePages, usePoll, useSettled } from '../hooks.js';
import { Icon } from '../icons.js';
import { Badge, Card, ClientLink, Dialog, Empty, Facts, Head, Id, List, Loaded, Table, Tabs, Trouble, When } from '../ui.js';
import { KINDS } from '../words.js';
import { Connections } from './connections.js';

export function Networks() {
  const [name, setName] = useState('');
  const pages = usePages('/v1/networks', { name: useSettled(name.trim()) });
  return html`<${Head} title="Networks" lead="Machines that see each other as on one cable.">
      <label class="filter"><${Icon} name="search" /><span class="hidden">Name begins with</span><input type="search" placeholder="Name begins with …" value=${name} onInput=${(/** @type {any} */ event) => setName(event.target.value)} /></label>
    <//>
    <${Card} flush><${List} pages=${pages} label="Networks" id=${(/** @type {any} */ one) => one.network} columns=${COLUMNS}
      empty=${name ? html`<${Empty} icon="search" title="No network is called so">Names are searched by how they begin; letters that look alike count as the same.<//>` : html`<${Empty} icon="networks" title="There is no network yet">Somebody makes the first one with <code>buri create NAME</code>.<//>`} /><//>`;
}

const COLUMNS = [
  { name: 'Network', wide: true, cell: (/** @type {any} */ one) => html`<a class="row-link" href=${to('networks', one.network)}>${one.name}</a>` },
  { name: 'Members', cell: (/** @type {any} */ one) => html`${number(one.members)} <span class="faint">of ${number(one.seats)}</span>` },
  { name: 'Kind', cell: (/** @type {any} */ one) => KINDS[one.kind]?.name ?? one.kind },
  { name: 'Owner', cell: (/** @type {any} */ one) => html`<a class="quiet" href=${to('clients', one.owner)}><code>${short(one.owner)}</code></a>` },
  { name: 'Made', end: true, cell: (/** @type {any} */ one) => html`<${When} at=${one.created_ms} />` },
];

/** @param {{id: string}} props */
export function Network({ id }) {
  const polled = usePoll((signal) => send('GET', `/v1/networks/${id}`, { signal }), [id]);
  const members = usePages(`/v1/networks/${id}/members`, {}, 50);
  const [tab, setTab] = useState('members');
  const [renaming, setRenaming] = useState(false);
  const network = polled.data?.data;
  const etag = polled.data?.etag;
  const reload = () => {
    polled.reload();
    members.reload();
  };
  const name = network?.name ?? short(id);
  const toggle = (/** @type {'locked' | 'approval'} */ term, /** @type {string} */ title, /** @type {string} */ text, /** @type {string} */ verb) => ask({ title, text, verb, run: () => change('PATCH', `/v1/networks/${id}`, { [term]: !network[term] }, etag), done: 'Changed.', after: reload });
  const remove = () => ask({
    title: `Delete ${name}?`,
    text: `Its ${counted(network.members, 'membership')} go with it, and every tunnel in it ends. There is no way back.`,
    verb: 'Delete network',
    danger: true,
    name,
    run: () => change('DELETE', `/v1/networks/${id}`, undefined, etag),
    done: `${name} was deleted.`,
    after: () => go('#/networks'),
  });
  return html`<${Head} title=${name} kind="Network" back=${{ to: '#/networks', text: 'Networks' }}>
      ${network && html`
        <button type="button" class="button" onClick=${() => setRenaming(true)}>Rename</button>
        <button type="button" class="button" onClick=${() => (network.locked ? toggle('locked', `Unlock ${name}?`, 'People come in again, with the password or an invite.', 'Unlock') : toggle('locked', `Lock ${name}?`, 'Nobody comes in until it is unlocked. Members stay.', 'Lock'))}>${network.locked ? 'Unlock' : 'Lock'}</button>
        <button type="button" class="button danger" onClick=${remove}>Delete …</button>`}
    <//>
    <${Loaded} of=${polled}>${() => html`
      <${Card}><${Facts} rows=${[
        ['Members', `${number(network.members)} of ${number(network.seats)}`],
        ['Kind', html`${KINDS[network.kind]?.name ?? network.kind} <span class="faint">${KINDS[network.kind]?.text}</span>`],
        ['Owner', html`<a class="quiet" href=${to('clients', network.owner)}><code>${short(network.owner)}</code></a>`],
        ['Account', network.account ? html`<a class="quiet" href=${to('accounts', network.account)}><code>${short(network.account)}</code></a>` : html`<span class="faint">none: its owner has none</span>`],
        ['Who comes in', html`<span class="inline">${network.locked ? html`<${Badge} tone="warn"><${Icon} name="lock" />Locked: nobody</${Badge}>` : network.approval ? html`<${Badge} tone="info">Whoever is approved</${Badge}>` : html`<${Badge} tone="good">Whoever has the password</${Badge}>`}<button type="button" class="quiet" onClick=${() => (network.approval ? toggle('approval', 'Waive approval?', 'Whoever has the password comes in at once.', 'Waive approval') : toggle('approval', 'Ask for approval?', 'Whoever comes with the password waits for an owner or admin of the network.', 'Ask for approval'))}>${network.approval ? 'Waive approval' : 'Ask for approval'}</button></span>`],
        ['Made', html`<${When} at=${network.created_ms} />`],
        ['Id', html`<${Id} id=${id} />`],
        ['Revision', number(network.revision)],
      ]} /><//>
      <${Tabs} label="Parts of the network" current=${tab} onPick=${setTab} tabs=${[
        { id: 'members', name: 'Members', count: network.members },
        { id: 'connections', name: 'Connections' },
        { id: 'waiting', name: 'Waiting', count: network.applicants.length },
        { id: 'bans', name: 'Banned', count: network.bans.length },
        { id: 'invites', name: 'Invites' },
      ]} />
      <div role="tabpanel" aria-labelledby=${`tab-${tab}`}>
        ${tab === 'members' && html`<${Card} flush><${Members} network=${network} pages=${members} reload=${reload} etag=${etag} /><//>`}
        ${tab === 'connections' && html`<${Card}><${Connections} members=${members.items} more=${Boolean(members.next)} /><//>`}
        ${tab === 'waiting' && html`<${Card} flush><${People} people=${network.applicants} empty="Nobody waits" text="With approval asked for, whoever comes by password shows up here. Owners and admins of the network decide." since="Asked" /><//>`}
        ${tab === 'bans' && html`<${Card} flush><${People} people=${network.bans} empty="Nobody is banned" text="Whoever is banned does not come back, whatever they know." since="Banned" act=${(/** @type {any} */ one) => html`<button type="button" class="quiet" onClick=${() => ask({ title: 'Lift this ban?', text: 'The client may come in again, like anybody else.', verb: 'Lift ban', run: () => send('DELETE', `/v1/networks/${id}/bans/${one.client}`), done: 'The ban was lifted.', after: reload })}>Lift</button>`} /><//>`}
        ${tab === 'invites' && html`<${Card} flush><${Invites} id=${id} /><//>`}
      </div>`}<//>
    ${renaming && html`<${Rename} id=${id} name=${name} etag=${etag} close=${() => setRenaming(false)} done=${reload} />`}`;
}

/** @param {{network: any, pages: any, reload: () => void, etag: string | null | undefined}} props */
function Members({ network, pages, reload, etag }) {
  const id = network.network;
  const nameOf = (/** @type {any} */ one) => one.nick || short(one.client);
  const evict = (/** @type {any} */ one) => ask({ title: `Evict ${nameOf(one)}?`, text: `It leaves ${network.name} at once. It may come back with the password; ban it to keep it out.`, verb: 'Evict', danger: true, name: nameOf(one), run: () => send('DELETE', `/v1/networks/${id}/members/${one.client}`), done: `${nameOf(one)} was evicted.`, after: reload });
  const ban = (/** @type {any} */ one) => ask({ title: `Ban ${nameOf(one)}?`, text: `It leaves ${network.name} at once and does not come back until the ban is lifted.`, verb: 'Ban', danger: true, name: nameOf(one), run: () => send('PUT', `/v1/networks/${id}/bans/${one.client}`), done: `${nameOf(one)} was banned.`, after: reload });
  const own = (/** @type {any} */ one) => ask({ title: `Give ${network.name} to ${nameOf(one)}?`, text: 'It owns the network from now on; the owner until now becomes an admin.', verb: 'Transfer', name: network.name, run: () => change('PATCH', `/v1/networks/${id}`, { owner: one.client }, etag), done: `${nameOf(one)} owns ${network.name} now.`, after: reload });
  const columns = [
    { name: 'Member', wide: true, cell: (/** @type {any} */ one) => html`<${ClientLink} id=${one.client} nick=${one.nick} tone=${one.online ? 'good' : 'calm'} />` },
    { name: 'Role', cell: (/** @type {any} */ one) => html`<${Badge} tone=${one.role === 'owner' ? 'accent' : one.role === 'admin' ? 'info' : 'calm'}>${one.role}</${Badge}>` },
    { name: 'Address', cell: (/** @type {any} */ one) => (one.address4 ? html`<code>${one.address4}</code>` : html`<span class="faint">none</span>`) },
    { name: 'State', cell: (/** @type {any} */ one) => html`${one.online ? 'Online' : html`<span class="faint">Offline</span>`}${one.seated === false && html` <${Badge} tone="warn">no seat</${Badge}>`}${one.kept && html` <${Badge} tone="info">kept</${Badge}>`}` },
    { name: 'Joined', cell: (/** @type {any} */ one) => html`<${When} at=${one.joined_ms} />` },
    { name: 'Actions', end: true, cell: (/** @type {any} */ one) => (one.role === 'owner' ? null : html`<span class="row-actions"><button type="button" class="quiet" onClick=${() => own(one)} aria-label=${`Make owner: ${nameOf(one)}`}>Make owner</button><button type="button" class="quiet" onClick=${() => evict(one)} aria-label=${`Evict ${nameOf(one)}`}>Evict</button><button type="button" class="quiet bad" onClick=${() => ban(one)} aria-label=${`Ban ${nameOf(one)}`}>Ban</button></span>`) },
  ];
  return html`<${List} pages=${pages} label="Members" id=${(/** @type {any} */ one) => one.client} columns=${columns} empty=${html`<${Empty} icon="clients" title="Nobody is in it" />`} />`;
}

/** @param {{people: any[], empty: string, text: string, since: string, act?: (one: any) => any}} props */
function People({ people, empty, text, since, act }) {
  if (!people.length) return html`<${Empty} icon="clients" title=${empty}>${text}<//>`;
  const columns = [
    { name: 'Client', wide: true, cell: (/** @type {any} */ one) => html`<${ClientLink} id=${one.client} nick=${one.nick} />` },
    { name: since, cell: (/** @type {any} */ one) => html`<${When} at=${one.since_ms} />` },
    ...(act ? [{ name: 'Actions', end: true, cell: act }] : []),
  ];
  return html`<${Table} label=${since} items=${people} id=${(/** @type {any} */ one) => one.client} columns=${columns} />`;
}

/** @param {{id: string}} props */
function Invites({ id }) {
  const invites = usePoll((signal) => get(`/v1/networks/${id}/invites`, { signal }), [id]);
  const revoke = (/** @type {any} */ one) => ask({ title: 'Revoke this invite?', text: `${counted(one.remaining, 'more client')} could have come in with it. Those that came stay.`, verb: 'Revoke', danger: true, run: () => send('DELETE', `/v1/networks/${id}/invites/${one.invite}`), done: 'The invite was revoked.', after: invites.reload });
  const columns = [
    { name: 'Invite', wide: true, cell: (/** @type {any} */ one) => html`<${Id} id=${one.invite} />` },
    { name: 'Made by', cell: (/** @type {any} */ one) => html`<a class="quiet" href=${to('clients', one.maker)}><code>${short(one.maker)}</code></a>` },
    { name: 'Left', cell: (/** @type {any} */ one) => `${one.remaining} of ${one.uses}` },
    { name: 'Expires', cell: (/** @type {any} */ one) => html`<${When} at=${one.expires_ms} />` },
    { name: 'Actions', end: true, cell: (/** @type {any} */ one) => html`<button type="button" class="quiet bad" onClick=${() => revoke(one)}>Revoke</button>` },
  ];
  return html`<${Loaded} of=${invites}>${(/** @type {any} */ data) => (data.items.length ? html`<${Table} label="Invites" items=${data.items} id=${(/** @type {any} */ one) => one.invite} columns=${columns} />` : html`<${Empty} icon="tokens" title="No invite is open">Owners and admins make them with <code>buri invite</code>. What is in the link never comes here.<//>`)}<//>`;
}

/** @param {{id: string, name: string, etag: string | null | undefined, close: () => void, done: () => void}} props */
function Rename({ id, name, etag, close, done }) {
  const [next, setNext] = useState(name);
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  const save = async (/** @type {Event} */ event) => {
    event.preventDefault();
    try {
      await change('PATCH', `/v1/networks/${id}`, { name: next }, etag);
      close();
      done();
    } catch (error) {
      setProblem(error);
    }
  };
  return html`<${Dialog} title=${`Rename ${name}`} onClose=${close}><form onSubmit=${save}>
    <label class="field"><span>New name</span><input autofocus maxlength="64" value=${next} onInput=${(/** @type {any} */ event) => setNext(event.target.value)} /></label>
    <p class="note">Members see the new name at once. Invites and the password stay good.</p>
    ${problem && html`<${Trouble} small problem=${problem} />`}
    <div class="dialog-actions"><button type="button" class="button" onClick=${close}>Cancel</button><button class="button primary" disabled=${!next.trim() || next === name}>Rename</button></div>
  </form><//>`;
}
