// Plans: what there is to have, and changes of it.

import { html, useState } from '../../vendor/preact-htm.js';
import { ask } from '../acting.js';
import { change, get, send } from '../api.js';
import { bytes, number, rate } from '../format.js';
import { usePoll } from '../hooks.js';
import { Icon } from '../icons.js';
import { Card, Dialog, Empty, Head, Loaded, Table, Trouble } from '../ui.js';

export function Plans() {
  const plans = usePoll((signal) => get('/v1/plans', { signal }), [], 15_000);
  const [edited, edit] = useState(/** @type {any} */ (null));
  const remove = (/** @type {any} */ plan) => ask({ title: `Delete the plan ${plan.name}?`, text: 'Only a plan that nobody has can be deleted.', verb: 'Delete plan', danger: true, name: plan.name, run: async () => change('DELETE', `/v1/plans/${plan.name}`, undefined, (await send('GET', `/v1/plans/${plan.name}`)).etag), done: `The plan ${plan.name} was deleted.`, after: plans.reload });
  const columns = [
    { name: 'Plan', wide: true, cell: (/** @type {any} */ one) => html`<b>${one.name}</b>` },
    { name: 'Members', end: true, cell: (/** @type {any} */ one) => number(one.members_per_network) },
    { name: 'Networks', end: true, cell: (/** @type {any} */ one) => number(one.networks_per_client) },
    { name: 'Relay rate', end: true, cell: (/** @type {any} */ one) => rate(one.relay_bytes_per_second) },
    { name: 'A month', end: true, cell: (/** @type {any} */ one) => (one.relay_bytes_per_month === null ? 'no limit' : bytes(one.relay_bytes_per_month)) },
    { name: 'Actions', end: true, cell: (/** @type {any} */ one) => html`<span class="row-actions"><button type="button" class="quiet" aria-label=${`Change ${one.name}`} onClick=${() => edit(one)}>Change</button><button type="button" class="quiet bad" aria-label=${`Delete ${one.name}`} onClick=${() => remove(one)}>Delete</button></span>` },
  ];
  return html`<${Head} title="Plans" lead="What a client may have. Where a network has more members than its plan allows, nobody is removed: some have no seat until there is one."><button type="button" class="button primary" onClick=${() => edit({})}><${Icon} name="plus" />New plan</button><//>
    <${Card} flush><${Loaded} of=${plans}>${(/** @type {any} */ data) => (data.items.length ? html`<${Table} label="Plans" items=${data.items} id=${(/** @type {any} */ one) => one.name} columns=${columns} />` : html`<${Empty} icon="plans" title="There is no plan" />`)}<//><//>
    ${edited && html`<${Edit} plan=${edited} close=${() => edit(null)} done=${plans.reload} />`}`;
}

/** @param {{plan: any, close: () => void, done: () => void}} props */
function Edit({ plan, close, done }) {
  const fresh = !plan.name;
  const [form, set] = useState({ name: plan.name ?? '', members: String(plan.members_per_network ?? 5), networks: String(plan.networks_per_client ?? 256), rate: plan.relay_bytes_per_second === undefined ? '1024' : String(plan.relay_bytes_per_second ?? ''), month: String(plan.relay_bytes_per_month ?? '') });
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  const field = (/** @type {keyof typeof form} */ key, /** @type {string} */ label, /** @type {string} */ note, /** @type {any} */ more = {}) => html`<label class="field"><span>${label}</span><input value=${form[key]} inputmode=${key === 'name' ? 'text' : 'numeric'} onInput=${(/** @type {any} */ event) => set({ ...form, [key]: event.target.value })} ...${more} /><small>${note}</small></label>`;
  const save = async (/** @type {Event} */ event) => {
    event.preventDefault();
    const bound = (/** @type {string} */ text) => (text.trim() ? Number(text) : null);
    const limits = { members_per_network: Number(form.members), networks_per_client: Number(form.networks), relay_bytes_per_second: bound(form.rate), relay_bytes_per_month: bound(form.month) };
    try {
      if (fresh) await send('POST', '/v1/plans', { body: { name: form.name.trim(), ...limits } });
      else await change('PUT', `/v1/plans/${plan.name}`, limits, (await send('GET', `/v1/plans/${plan.name}`)).etag);
      close();
      done();
    } catch (error) {
      setProblem(error);
    }
  };
  return html`<${Dialog} title=${fresh ? 'New plan' : `Change ${plan.name}`} onClose=${close}><form onSubmit=${save}>
    ${fresh && field('name', 'Name', 'Lower case letters, digits and hyphens', { required: true, pattern: '[a-z][a-z0-9\\-]{0,31}', autofocus: true })}
    <div class="pair-fields">${field('members', 'Members in a network', '1 to 256', { type: 'number', min: 1, max: 256, required: true })}${field('networks', 'Networks of a client', '1 to 256', { type: 'number', min: 1, max: 256, required: true })}</div>
    <div class="pair-fields">${field('rate', 'Relay, bytes a second', 'For one pair. Empty: no limit', { type: 'number', min: 0 })}${field('month', 'Relay, bytes a month', 'Empty: no limit', { type: 'number', min: 0 })}</div>
    ${problem && html`<${Trouble} small problem=${problem} />`}
    <div class="dialog-actions"><button type="button" class="button" onClick=${close}>Cancel</button><button class="button primary">${fresh ? 'Make plan' : 'Save'}</button></div>
  </form><//>`;
}
