// My machines: which are attached, which are there, and how another one is attached.

import { html, useEffect, useState } from '../../vendor/preact-htm.js';
import { ask, say } from '../../app/acting.js';
import { counted, short, span } from '../../app/format.js';
import { useNow, usePoll } from '../../app/live.js';
import { Icon } from '../../app/icons.js';
import { Avatar, Badge, Card, Dialog, Empty, Head, Loaded, Trouble, When } from '../../app/ui.js';
import { chosen, get, send } from '../api.js';

const EVERY_MS = 15_000;
/** While somebody waits for a machine to show up. */
const AWAITED_MS = 2_000;

/** @param {{role: string, account: any}} props */
export function Machines({ role, account }) {
  const [attaching, setAttaching] = useState(false);
  const machines = usePoll((signal) => get('/v1/account/clients', { signal }), [chosen()], EVERY_MS);
  const items = machines.data?.items ?? [];
  const online = items.filter((/** @type {any} */ one) => one.online_since_unix_ms).length;
  const most = account.data?.limits.clients;
  const done = () => {
    setAttaching(false);
    machines.reload();
    account.reload();
  };
  return html`<${Head} title="Machines" lead=${items.length ? `${online} of ${counted(items.length, 'machine')} online${most ? `; the plan has room for ${most}` : ''}` : 'The machines that belong to this account.'}>
      ${items.length > 0 && html`<button type="button" class="button primary" onClick=${() => setAttaching(true)}><${Icon} name="plus" />Attach a machine</button>`}
    <//>
    <${Loaded} of=${machines} lines=${5}>${() => (items.length ? html`<section class="card flush"><ul class="roster">${items.map((/** @type {any} */ one) => html`<${Machine} key=${one.client} one=${one} role=${role} reload=${machines.reload} />`)}</ul></section>` : html`<${First} attach=${() => setAttaching(true)} />`)}<//>
    ${attaching && html`<${Attach} known=${items} close=${done} />`}`;
}

/** @param {{attach: () => void}} props */
function First({ attach }) {
  return html`<${Card}><${Empty} icon="machines" title="No machine yet">
    A machine belongs to you once it has shown a code that you make here. Its networks and their members then show up on this page.<br />
    <button type="button" class="button primary above" onClick=${attach}><${Icon} name="plus" />Attach a machine</button><//><//>`;
}

/** @param {{one: any, role: string, reload: () => void}} props */
function Machine({ one, role, reload }) {
  const name = one.nick || short(one.client);
  const now = useNow();
  const detach = () => ask({
    title: `Detach ${name}?`,
    text: 'It stays in its networks and its tunnels go on, but it loses the plan of this account. Another code brings it back.',
    verb: 'Detach',
    danger: true,
    run: () => send('DELETE', `/v1/account/clients/${one.client}`),
    done: `${name} is detached.`,
    after: reload,
  });
  return html`<li class="member"><div class="member-line still">
    <${Avatar} id=${one.client} nick=${one.nick} tone=${one.online_since_unix_ms ? 'good' : 'calm'} />
    <span class="member-text"><b>${name}</b><small>${one.online_since_unix_ms ? `Online for ${span(Math.max(now - one.online_since_unix_ms, 1_000))}` : html`Offline, last seen <${When} at=${one.seen_unix_ms} />`}</small></span>
    <span class="chips">${one.networks.slice(0, 3).map((/** @type {any} */ network) => html`<${Badge} key=${network.network} tone=${network.role === 'owner' ? 'accent' : 'calm'}>${network.name}</${Badge}>`)}${one.networks.length > 3 && html`<${Badge}>${one.networks.length - 3} more</${Badge}>`}${!one.networks.length && html`<span class="faint">in no network</span>`}</span>
    ${role !== 'member' && html`<button type="button" class="quiet bad" aria-label=${`Detach ${name}`} onClick=${detach}>Detach</button>`}
  </div></li>`;
}

/** @param {{known: any[], close: () => void}} props */
function Attach({ known, close }) {
  const [made, setMade] = useState(/** @type {any} */ (null));
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  const [before] = useState(() => new Set(known.map((one) => one.client)));
  const awaited = usePoll((signal) => get('/v1/account/clients', { signal }), [chosen()], AWAITED_MS);
  const now = useNow(1_000);
  const make = () => {
    setProblem(null);
    setMade(null);
    send('POST', '/v1/account/clients/codes').then(setMade, setProblem);
  };
  useEffect(make, []);
  const arrived = awaited.data?.items.find((/** @type {any} */ one) => !before.has(one.client));
  useEffect(() => {
    if (arrived) say(`${arrived.nick || short(arrived.client)} is attached.`);
  }, [arrived?.client]);
  const left = made ? Math.max(0, Math.floor((made.expires_unix_ms - now) / 1000)) : 0;
  const line = made ? `buri account attach ${made.code}` : '';
  if (arrived) {
    const name = arrived.nick || short(arrived.client);
    return html`<${Dialog} title=${`${name} is attached`} onClose=${close}><div class="arrived"><${Avatar} large id=${arrived.client} nick=${arrived.nick} tone="good" /><p>It belongs to this account now, and has its plan.</p></div>
      <div class="dialog-actions"><button type="button" class="button primary" autofocus onClick=${close}>Done</button></div><//>`;
  }
  return html`<${Dialog} title="Attach a machine" onClose=${close}>
    ${problem ? html`<${Trouble} small problem=${problem} retry=${make} />` : html`
      <ol class="todo">
        <li><span>Have <code>buri daemon</code> run on the machine.</span></li>
        <li><span>Type this line there:</span></li>
      </ol>
      ${made ? html`<${Line} text=${left ? line : 'This code is too old.'} usable=${left > 0} />` : html`<div class="code-line"><span class="bone" /></div>`}
      ${made && left > 0 && html`<p class="waits" role="status"><i class="dot info pulse" />Waiting for the machine. The code is good for ${Math.floor(left / 60)}:${String(left % 60).padStart(2, '0')}, for one machine.</p>`}
      ${made && left === 0 && html`<button type="button" class="button" onClick=${make}><${Icon} name="retry" />Make another code</button>`}`}
    <div class="dialog-actions"><button type="button" class="button" onClick=${close}>Close</button></div>
  <//>`;
}

/** A line to be typed elsewhere. @param {{text: string, usable: boolean}} props */
function Line({ text, usable }) {
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    await navigator.clipboard?.writeText(text).catch(() => {});
    setCopied(true);
    setTimeout(() => setCopied(false), 2_000);
  };
  return html`<div class="code-line"><code id="attach-line">${text}</code>${usable && html`<button type="button" class="button" onClick=${copy}><${Icon} name=${copied ? 'check' : 'copy'} />${copied ? 'Copied' : 'Copy'}</button>`}</div>`;
}
