// The way in: signing in, signing up, and what mails lead to.

import { html, useEffect, useState } from '../vendor/preact-htm.js';
import { Icon, Mark } from '../app/icons.js';
import { get, inWords, send } from './api.js';

/** @typedef {{kind: 'verify' | 'reset' | 'accept' | 'refused', value: string}} Mailed */

const FEWEST = 10;

/** @param {{mailed: Mailed | null, over: boolean, enter: () => void, forget: () => void}} props `over`: there was a session */
export function Door({ mailed, over, enter, forget }) {
  const [mode, setMode] = useState(mailed?.kind === 'verify' ? 'verify' : mailed?.kind === 'reset' ? 'reset' : 'sign-in');
  const [email, setEmail] = useState('');
  const [password, setPassword] = useState('');
  const [token, setToken] = useState(mailed && ['verify', 'reset'].includes(mailed.kind) ? mailed.value : '');
  const [note, setNote] = useState(mailed?.kind === 'refused' ? '' : over ? 'You were signed out. Sign in again.' : '');
  const [problem, setProblem] = useState(/** @type {any} */ (mailed?.kind === 'refused' ? { code: mailed.value, detail: 'It did not work' } : null));
  const [busy, setBusy] = useState(false);
  const [provider, setProvider] = useState(/** @type {{name: string} | null} */ (null));
  useEffect(() => {
    get('/v1/account/provider', { ofPerson: true }).then((found) => setProvider(found.issuer ? found : null), () => {});
  }, []);
  useEffect(() => {
    document.title = `${TITLES[mode]} · Buri`;
    const inputs = /** @type {HTMLInputElement[]} */ ([...document.querySelectorAll('.door-card input')]);
    (inputs.find((input) => !input.value) ?? inputs[0])?.focus();
  }, [mode]);
  const turn = (/** @type {string} */ to, /** @type {string} */ said = '') => {
    setMode(to);
    setProblem(null);
    setNote(said);
  };
  const act = (/** @type {() => Promise<void>} */ what) => async (/** @type {Event} */ event) => {
    event.preventDefault();
    if (busy) return;
    setBusy(true);
    setProblem(null);
    try {
      await what();
    } catch (error) {
      setProblem(error);
    }
    setBusy(false);
  };
  const ask = (/** @type {string} */ method, /** @type {string} */ path, /** @type {any} */ body) => send(method, path, { body, ofPerson: true });
  const signIn = act(async () => {
    await ask('POST', '/v1/account/sessions', { email, password });
    if (mailed && mailed.kind !== 'accept') forget();
    enter();
  });
  const signUp = act(async () => {
    await ask('POST', '/v1/account/sign-up', { email, password });
    turn('confirm');
  });
  const verify = act(async () => {
    await ask('POST', '/v1/account/verify', { token: token.trim(), password });
    forget();
    enter();
  });
  const forgot = act(async () => {
    await ask('POST', '/v1/account/password/reset', { email });
    turn('mailed');
  });
  const reset = act(async () => {
    await ask('PUT', '/v1/account/password/reset', { token: token.trim(), password });
    forget();
    setPassword('');
    turn('sign-in', 'Your password is changed. Sign in with it.');
  });
  const leave = act(async () => {
    location.assign((await ask('POST', '/v1/account/provider', undefined)).url);
  });
  const way = (/** @type {string} */ to, /** @type {string} */ text) => html`<button type="button" class="quiet" onClick=${() => turn(to)}>${text}</button>`;
  const mail = html`<${Field} name="E-mail" type="email" autocomplete="username" value=${email} set=${setEmail} autofocus=${true} />`;
  const button = (/** @type {string} */ text, /** @type {boolean} */ ready) => html`<button class="button primary wide" disabled=${!ready || busy}>${busy ? 'One moment …' : text}</button>`;
  const other = provider && html`<div class="or"><span>or</span></div><button type="button" class="button wide" onClick=${leave} disabled=${busy}>Continue with ${provider.name}</button>`;
  const forms = /** @type {Record<string, () => any>} */ ({
    'sign-in': () => html`<form onSubmit=${signIn}>
      ${mailed?.kind === 'accept' && html`<p class="hint"><${Icon} name="info" /><span>You are invited to an account. Sign in with the address that got the mail, or sign up with it.</span></p>`}
      ${mail}<${Password} value=${password} set=${setPassword} autocomplete="current-password" />
      ${button('Sign in', Boolean(email.trim() && password))}${other}
      <p class="door-ways">${way('forgot', 'Forgot your password?')}<span>New here? ${way('sign-up', 'Create an account')}</span></p></form>`,
    'sign-up': () => html`<form onSubmit=${signUp}>
      ${mail}<${Password} value=${password} set=${setPassword} autocomplete="new-password" fresh=${true} />
      ${button('Create account', Boolean(email.trim() && [...password].length >= FEWEST))}${other}
      <p class="door-ways"><span>You have one? ${way('sign-in', 'Sign in')}</span></p></form>`,
    confirm: () => html`<form onSubmit=${verify}>
      <p class="lead">We sent a mail to <b>${email}</b>. Follow its link, or paste the token that it holds.</p>
      <${Field} name="Token" value=${token} set=${setToken} mono=${true} autocomplete="one-time-code" autofocus=${true} />
      ${button('Confirm', token.trim().length === 64)}
      <p class="door-ways"><span>No mail? Look among the spam, or ${way('sign-up', 'try again')}</span></p></form>`,
    verify: () => html`<form onSubmit=${verify}>
      <p class="lead">Enter the password that you chose, and your account is ready.</p>
      <${Password} value=${password} set=${setPassword} autocomplete="current-password" autofocus=${true} />
      ${button('Confirm', Boolean(password))}
      <p class="door-ways"><span>You do not know it? ${way('sign-up', 'Sign up again')}</span></p></form>`,
    forgot: () => html`<form onSubmit=${forgot}>
      <p class="lead">We send you a link to set another one.</p>${mail}${button('Send the mail', Boolean(email.trim()))}
      <p class="door-ways">${way('sign-in', 'Back to signing in')}</p></form>`,
    mailed: () => html`<form onSubmit=${reset}>
      <p class="lead">If there is an account for <b>${email}</b>, a mail is on its way. Follow its link, or paste its token here.</p>
      <${Field} name="Token" value=${token} set=${setToken} mono=${true} autocomplete="one-time-code" autofocus=${true} />
      <${Password} value=${password} set=${setPassword} autocomplete="new-password" fresh=${true} />
      ${button('Set password', token.trim().length === 64 && [...password].length >= FEWEST)}
      <p class="door-ways">${way('forgot', 'Send another mail')}${way('sign-in', 'Back to signing in')}</p></form>`,
    reset: () => html`<form onSubmit=${reset}>
      <p class="lead">All your sessions end, on every device.</p>
      <${Password} value=${password} set=${setPassword} autocomplete="new-password" fresh=${true} autofocus=${true} />
      ${button('Set password', [...password].length >= FEWEST)}
      <p class="door-ways">${way('forgot', 'Send another mail')}${way('sign-in', 'Back to signing in')}</p></form>`,
  });
  return html`<main class="door" id="main"><section class="door-card">
    <${Mark} /><h1 id="title" tabindex="-1">${TITLES[mode]}</h1>
    ${mode === 'sign-in' && !note && !mailed && html`<p class="lead">Your machines, as on one cable.</p>`}
    ${note && html`<p class="hint" role="status"><${Icon} name="info" /><span>${note}</span></p>`}
    ${problem && html`<p class="wrong" role="alert"><${Icon} name="warn" /><span>${inWords(problem)}</span></p>`}
    ${forms[mode]()}
  </section></main>`;
}

/** @type {Record<string, string>} */
const TITLES = { 'sign-in': 'Sign in', 'sign-up': 'Create an account', confirm: 'Look into your mail', verify: 'Confirm your address', forgot: 'Forgotten password', mailed: 'Look into your mail', reset: 'Set another password' };

/** @param {{name: string, value: string, set: (value: string) => void, type?: string, autocomplete?: string, mono?: boolean, autofocus?: boolean}} props */
export function Field({ name, value, set, type = 'text', autocomplete = 'off', mono, autofocus }) {
  return html`<label class="field"><span>${name}</span><input class=${mono ? 'mono' : ''} type=${type} autocomplete=${autocomplete} autocapitalize="off" spellcheck=${false} autofocus=${autofocus} value=${value} onInput=${(/** @type {any} */ event) => set(event.target.value)} /></label>`;
}

/** A password, shown when wanted. @param {{value: string, set: (value: string) => void, autocomplete: string, fresh?: boolean, name?: string, autofocus?: boolean}} props */
export function Password({ value, set, autocomplete, fresh, name = 'Password', autofocus }) {
  const [shown, show] = useState(false);
  const left = FEWEST - [...value].length;
  return html`<div class="field"><label class="field"><span>${name}</span><span class="with-eye"><input type=${shown ? 'text' : 'password'} autocomplete=${autocomplete} autocapitalize="off" spellcheck=${false} autofocus=${autofocus} maxlength="1024" value=${value} onInput=${(/** @type {any} */ event) => set(event.target.value)} /></span></label>
    <button type="button" class="bare-button eye" aria-pressed=${shown} aria-label=${`Show ${name.toLowerCase()}`} title=${shown ? 'Hide' : 'Show'} onClick=${() => show(!shown)}><${Icon} name=${shown ? 'hide' : 'show'} /></button>
    ${fresh && html`<small>${left > 0 && value ? `${left} more ${left === 1 ? 'character' : 'characters'}` : `At least ${FEWEST} characters. A few words are good.`}</small>`}</div>`;
}
