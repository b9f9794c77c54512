// The way in: a token, kept for this tab only.

import { html, useState } from '../vendor/preact-htm.js';
import { signIn } from './api.js';
import { Icon, Mark } from './icons.js';
import { Trouble } from './ui.js';

/** @param {{refused: boolean, problem: any}} props */
export function SignIn({ refused, problem: first }) {
  const [token, setToken] = useState('');
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState(first);
  const enter = async (/** @type {Event} */ event) => {
    event.preventDefault();
    if (!token.trim() || busy) return;
    setBusy(true);
    setProblem(null);
    try {
      await signIn(token.trim());
    } catch (error) {
      setProblem(error);
      setBusy(false);
    }
  };
  const wrong = problem?.status === 401;
  return html`<main class="door" id="main"><form class="door-card" onSubmit=${enter}>
    <${Mark} /><h1>Buri console</h1><p class="lead">For the people who run this service.</p>
    ${refused && !problem && html`<p class="hint"><${Icon} name="info" /><span>Your token is not valid any more. Sign in again.</span></p>`}
    <label class="field"><span>Token</span><input type="password" autofocus autocomplete="off" spellcheck=${false} value=${token} aria-invalid=${wrong} aria-describedby="token-note" onInput=${(/** @type {any} */ event) => setToken(event.target.value)} /></label>
    ${wrong ? html`<p class="bad-text" role="alert" id="token-note">This token is not valid. The first one is in the file that <code>mediator all</code> names when it starts. <code class="faint">${problem.code}</code></p>` : html`<p class="note" id="token-note">It stays in this tab, and is forgotten when you close it.</p>`}
    ${problem && !wrong && html`<${Trouble} small problem=${problem} />`}
    <button class="button primary wide" disabled=${!token.trim() || busy}>${busy ? 'Signing in …' : 'Sign in'}</button>
  </form></main>`;
}
