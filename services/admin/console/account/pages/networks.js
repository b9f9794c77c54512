// My networks as lists of members, in the spirit of an instant messenger: who is there, and how my machine reaches them.

import { html, useEffect, useRef, useState } from '../../vendor/preact-htm.js';
import { ask } from '../../app/acting.js';
import { counted, short } from '../../app/format.js';
import { usePoll } from '../../app/live.js';
import { Icon } from '../../app/icons.js';
import { Avatar, Badge, Card, Empty, Facts, Head, Id, Loaded, When } from '../../app/ui.js';
import { chosen, get, send, sentence } from '../api.js';

const EVERY_MS = 10_000;
/** From so many members on there is a field to look for one. */
const MANY = 12;

/** How a direct path runs. @type {Record<string, string>} */
const VIAS = {
  ipv4: 'over the internet',
  ipv6: 'over the internet, by IPv6',
  lan: 'inside your local network',
  'port-mapping': 'through a port that a router opened',
  hairpin: 'through the router that both are behind',
  tcp: 'over TCP',
};

/** @type {Record<string, {tone: string, rank: number, name: string}>} */
const STATES = {
  own: { tone: 'good', rank: 0, name: 'This one' },
  direct: { tone: 'good', rank: 1, name: 'Direct' },
  relayed: { tone: 'warn', rank: 2, name: 'Relayed' },
  online: { tone: 'info', rank: 3, name: 'Online' },
  offline: { tone: 'calm', rank: 4, name: 'Offline' },
};

/** @param {{role: string}} props */
export function Networks({ role }) {
  const [from, setFrom] = useState('');
  const [wanted, setWanted] = useState('');
  const polled = usePoll((signal) => get('/v1/account/networks', { query: { from }, signal }), [chosen(), from], EVERY_MS);
  // While others' eyes are asked for, what the last ones saw stays.
  const last = useRef(/** @type {any} */ (null));
  last.current = polled.data ?? last.current;
  const networks = { ...polled, data: last.current, loading: polled.loading && !last.current };
  useEffect(() => {
    if (from && polled.problem?.status === 404) setFrom('');
  }, [polled.problem]);
  const items = networks.data?.items ?? [];
  const everybody = new Map(items.flatMap((/** @type {any} */ one) => one.members).map((/** @type {any} */ one) => [one.client, one]));
  const online = [...everybody.values()].filter((one) => one.online).length;
  const lead = networks.data && (items.length ? `${counted(items.length, 'network')}, ${online} of ${counted(everybody.size, 'machine')} online` : 'Machines that see each other as on one cable.');
  return html`<${Head} title="Networks" lead=${lead || 'One moment …'}>
      ${everybody.size >= MANY && html`<label class="filter"><${Icon} name="search" /><span class="hidden">Machine</span><input type="search" placeholder="Find a machine" value=${wanted} onInput=${(/** @type {any} */ event) => setWanted(event.target.value)} /></label>`}
    <//>
    <${Loaded} of=${networks} lines=${6}>${() => (items.length ? items.map((/** @type {any} */ one) => html`<${Network} key=${one.network} network=${one} role=${role} wanted=${wanted.trim().toLowerCase()} look=${setFrom} reload=${networks.reload} />`) : html`<${None} />`)}<//>`;
}

function None() {
  return html`<${Card}><${Empty} icon="networks" title="No networks yet">
    Attach a machine to see the networks that it is in. A machine that is in none makes one with <code>buri create NAME</code>, or joins one with <code>buri join NAME</code>.<br />
    <a class="button primary above" href="#/machines">To my machines</a><//><//>`;
}

/** @param {{network: any, role: string, wanted: string, look: (client: string) => void, reload: () => void}} props */
function Network({ network, role, wanted, look, reload }) {
  const [folded, fold] = useState(false);
  const mine = network.members.filter((/** @type {any} */ one) => one.mine);
  const eyes = network.members.find((/** @type {any} */ one) => one.client === network.seen_by);
  const here = network.members.filter((/** @type {any} */ one) => one.online).length;
  const waiting = network.standing === 'awaiting-approval';
  const shown = network.members.filter((/** @type {any} */ one) => !wanted || nameOf(one).toLowerCase().includes(wanted) || one.address4?.startsWith(wanted));
  shown.sort((/** @type {any} */ a, /** @type {any} */ b) => STATES[a.state].rank - STATES[b.state].rank || nameOf(a).localeCompare(nameOf(b)));
  const id = `members-${network.network}`;
  return html`<section class="card flush net" aria-labelledby=${`name-${network.network}`}>
    <header class="net-head">
      <h2><button type="button" class="net-name" aria-expanded=${!folded} aria-controls=${id} onClick=${() => fold(!folded)}>
        <${Icon} name="open" /><span id=${`name-${network.network}`}>${network.name}</span>
        ${waiting ? html`<${Badge} tone="info" dot>Awaiting approval</${Badge}>` : html`<span class="count">${here} of ${network.members.length} online</span>`}
        ${network.applicants.length > 0 && html`<${Badge} tone="info">${counted(network.applicants.length, 'asks', 'ask')} to come in</${Badge}>`}
      </button></h2>
      ${mine.length > 1 && html`<label class="eyes"><span>Seen from</span><select value=${network.seen_by} onChange=${(/** @type {any} */ event) => look(event.target.value)}>${mine.map((/** @type {any} */ one) => html`<option key=${one.client} value=${one.client}>${nameOf(one)}</option>`)}</select></label>`}
    </header>
    <div id=${id} hidden=${folded}>
      ${waiting && html`<p class="net-note"><${Icon} name="lock" /><span>Your machine asked to come in. An owner or admin of ${network.name} has to let it in; then its members show up here.</span></p>`}
      ${!network.complete && html`<p class="net-note"><${Icon} name="info" /><span>Your machine is in so many networks that not all can be shown at once. <code>buri status</code> names them.</span></p>`}
      ${eyes && !eyes.online && network.members.length > 1 && html`<p class="net-note"><${Icon} name="info" /><span>${nameOf(eyes)} is offline: how it reaches the others shows when it is back.</span></p>`}
      <ul class="roster">
        ${network.applicants.map((/** @type {any} */ one) => html`<${Applicant} key=${one.id} one=${one} network=${network} />`)}
        ${shown.map((/** @type {any} */ one) => html`<${Member} key=${one.client} one=${one} network=${network} eyes=${eyes} />`)}
      </ul>
      ${wanted && !shown.length && html`<p class="net-note"><span>Nobody here is called so.</span></p>`}
      ${!waiting && html`<${Foot} network=${network} role=${role} mine=${mine} reload=${reload} />`}
    </div>
  </section>`;
}

/** @param {any} one */
const nameOf = (one) => one.nick || short(one.client ?? one.id);

/** A word as shells take it. @param {string} text */
const word = (text) => (/^[\w.@:-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

/** What is said in short of the sentence that tells why a pair is relayed, and what would help. @param {string | null} why */
function cause(why) {
  if (!why) return 'Relayed: no direct path was found';
  return why.startsWith('relayed ') ? sentence(why).slice(0, -1) : `Relayed: ${why.split(': relayed')[0]}`;
}

/** The one line under a name. @param {any} one @param {any} eyes */
function line(one, eyes) {
  if (one.state === 'own') return one.online ? 'Your machine, online' : 'Your machine, offline';
  if (one.seated === false) return one.online ? 'Online, without a seat' : 'Offline, without a seat';
  if (one.state === 'direct') return `Direct${one.via ? `, ${VIAS[one.via] ?? ''}` : ''}`;
  if (one.state === 'relayed') return cause(one.why);
  if (one.state === 'online') return eyes?.online ? 'Online, no connection to it yet' : 'Online';
  return one.mine ? 'Your machine, offline' : 'Offline';
}

/** More about how a machine is reached. @param {any} one @param {any} eyes @param {any} network */
function story(one, eyes, network) {
  const [name, own] = [nameOf(one), eyes ? nameOf(eyes) : 'your machine'];
  if (one.seated === false) return `${name} is still a member of ${network.name}, but the plan of its owner allows fewer than there are: ${name} meets nobody there until a seat is free. The owner says who stays with buri keep.`;
  if (one.state === 'own') return `The list shows how ${own} reaches the others.`;
  if (one.state === 'direct') return `${own} and ${name} talk directly, ${VIAS[one.via] ?? 'without a relay'}. Nobody in between carries or reads their traffic.`;
  if (one.state === 'relayed') return `A relay carries the traffic between ${own} and ${name}, encrypted: it cannot read it. It is slower than a direct path and counts towards the plan.`;
  if (one.state === 'online') return eyes?.online ? `${name} is online. The two connect as soon as one of them has something to say.` : `${name} is online, ${own} is not.`;
  return `${name} is not connected. It is still a member of ${network.name}, with the same address when it returns.`;
}

/** @param {{one: any, network: any, eyes: any}} props */
function Member({ one, network, eyes }) {
  const [open, setOpen] = useState(false);
  const state = STATES[one.state];
  const tone = one.state === 'own' && !one.online ? 'calm' : state.tone;
  const id = `more-${network.network}-${one.client}`;
  return html`<li class=${`member ${one.online ? '' : 'away'}`}>
    <button type="button" class="member-line" aria-expanded=${open} aria-controls=${id} onClick=${() => setOpen(!open)}>
      <${Avatar} id=${one.client} nick=${one.nick} tone=${tone} />
      <span class="member-text"><b>${nameOf(one)}${one.mine && one.state !== 'own' && html` <small class="faint">yours</small>`}${one.seated === false && html` <${Badge} tone="warn">no seat</${Badge}>`}</b><small class=${one.state}>${line(one, eyes)}</small></span>
      ${one.address4 && html`<code class="member-address">${one.address4}</code>`}
      <${Icon} name="open" />
    </button>
    ${open && html`<div class="member-more" id=${id}>
      <p>${story(one, eyes, network)}</p>
      ${one.why && html`<p class="hint warn"><${Icon} name="info" /><span>${sentence(one.why)}</span></p>`}
      <${Facts} rows=${[
        ...(one.address4 ? [['Address', html`<${Id} id=${one.address4} whole=${true} />`]] : []),
        ['IPv6', html`<${Id} id=${one.address6} whole=${true} />`],
        ['Role', one.role === 'owner' ? `owns ${network.name}` : one.role],
        ['To try it', html`<code>buri ping ${one.address4 ?? word(nameOf(one))}</code>`],
      ]} />
    </div>`}
  </li>`;
}

/** @param {{one: any, network: any}} props */
function Applicant({ one, network }) {
  const [open, setOpen] = useState(false);
  const id = `more-${network.network}-${one.id}`;
  return html`<li class="member">
    <button type="button" class="member-line" aria-expanded=${open} aria-controls=${id} onClick=${() => setOpen(!open)}>
      <${Avatar} id=${one.id} nick=${one.nick} tone="info" />
      <span class="member-text"><b>${nameOf(one)}</b><small class="awaiting">Awaiting approval, asked <${When} at=${one.since_unix_ms} /></small></span>
      <${Icon} name="open" />
    </button>
    ${open && html`<div class="member-more" id=${id}>
      <p>It knows the password of ${network.name} and asks to come in. Your machine decides; it also hands over the key, so this is done there:</p>
      <${Facts} rows=${[
        ['Let it in', html`<${Id} id=${`buri approve ${word(nameOf(one))} ${word(network.name)}`} whole=${true} />`],
        ['Turn it away', html`<${Id} id=${`buri reject ${word(nameOf(one))} ${word(network.name)}`} whole=${true} />`],
      ]} />
    </div>`}
  </li>`;
}

/** Whose the network is. @param {{network: any, role: string, mine: any[], reload: () => void}} props */
function Foot({ network, role, mine, reload }) {
  const owned = mine.some((one) => one.client === network.owner);
  const without = network.members.filter((/** @type {any} */ one) => one.seated === false).length;
  const seats = `${network.members.length - without} of ${counted(network.seats, 'seat')} taken${without ? `, ${without} without` : ''}`;
  const path = `/v1/account/networks/${network.network}`;
  const attach = () => ask({ title: `Add ${network.name} to the account?`, text: 'It is then listed as the account’s, and not only as that of the machine which owns it. Its members notice nothing.', verb: 'Add to the account', run: () => send('PUT', path), done: `${network.name} belongs to the account now.`, after: reload });
  const detach = () => ask({ title: `Take ${network.name} out of the account?`, text: 'It belongs to the machine alone that owns it. Its members notice nothing.', verb: 'Take out', run: () => send('DELETE', path), done: `${network.name} belongs to its machine alone.`, after: reload });
  return html`<footer class="net-foot"><span>${seats}</span>
    ${network.attached ? html`<span><${Icon} name="check" />Belongs to the account</span>` : owned && html`<span>Owned by your machine</span>`}
    ${owned && role === 'owner' && (network.attached ? html`<button type="button" class="quiet" onClick=${detach}>Take out</button>` : html`<button type="button" class="quiet" onClick=${attach}>Add to the account</button>`)}
  </footer>`;
}
