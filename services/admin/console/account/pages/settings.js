// What somebody signs in with, the data of the account, and its end.

import { html, useEffect, useState } from '../../vendor/preact-htm.js';
import { ask, say } from '../../app/acting.js';
import { tell } from '../../app/http.js';
import { Icon } from '../../app/icons.js';
import { Card, Dialog, Facts, Head, Id, When } from '../../app/ui.js';
import { choose, get, inWords, send } from '../api.js';
import { Password } from '../door.js';

/** @param {{me: any, role: string, account: any, refresh: () => void}} props */
export function Settings({ me, role, account, refresh }) {
  const own = account.data.people.find((/** @type {any} */ one) => one.person === me.person);
  const [open, setOpen] = useState('');
  const [provider, setProvider] = useState(/** @type {{name: string} | null} */ (null));
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  useEffect(() => {
    get('/v1/account/provider', { ofPerson: true }).then((found) => setProvider(found.issuer ? found : null), () => {});
  }, []);
  const everywhere = () => ask({ title: 'Sign out everywhere?', text: 'All your sessions end, on this device, too.', verb: 'Sign out', run: () => send('DELETE', '/v1/account/sessions', { ofPerson: true }), done: 'You are signed out.', after: () => tell('signed-out') });
  const connect = async () => {
    try {
      location.assign((await send('POST', '/v1/account/provider', { ofPerson: true })).url);
    } catch (error) {
      setProblem(error);
    }
  };
  const save = async () => {
    try {
      const text = JSON.stringify(await get('/v1/account/export'), null, 2);
      const link = document.createElement('a');
      link.href = URL.createObjectURL(new Blob([text], { type: 'application/json' }));
      link.download = 'buri-account.json';
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
      say('Your data is saved as buri-account.json.');
    } catch (error) {
      setProblem(error);
    }
  };
  return html`<${Head} title="Settings" lead=${me.email} />
    ${problem && html`<p class="wrong" role="alert"><${Icon} name="warn" /><span>${inWords(problem)}</span></p>`}
    <${Card} title="Signing in">
      <${Facts} rows=${[
        ['E-mail', me.email],
        ['Password', own?.password ? 'set' : 'none: you sign in through a provider'],
        ['Provider', own?.provider ? hostOf(own.provider) : 'not connected'],
      ]} />
      <div class="actions above">
        ${own?.password && html`<button type="button" class="button" onClick=${() => setOpen('password')}>Change password</button>`}
        ${provider && !own?.provider && html`<button type="button" class="button" onClick=${connect}>Connect ${provider.name}</button>`}
        <button type="button" class="button" onClick=${everywhere}>Sign out everywhere</button>
      </div>
    <//>
    <${Card} title="The account" note=${role === 'owner' ? 'You own it.' : `You are ${role === 'admin' ? 'an admin' : 'a member'}: its owner exports and erases it.`}>
      <${Facts} rows=${[['Id', html`<${Id} id=${account.data.account} whole=${true} />`], ['Made', html`<${When} at=${account.data.made_unix_ms} />`]]} />
      ${role === 'owner' && html`<div class="actions above"><button type="button" class="button" onClick=${save}><${Icon} name="down" />Export my data</button><button type="button" class="button danger" onClick=${() => setOpen('erase')}>Erase the account …</button></div>`}
    <//>
    ${open === 'password' && html`<${ChangePassword} close=${() => setOpen('')} />`}
    ${open === 'erase' && html`<${Erase} me=${me} proof=${own?.password} close=${() => setOpen('')} done=${() => { choose(null); refresh(); }} />`}`;
}

/** @param {string} issuer */
const hostOf = (issuer) => issuer.replace(/^https?:../, '').split('/')[0];

/** @param {{close: () => void}} props */
function ChangePassword({ close }) {
  const [old, setOld] = useState('');
  const [next, setNext] = useState('');
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  const save = async (/** @type {Event} */ event) => {
    event.preventDefault();
    try {
      await send('PUT', '/v1/account/password', { body: { old, new: next }, ofPerson: true });
      close();
      say('Your password is changed.');
    } catch (error) {
      setProblem(error);
    }
  };
  return html`<${Dialog} title="Change your password" onClose=${close}><form onSubmit=${save}>
    <p>Your other sessions end; this one goes on.</p>
    <${Password} name="Password until now" value=${old} set=${setOld} autocomplete="current-password" autofocus=${true} />
    <${Password} name="New password" value=${next} set=${setNext} autocomplete="new-password" fresh=${true} />
    ${problem && html`<p class="wrong" role="alert"><${Icon} name="warn" /><span>${problem.code === 'denied' ? 'The password until now is not right.' : inWords(problem)}</span></p>`}
    <div class="dialog-actions"><button type="button" class="button" onClick=${close}>Cancel</button><button class="button primary" disabled=${!old || [...next].length < 10}>Change password</button></div>
  </form><//>`;
}

/** @param {{me: any, proof: boolean, close: () => void, done: () => void}} props */
function Erase({ me, proof, close, done }) {
  const [typed, setTyped] = useState('');
  const [password, setPassword] = useState('');
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  const [busy, setBusy] = useState(false);
  const sure = typed.trim().toLowerCase() === me.email && (!proof || password);
  const erase = async (/** @type {Event} */ event) => {
    event.preventDefault();
    if (!sure || busy) return;
    setBusy(true);
    try {
      await send('DELETE', '/v1/account', { body: proof ? { password } : {} });
      close();
      say('The account is erased.');
      done();
    } catch (error) {
      setProblem(error);
      setBusy(false);
    }
  };
  return html`<${Dialog} title="Erase the account?" onClose=${close}><form onSubmit=${erase}>
    <p>Everything that is kept about it goes: people, invitations, sessions, the plan. Whoever is in no other account is forgotten. Machines and networks go on without an account. There is no way back.</p>
    <label class="field"><span>Type <b class="typed">${me.email}</b> to confirm</span><input autofocus autocomplete="off" autocapitalize="off" spellcheck=${false} value=${typed} onInput=${(/** @type {any} */ event) => setTyped(event.target.value)} /></label>
    ${proof && html`<${Password} value=${password} set=${setPassword} autocomplete="current-password" />`}
    ${problem && html`<p class="wrong" role="alert"><${Icon} name="warn" /><span>${problem.code === 'denied' ? 'The password is not right.' : inWords(problem)}</span></p>`}
    <div class="dialog-actions"><button type="button" class="button" onClick=${close}>Cancel</button><button class="button danger" disabled=${!sure || busy}>${busy ? 'Erasing …' : 'Erase the account'}</button></div>
  </form><//>`;
}
