// The people of the account, what each may do, and who is invited.

import { html, useState } from '../../vendor/preact-htm.js';
import { ask, say } from '../../app/acting.js';
import { Icon } from '../../app/icons.js';
import { Avatar, Badge, Card, Dialog, Head, Table, When } from '../../app/ui.js';
import { choose, inWords, send } from '../api.js';
import { Field } from '../door.js';

const RANK = /** @type {Record<string, number>} */ ({ member: 0, admin: 1, owner: 2 });
const TONES = /** @type {Record<string, string>} */ ({ owner: 'accent', admin: 'info', member: 'calm' });
const MEANINGS = /** @type {[string, string][]} */ ([['member', 'Sees everything and attaches machines'], ['admin', 'Also invites and removes members, and detaches machines']]);

/** @param {{me: any, role: string, account: any, refresh: () => void}} props */
export function People({ me, role, account, refresh }) {
  const { people, invitations } = account.data;
  const [inviting, setInviting] = useState(false);
  const order = (/** @type {string} */ method, /** @type {string} */ path, /** @type {any} */ body = undefined) => send(method, `/v1/account/${path}`, { body });
  const remove = (/** @type {any} */ one) => ask({ title: `Remove ${one.email}?`, text: 'They see this account no more. The machines that they attached stay.', verb: 'Remove', danger: true, name: one.email, run: () => order('DELETE', `people/${one.person}`), done: `${one.email} was removed.`, after: account.reload });
  const change = (/** @type {any} */ one, /** @type {string} */ next) => ask({ title: next === 'admin' ? `Make ${one.email} an admin?` : `Make ${one.email} a member?`, text: next === 'admin' ? 'Admins invite and remove members, and detach machines.' : 'Members see everything and attach machines, no more.', verb: 'Change role', run: () => order('PATCH', `people/${one.person}`, { role: next }), done: `${one.email} is ${next === 'admin' ? 'an admin' : 'a member'} now.`, after: account.reload });
  const give = (/** @type {any} */ one) => ask({ title: `Give the account to ${one.email}?`, text: 'They own it from now on and decide about you: you become an admin.', verb: 'Give the account', danger: true, name: one.email, run: () => order('POST', `people/${one.person}/owner`), done: `${one.email} owns the account now.`, after: () => { account.reload(); refresh(); } });
  const leave = () => ask({ title: 'Leave this account?', text: 'You see it no more. The machines that you attached stay in it.', verb: 'Leave', danger: true, name: me.email, run: () => order('DELETE', 'people/me'), done: 'You left.', after: () => { choose(null); refresh(); } });
  const back = (/** @type {any} */ one) => ask({ title: `Take the invitation of ${one.email} back?`, text: 'The link in the mail is worth nothing any more.', verb: 'Take back', run: () => order('DELETE', `invitations/${encodeURIComponent(one.email)}`), done: 'The invitation is taken back.', after: account.reload });
  const below = (/** @type {any} */ one) => RANK[role] > RANK[one.role];
  const button = (/** @type {string} */ text, /** @type {any} */ one, /** @type {() => void} */ act, tone = '') => html`<button type="button" class=${`quiet ${tone}`} aria-label=${`${text}: ${one.email}`} onClick=${act}>${text}</button>`;
  const actions = (/** @type {any} */ one) => {
    if (one.person === me.person) return role === 'owner' ? null : html`<button type="button" class="quiet bad" onClick=${leave}>Leave</button>`;
    return html`<span class="row-actions">
      ${role === 'owner' && button(one.role === 'admin' ? 'Make member' : 'Make admin', one, () => change(one, one.role === 'admin' ? 'member' : 'admin'))}
      ${role === 'owner' && button('Make owner', one, () => give(one))}
      ${role !== 'member' && below(one) && button('Remove', one, () => remove(one), 'bad')}</span>`;
  };
  const columns = [
    { name: 'Person', wide: true, cell: (/** @type {any} */ one) => html`<span class="person"><${Avatar} id=${one.person} nick=${one.email.split('@')[0]} /><span class="person-text"><b>${one.email}</b>${one.person === me.person && html`<small class="faint">you</small>`}</span></span>` },
    { name: 'Role', cell: (/** @type {any} */ one) => html`<${Badge} tone=${TONES[one.role]}>${one.role}</${Badge}>` },
    { name: 'Since', cell: (/** @type {any} */ one) => html`<${When} at=${one.since_unix_ms} />` },
    { name: 'Actions', end: true, cell: actions },
  ];
  const invited = [
    { name: 'Invited', wide: true, cell: (/** @type {any} */ one) => html`<b>${one.email}</b>` },
    { name: 'As', cell: (/** @type {any} */ one) => html`<${Badge} tone=${TONES[one.role]}>${one.role}</${Badge}>` },
    { name: 'Good until', cell: (/** @type {any} */ one) => html`<${When} at=${one.expires_unix_ms} />` },
    { name: 'Actions', end: true, cell: (/** @type {any} */ one) => (role === 'owner' || (role === 'admin' && one.role === 'member') ? button('Take back', one, () => back(one), 'bad') : null) },
  ];
  return html`<${Head} title="People" lead="Who shares this account, its machines and its plan.">${role !== 'member' && html`<button type="button" class="button primary" onClick=${() => setInviting(true)}><${Icon} name="plus" />Invite</button>`}<//>
    <${Card} flush><${Table} label="People" items=${people} id=${(/** @type {any} */ one) => one.person} columns=${columns} /><//>
    ${invitations.length > 0 && html`<${Card} flush title="Invited" note="They have a mail with a link."><${Table} label="Invitations" items=${invitations} id=${(/** @type {any} */ one) => one.email} columns=${invited} /><//>`}
    ${inviting && html`<${Invite} role=${role} close=${() => setInviting(false)} done=${account.reload} />`}`;
}

/** @param {{role: string, close: () => void, done: () => void}} props */
function Invite({ role, close, done }) {
  const [email, setEmail] = useState('');
  const [as, setAs] = useState('member');
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  const save = async (/** @type {Event} */ event) => {
    event.preventDefault();
    try {
      await send('POST', '/v1/account/invitations', { body: { email, role: as } });
      close();
      done();
      say(`A mail is on its way to ${email}.`);
    } catch (error) {
      setProblem(error);
    }
  };
  const offered = MEANINGS.filter(([name]) => name === 'member' || role === 'owner');
  return html`<${Dialog} title="Invite somebody" onClose=${close}><form onSubmit=${save}>
    <${Field} name="E-mail" type="email" value=${email} set=${setEmail} autofocus=${true} />
    <fieldset class="field"><legend>As</legend><div class="choices">${offered.map(([name, text]) => html`<label key=${name} class="choice"><input type="radio" name="role" value=${name} checked=${as === name} onChange=${() => setAs(name)} /><span><b>${name}</b><small>${text}</small></span></label>`)}</div></fieldset>
    ${problem && html`<p class="wrong" role="alert"><${Icon} name="warn" /><span>${inWords(problem)}</span></p>`}
    <div class="dialog-actions"><button type="button" class="button" onClick=${close}>Cancel</button><button class="button primary" disabled=${!email.trim()}>Send the invitation</button></div>
  </form><//>`;
}
