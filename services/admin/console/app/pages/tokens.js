// Tokens: who may use the API. A token is shown once, when it is made.

import { html, useState } from '../../vendor/preact-htm.js';
import { ask } from '../acting.js';
import { send } from '../api.js';
import { short } from '../format.js';
import { usePages } from '../hooks.js';
import { Icon } from '../icons.js';
import { Badge, Card, Dialog, Empty, Head, List, Trouble, When } from '../ui.js';

/** @type {[string, string][]} */
const SCOPES = [
  ['read', 'See clients, networks, sessions, relays, pairs, plans, usage and what happens'],
  ['write', 'Change networks and members, end sessions'],
  ['relays', 'Drain and resume relays'],
  ['blocks', 'Make, change and lift blocks'],
  ['accounts', 'See accounts of people and decide about them; give plans'],
  ['tokens', 'Make and revoke tokens'],
  ['audit', 'Read and check the audit log'],
  ['webhooks', 'Make and change webhooks'],
];
/** @type {[string, number][]} */
const LIVES = [['1 hour', 3_600], ['1 day', 86_400], ['30 days', 2_592_000], ['1 year', 31_536_000]];

export function Tokens() {
  const pages = usePages('/v1/tokens');
  const [making, setMaking] = useState(false);
  const revoke = (/** @type {any} */ one) => ask({ title: `Revoke ${one.name}?`, text: 'Whoever uses it is refused from now on. It cannot be taken back.', verb: 'Revoke', danger: true, name: one.name, run: () => send('DELETE', `/v1/tokens/${one.token}`), done: `${one.name} was revoked.`, after: pages.reload });
  const state = (/** @type {any} */ one) => (one.revoked_ms ? html`<${Badge} tone="bad">Revoked</${Badge}>` : one.expires_ms < Date.now() ? html`<${Badge}>Expired</${Badge}>` : html`<${Badge} tone="good">Good</${Badge}>`);
  const columns = [
    { name: 'Token', wide: true, cell: (/** @type {any} */ one) => html`<span class="stack"><b>${one.name}</b><code class="faint">${short(one.token)}</code></span>` },
    { name: 'May', cell: (/** @type {any} */ one) => html`<span class="scopes">${one.scopes.map((/** @type {string} */ scope) => html`<${Badge} key=${scope}>${scope}</${Badge}>`)}</span>` },
    { name: 'State', cell: state },
    { name: 'Used', cell: (/** @type {any} */ one) => html`<${When} at=${one.used_ms} />` },
    { name: 'Expires', cell: (/** @type {any} */ one) => html`<${When} at=${one.expires_ms} />` },
    { name: 'Actions', end: true, cell: (/** @type {any} */ one) => (one.revoked_ms || one.expires_ms < Date.now() ? html`<span class="faint">none</span>` : html`<button type="button" class="quiet bad" aria-label=${`Revoke ${one.name}`} onClick=${() => revoke(one)}>Revoke</button>`) },
  ];
  return html`<${Head} title="Tokens" lead="Who may use the API, for what, and until when. Only digests of them are kept."><button type="button" class="button primary" onClick=${() => setMaking(true)}><${Icon} name="plus" />New token</button><//>
    <${Card} flush><${List} pages=${pages} label="Tokens" id=${(/** @type {any} */ one) => one.token} columns=${columns} empty=${html`<${Empty} icon="tokens" title="Only the root token exists">It has every scope and does not end. Make a token with less for every person and program.<//>`} /><//>
    ${making && html`<${Make} close=${() => { setMaking(false); pages.reload(); }} />`}`;
}

/** @param {{close: () => void}} props */
function Make({ close }) {
  const [name, setName] = useState('');
  const [scopes, setScopes] = useState(/** @type {string[]} */ (['read']));
  const [life, setLife] = useState(86_400);
  const [made, setMade] = useState(/** @type {any} */ (null));
  const [copied, setCopied] = useState(false);
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  const save = async (/** @type {Event} */ event) => {
    event.preventDefault();
    try {
      setMade((await send('POST', '/v1/tokens', { body: { name: name.trim(), scopes, lifetime_s: life } })).data);
    } catch (error) {
      setProblem(error);
    }
  };
  if (made) {
    return html`<${Dialog} title="Copy it now" onClose=${close}><p>This is the only time that <b>${made.name}</b> is shown.</p><pre class="secret" tabindex="0">${made.secret}</pre><div class="dialog-actions"><button type="button" class="button" onClick=${async () => { await navigator.clipboard?.writeText(made.secret).catch(() => {}); setCopied(true); }}><${Icon} name=${copied ? 'check' : 'copy'} />${copied ? 'Copied' : 'Copy'}</button><button type="button" class="button primary" onClick=${close}>I have it</button></div><//>`;
  }
  const flip = (/** @type {string} */ scope) => setScopes(scopes.includes(scope) ? scopes.filter((one) => one !== scope) : [...scopes, scope]);
  return html`<${Dialog} title="New token" onClose=${close}><form onSubmit=${save}>
    <label class="field"><span>For whom or what</span><input autofocus required maxlength="100" value=${name} placeholder="nightly report" onInput=${(/** @type {any} */ event) => setName(event.target.value)} /></label>
    <fieldset class="field"><legend>What it may do</legend><div class="choices">${SCOPES.map(([scope, text]) => html`<label key=${scope} class="choice"><input type="checkbox" checked=${scopes.includes(scope)} onChange=${() => flip(scope)} /><span><b>${scope}</b><small>${text}</small></span></label>`)}</div></fieldset>
    <label class="field"><span>Until</span><select value=${String(life)} onChange=${(/** @type {any} */ event) => setLife(Number(event.target.value))}>${LIVES.map(([text, seconds]) => html`<option key=${seconds} value=${String(seconds)}>${text} from now</option>`)}</select></label>
    ${problem && html`<${Trouble} small problem=${problem} />`}
    <div class="dialog-actions"><button type="button" class="button" onClick=${close}>Cancel</button><button class="button primary" disabled=${!name.trim() || !scopes.length}>Make token</button></div>
  </form><//>`;
}
