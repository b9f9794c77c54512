// The page for people: who is signed in, for which account, and what is shown of it.

import { html, render, useEffect, useRef, useState } from '../vendor/preact-htm.js';
import { Announcements, Questions, say } from '../app/acting.js';
import { listen, tell } from '../app/http.js';
import { Icon, Mark } from '../app/icons.js';
import { usePoll, useRoute, useTheme } from '../app/live.js';
import { Card, Dialog, Empty, Head, Loaded, Theme, Trouble } from '../app/ui.js';
import { choose, chosen, get, send } from './api.js';
import { Door } from './door.js';
import { Machines } from './pages/machines.js';
import { Networks } from './pages/networks.js';
import { People } from './pages/people.js';
import { Plan } from './pages/plan.js';
import { Settings } from './pages/settings.js';

const PAGES = [
  { id: 'networks', name: 'Networks' },
  { id: 'machines', name: 'Machines' },
  { id: 'people', name: 'People' },
  { id: 'plan', name: 'Plan' },
  { id: 'settings', name: 'Settings' },
];

const ACCOUNT_EVERY_MS = 30_000;

/** What a mail led to is taken, and the address is rid of it before anything else happens.
 * @returns {import('./door.js').Mailed | null} */
function mailedInAddress() {
  const [, kind, value] = /^#(verify|reset|accept|refused)=([\w-]{1,64})$/.exec(location.hash) ?? [];
  if (kind) history.replaceState(null, '', location.pathname);
  return kind ? { kind: /** @type {any} */ (kind), value } : null;
}

/** @param {{first: import('./door.js').Mailed | null}} props */
function Page({ first }) {
  const [mailed, setMailed] = useState(first);
  const [mails, setMails] = useState(0);
  const [round, setRound] = useState(0);
  const [me, setMe] = useState(/** @type {any} */ (null));
  const [over, setOver] = useState(false);
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  const [offline, setOffline] = useState(false);
  useTheme();
  useEffect(() => listen((event) => {
    if (event === 'offline' || event === 'online') setOffline(event === 'offline');
    if (event === 'refused' || event === 'signed-out') {
      setOver(event === 'refused');
      setMe(false);
      choose(null);
    }
  }), []);
  useEffect(() => {
    // A mail that is opened while the page is open changes the address only.
    const changed = () => {
      const found = mailedInAddress();
      if (!found) return;
      setMailed(found);
      setMails((before) => before + 1);
    };
    addEventListener('hashchange', changed);
    return () => removeEventListener('hashchange', changed);
  }, []);
  const enter = () => get('/v1/account/me', { ofPerson: true }).then((found) => {
    if (!found.accounts.some((/** @type {any} */ one) => one.account === chosen())) choose(null);
    setProblem(null);
    setMe(found);
  }, (error) => (error.status === 401 ? setMe(false) : setProblem(error)));
  useEffect(() => void enter(), [round]);
  const again = () => setRound(round + 1);
  if (problem && !me) return html`<main class="door" id="main"><section class="door-card"><${Mark} /><h1>Buri</h1><${Trouble} small problem=${problem} retry=${again} /></section></main>`;
  if (me === null) return html`<main class="door" id="main"><p class="hidden" role="status">Loading</p></main>`;
  const wanted = mailed && ['verify', 'reset'].includes(mailed.kind);
  if (!me || wanted) return html`<${Door} key=${mails} mailed=${mailed} over=${over} enter=${again} forget=${() => setMailed(null)} /><${Announcements} />`;
  return html`<${Inside} me=${me} offline=${offline} refresh=${again} key=${chosen()} />
    ${mailed?.kind === 'accept' && html`<${Invited} me=${me} token=${mailed.value} close=${() => setMailed(null)} joined=${again} />`}
    ${mailed?.kind === 'refused' && html`<${Dialog} title="It did not work" onClose=${() => setMailed(null)}><p>The provider was not connected. ${{ 'provider-taken': 'That identity belongs to another person here.' }[mailed.value] ?? ''}</p><div class="dialog-actions"><button type="button" class="button primary" onClick=${() => setMailed(null)}>Close</button></div><//>`}
    <${Questions} /><${Announcements} />`;
}

/** @param {{me: any, token: string, close: () => void, joined: () => void}} props */
function Invited({ me, token, close, joined }) {
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  const accept = async (/** @type {Event} */ event) => {
    event.preventDefault();
    try {
      choose((await send('POST', '/v1/account/invitations/accept', { body: { token }, ofPerson: true })).account);
      close();
      joined();
      say('You are in. You see the account now.');
    } catch (error) {
      setProblem(error);
    }
  };
  return html`<${Dialog} title="You are invited" onClose=${close}><form onSubmit=${accept}>
    <p>Somebody wants to share an account with you: its machines, networks and plan. You join as <b>${me.email}</b>, and keep your own account.</p>
    ${problem && html`<${Trouble} small problem=${problem} />`}
    <div class="dialog-actions"><button type="button" class="button" onClick=${close}>Not now</button><button class="button primary" autofocus>Join the account</button></div>
  </form><//>`;
}

/** @param {{me: any, offline: boolean, refresh: () => void}} props */
function Inside({ me, offline, refresh }) {
  const account = usePoll((signal) => get('/v1/account', { signal }), [chosen()], ACCOUNT_EVERY_MS);
  const { hash, parts } = useRoute();
  const first = useRef(true);
  useEffect(() => {
    if (first.current) first.current = false;
    else {
      scrollTo(0, 0);
      document.getElementById('title')?.focus({ preventScroll: true });
    }
  }, [hash]);
  const current = parts[0] ?? 'networks';
  const mine = me.accounts.find((/** @type {any} */ one) => one.account === chosen()) ?? me.accounts[0];
  const out = async () => {
    await send('DELETE', '/v1/account/sessions/current', { ofPerson: true }).catch(() => {});
    tell('signed-out');
  };
  const pick = (/** @type {any} */ event) => {
    choose(event.target.value);
    refresh();
  };
  return html`
    <a class="skip" href="#main" onClick=${(/** @type {Event} */ event) => { event.preventDefault(); document.getElementById('main')?.focus(); }}>Skip to the page</a>
    <div class="frame people">
      <header class="bar">
        <a class="brand" href="#/networks" aria-label="Buri, my networks"><${Mark} /><b>Buri</b></a>
        ${me.accounts.length > 1 ? html`<label class="whose"><span class="hidden">Account</span><select value=${mine.account} onChange=${pick}>${me.accounts.map((/** @type {any} */ one) => html`<option key=${one.account} value=${one.account}>${one.role === 'owner' ? 'My account' : `Account of ${one.owner ?? 'nobody'}`}</option>`)}</select></label>` : html`<span class="whose faint">${me.email}</span>`}
        <${Theme} />
        <button type="button" class="bare-button" onClick=${out} aria-label="Sign out" title="Sign out"><${Icon} name="out" /></button>
      </header>
      <nav class="nav" id="nav" aria-label="Pages">${PAGES.map((page) => html`<a key=${page.id} href=${`#/${page.id}`} aria-current=${page.id === current ? 'page' : undefined}><${Icon} name=${page.id} /><span>${page.name}</span></a>`)}</nav>
      <main class="page" id="main" tabindex="-1">
        ${offline && html`<div class="banner" role="alert"><${Icon} name="warn" /><span><b>No answer from the service.</b> What you see may be old; your tunnels go on without it. Trying again …</span></div>`}
        ${mine?.suspended && html`<div class="banner" role="status"><${Icon} name="lock" /><span><b>This account is suspended.</b> You can look, but not change it, and its machines have the plan of those without an account. Ask whoever runs this service.</span></div>`}
        <${Shown} page=${current} me=${me} role=${mine?.role} account=${account} refresh=${refresh} />
      </main>
    </div>`;
}

/** @param {{page: string, me: any, role: string, account: any, refresh: () => void}} props */
function Shown({ page, me, role, account, refresh }) {
  if (page === 'networks') return html`<${Networks} role=${role} />`;
  if (page === 'machines') return html`<${Machines} role=${role} account=${account} />`;
  const known = (/** @type {string} */ title, /** @type {any} */ shown) => (account.data ? shown : html`<${Head} title=${title} /><${Card}><${Loaded} of=${account}>${() => null}<//><//>`);
  if (page === 'people') return known('People', html`<${People} me=${me} role=${role} account=${account} refresh=${refresh} />`);
  if (page === 'plan') return known('Plan', html`<${Plan} account=${account.data} />`);
  if (page === 'settings') return known('Settings', html`<${Settings} me=${me} role=${role} account=${account} refresh=${refresh} />`);
  return html`<${Head} title="No such page" /><${Card}><${Empty} icon="search" title="There is nothing at this address"><a href="#/networks">To my networks</a><//><//>`;
}

const app = document.getElementById('app');
if (app) {
  app.replaceChildren();
  render(html`<${Page} first=${mailedInAddress()} />`, app);
}
