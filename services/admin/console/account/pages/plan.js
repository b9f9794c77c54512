// What the account may have, and what it uses.

import { html } from '../../vendor/preact-htm.js';
import { Meter } from '../../app/charts.js';
import { bytes, counted, number, rate } from '../../app/format.js';
import { usePoll } from '../../app/live.js';
import { Card, Empty, Facts, Head, Loaded } from '../../app/ui.js';
import { chosen, get } from '../api.js';

/** A month by its number: twelve times the year plus the months before it. @param {number} month */
const monthOf = (month) => new Intl.DateTimeFormat('en-GB', { month: 'long', year: 'numeric', timeZone: 'UTC' }).format(Date.UTC(Math.floor(month / 12), month % 12, 1));

const thisMonth = () => new Date().getUTCFullYear() * 12 + new Date().getUTCMonth();

/** @param {{account: any}} props */
export function Plan({ account }) {
  const networks = usePoll((signal) => get('/v1/account/networks', { signal }), [chosen()], 60_000);
  const { limits, relayed, clients } = account;
  const used = relayed.find((/** @type {any} */ one) => one.month === thisMonth())?.bytes ?? 0;
  const most = limits.relay_bytes_per_month;
  const machines = new Set(clients.map((/** @type {any} */ one) => one.client));
  const owned = (networks.data?.items ?? []).filter((/** @type {any} */ one) => machines.has(one.owner));
  const peak = Math.max(1, ...relayed.map((/** @type {any} */ one) => one.bytes));
  return html`<${Head} title="Plan" lead="What the machines of this account may have, and what they use." />
    <div class="columns">
      <${Card} title="Your plan"><p class="plan-name">${account.plan}</p>
        <${Facts} rows=${[
          ['Machines', `up to ${number(limits.clients)}`],
          ['Members of a network', `up to ${number(limits.members_per_network)}`],
          ['Networks of a machine', `up to ${number(limits.networks_per_client)}`],
          ['Over relays, each pair', rate(limits.relay_bytes_per_second)],
        ]} />
        <p class="note above">Direct paths have no limit at all: what machines send each other directly passes nobody.</p>
      <//>
      <${Card} title="Used"><ul class="loads">
        <${Load} name="Machines" part=${clients.length} all=${limits.clients} text=${`${number(clients.length)} of ${number(limits.clients)}`} />
        <${Load} name="Relayed this month" part=${used} all=${most} text=${most === null ? `${bytes(used)}, no limit` : `${bytes(used)} of ${bytes(most)}`} />
        ${owned.map((/** @type {any} */ one) => html`<${Load} key=${one.network} name=${`Members of ${one.name}`} part=${one.members.length} all=${one.seats} text=${`${number(one.members.length)} of ${number(one.seats)}`} />`)}
      </ul>${networks.loading && html`<${Loaded} of=${networks} lines=${1}>${() => null}<//>`}<//>
    </div>
    <${Card} title="Relayed, by month" note="As far as relays reported it; months are in UTC.">${relayed.length ? html`<ul class="bars months">${relayed.map((/** @type {any} */ one) => html`<li key=${one.month}><span>${monthOf(one.month)}</span><span class="track"><i style=${{ width: `${(100 * one.bytes) / peak}%` }} /></span><b>${bytes(one.bytes)}</b></li>`)}</ul>` : html`<${Empty} icon="usage" title="Nothing was relayed">${counted(clients.length, 'machine')}, and all traffic went directly, or there was none.<//>`}<//>`;
}

/** @param {{name: string, part: number, all: number | null, text: string}} props */
function Load({ name, part, all, text }) {
  return html`<li><div><b>${name}</b><span class="push faint">${text}</span></div>${all !== null && html`<${Meter} part=${part} all=${all} label=${`${name}: ${text}`} />`}</li>`;
}
