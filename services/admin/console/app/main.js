// The console: who is signed in, which page is shown, and the frame around it.

import { html, render, useEffect, useRef, useState } from '../vendor/preact-htm.js';
import { Announcements, Questions } from './acting.js';
import { get, listen, signIn, signOut, signedIn } from './api.js';
import { usePoll, useRoute, useTheme } from './hooks.js';
import { Icon, Mark } from './icons.js';
import { Account, Accounts } from './pages/accounts.js';
import { Audit } from './pages/audit.js';
import { Blocks } from './pages/blocks.js';
import { Client, Clients } from './pages/clients.js';
import { Network, Networks } from './pages/networks.js';
import { Overview } from './pages/overview.js';
import { Pair, Pairs } from './pages/pairs.js';
import { Plans } from './pages/plans.js';
import { Relays } from './pages/relays.js';
import { Sessions } from './pages/sessions.js';
import { Tokens } from './pages/tokens.js';
import { Usage } from './pages/usage.js';
import { Webhook, Webhooks } from './pages/webhooks.js';
import { Search } from './search.js';
import { SignIn } from './signin.js';
import { Empty, Head, Loaded, Theme } from './ui.js';

/** The pages; each needs a path of the API, and is left out where there is none.
 * @type {{group: string, pages: {id: string, name: string, needs: string}[]}[]} */
const PAGES = [
  { group: 'See', pages: [
    { id: 'overview', name: 'Overview', needs: '/v1/overview' },
    { id: 'networks', name: 'Networks', needs: '/v1/networks' },
    { id: 'clients', name: 'Clients', needs: '/v1/clients' },
    { id: 'accounts', name: 'Accounts', needs: '/v1/accounts' },
    { id: 'sessions', name: 'Sessions', needs: '/v1/sessions' },
    { id: 'pairs', name: 'Pairs', needs: '/v1/pairs/{a}/{b}' },
  ] },
  { group: 'Run', pages: [
    { id: 'relays', name: 'Relays', needs: '/v1/relays' },
    { id: 'plans', name: 'Plans', needs: '/v1/plans' },
    { id: 'usage', name: 'Usage', needs: '/v1/usage' },
  ] },
  { group: 'Govern', pages: [
    { id: 'blocks', name: 'Blocks', needs: '/v1/blocks' },
    { id: 'tokens', name: 'Tokens', needs: '/v1/tokens' },
    { id: 'webhooks', name: 'Webhooks', needs: '/v1/webhooks' },
    { id: 'audit', name: 'Audit', needs: '/v1/audit' },
  ] },
];

/** A token in the address is taken, and the address is rid of it before anything else happens. */
function tokenOfAddress() {
  const [, token] = /^#token=([^&]+)$/.exec(location.hash) ?? [];
  if (token) history.replaceState(null, '', location.pathname);
  return token ? decodeURIComponent(token) : null;
}

/** @param {{token: string | null}} props */
function Console({ token }) {
  const [inside, setInside] = useState(signedIn());
  const [entering, setEntering] = useState(token !== null);
  const [refused, setRefused] = useState(false);
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  const [offline, setOffline] = useState(false);
  useTheme();
  useEffect(() => listen((event) => {
    if (event === 'signed-in') setInside(true);
    if (event === 'signed-out' || event === 'refused') setInside(false);
    if (event === 'signed-in' || event === 'refused') setRefused(event === 'refused');
    if (event === 'offline' || event === 'online') setOffline(event === 'offline');
  }), []);
  useEffect(() => {
    if (token) signIn(token).catch(setProblem).finally(() => setEntering(false));
  }, []);
  if (entering) return null;
  return html`${inside ? html`<${Inside} offline=${offline} />` : html`<${SignIn} refused=${refused} problem=${problem} />`}<${Questions} /><${Announcements} />`;
}

/** @param {{offline: boolean}} props */
function Inside({ offline }) {
  const index = usePoll((signal) => get('/', { signal }), [], 300_000);
  const { hash, parts } = useRoute();
  const [menu, setMenu] = useState(false);
  const first = useRef(true);
  const resources = index.data?.resources ?? [];
  const has = (/** @type {string} */ path) => resources.includes(path);
  useEffect(() => {
    setMenu(false);
    if (first.current) first.current = false;
    else {
      scrollTo(0, 0);
      document.getElementById('title')?.focus({ preventScroll: true });
    }
  }, [hash]);
  const groups = PAGES.map((group) => ({ ...group, pages: group.pages.filter((page) => has(page.needs)) })).filter((group) => group.pages.length);
  const current = parts[0] ?? groups[0]?.pages[0]?.id;
  return html`
    <a class="skip" href="#main" onClick=${(/** @type {Event} */ event) => { event.preventDefault(); document.getElementById('main')?.focus(); }}>Skip to the page</a>
    <div class="frame">
      <header class="bar">
        <button type="button" class="bare-button menu-button" aria-expanded=${menu} aria-controls="nav" onClick=${() => setMenu(!menu)}><${Icon} name=${menu ? 'close' : 'menu'} /><span class="hidden">Menu</span></button>
        <a class="brand" href="#/" aria-label="Buri console"><${Mark} /><b>Buri</b></a>
        <${Search} has=${has} />
        <${Theme} />
        <button type="button" class="bare-button" onClick=${signOut} aria-label="Sign out" title="Sign out"><${Icon} name="out" /></button>
      </header>
      <nav class=${`nav ${menu ? 'open' : ''}`} id="nav" aria-label="Pages" onKeyDown=${(/** @type {KeyboardEvent} */ event) => { if (event.key === 'Escape') setMenu(false); stepThrough(event); }}>
        ${groups.map((group) => html`<div key=${group.group}><span class="nav-group">${group.group}</span>${group.pages.map((page) => html`<a key=${page.id} href=${`#/${page.id}`} aria-current=${page.id === current ? 'page' : undefined}><${Icon} name=${page.id} />${page.name}</a>`)}</div>`)}
      </nav>
      <main class="page" id="main" tabindex="-1">
        ${offline && html`<div class="banner" role="alert"><${Icon} name="warn" /><span><b>No answer from the admin role.</b> What you see may be old. Trying again …</span></div>`}
        <${Loaded} of=${index}>${() => html`<${Shown} parts=${parts.length ? parts : [current]} has=${has} />`}<//>
      </main>
    </div>`;
}

/** Arrow keys go through a list of links. @param {KeyboardEvent} event */
function stepThrough(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  const links = [.../** @type {Element} */ (event.currentTarget).querySelectorAll('a')];
  const at = links.indexOf(/** @type {HTMLAnchorElement} */ (document.activeElement));
  event.preventDefault();
  links[(at + step + links.length) % links.length]?.focus();
}

/** @param {{parts: (string | undefined)[], has: (path: string) => boolean}} props */
function Shown({ parts, has }) {
  const [page, id, other] = parts;
  if (page === 'overview') return html`<${Overview} has=${has} />`;
  if (page === 'accounts') return id ? html`<${Account} key=${id} id=${id} has=${has} />` : html`<${Accounts} />`;
  if (page === 'clients') return id ? html`<${Client} key=${id} id=${id} has=${has} />` : html`<${Clients} />`;
  if (page === 'networks' && id && has('/v1/networks/{network}')) return html`<${Network} key=${id} id=${id} />`;
  if (page === 'networks' && !id) return html`<${Networks} />`;
  if (page === 'sessions') return html`<${Sessions} />`;
  if (page === 'pairs') return id && other ? html`<${Pair} key=${id + other} a=${id} b=${other} has=${has} />` : html`<${Pairs} />`;
  if (page === 'relays') return html`<${Relays} />`;
  if (page === 'plans') return html`<${Plans} />`;
  if (page === 'usage') return html`<${Usage} />`;
  if (page === 'blocks') return html`<${Blocks} />`;
  if (page === 'tokens') return html`<${Tokens} />`;
  if (page === 'webhooks') return id ? html`<${Webhook} key=${id} id=${id} />` : html`<${Webhooks} />`;
  if (page === 'audit') return html`<${Audit} />`;
  return html`<${Head} title="No such page" /><section class="card"><${Empty} icon="search" title="There is nothing at this address">Pick a page from the menu, or press <kbd>/</kbd> and search.<//></section>`;
}

const app = document.getElementById('app');
if (app) {
  app.replaceChildren();
  render(html`<${Console} token=${tokenOfAddress()} />`, app);
}
