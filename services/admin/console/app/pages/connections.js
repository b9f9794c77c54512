// How one member of a network is connected to the others: a list like that of an instant messenger.

import { html, useState } from '../../vendor/preact-htm.js';
import { Problem, get } from '../api.js';
import { short } from '../format.js';
import { to, usePoll } from '../hooks.js';
import { Icon } from '../icons.js';
import { Avatar, Badge, Empty, Loaded } from '../ui.js';
import { OUTCOMES, VIAS } from '../words.js';

/** Pairs that are asked for at once. */
const MOST = 32;

/** @param {{members: any[] | null, more: boolean}} props */
export function Connections({ members, more }) {
  const [picked, pick] = useState('');
  const all = members ?? [];
  const one = all.find((member) => member.client === picked) ?? all.find((member) => member.online) ?? all[0];
  const peers = all.filter((member) => member.client !== one?.client).slice(0, MOST);
  const key = peers.map((peer) => peer.client + peer.online).join();
  const records = usePoll(one ? async (signal) => {
    const found = await Promise.all(peers.map((peer) => get(`/v1/pairs/${one.client}/${peer.client}`, { signal }).catch((error) => {
      if (error instanceof Problem && error.status === 404) return null;
      throw error;
    })));
    return new Map(peers.map((peer, nth) => [peer.client, found[nth]]));
  } : null, [one?.client, key], 15_000);
  if (members && all.length < 2) return html`<${Empty} icon="pairs" title="One member has nobody to talk to">As soon as a second one joins, their connection shows up here.<//>`;
  if (!one) return null;
  return html`
    <label class="field inline-field"><span>Connections of</span><select value=${one.client} onChange=${(/** @type {any} */ event) => pick(event.target.value)}>${all.map((member) => html`<option key=${member.client} value=${member.client}>${member.nick || 'Unnamed'} · ${short(member.client)}</option>`)}</select></label>
    <${Loaded} of=${records} lines=${4}>${(/** @type {Map<string, any>} */ found) => html`<ul class="buddies">${peers.map((peer) => html`<${Buddy} key=${peer.client} one=${one} peer=${peer} record=${found.get(peer.client)} />`)}</ul>`}<//>
    ${(more || all.length - 1 > MOST) && html`<p class="note">The first ${MOST} of this page are shown. Any other pair: type both ids into the search.</p>`}`;
}

/** @param {{one: any, peer: any, record: any}} props */
function Buddy({ one, peer, record }) {
  const known = OUTCOMES[record?.outcome ?? 'none'];
  const talking = one.online && peer.online;
  const tone = peer.online ? (record ? known.tone : 'info') : 'calm';
  const text = !peer.online ? 'Offline' : !record ? 'Not connected yet' : record.outcome === 'direct' ? `Direct, ${VIAS[record.via] ?? 'over the internet'}` : record.hint || known.name;
  return html`<li><a href=${to('pairs', one.client, peer.client)}>
    <${Avatar} id=${peer.client} nick=${peer.nick} tone=${tone} />
    <span class="buddy-text"><b>${peer.nick || short(peer.client)}</b><small>${text}</small></span>
    <${Badge} tone=${talking || !peer.online ? tone : 'calm'}>${!peer.online ? 'Offline' : known.name}</${Badge}><${Icon} name="next" />
  </a></li>`;
}
