// Blocks: what is held against whom, why, and until when. Whom one would touch is shown before it is made.

import { html, useEffect, useState } from '../../vendor/preact-htm.js';
import { ask } from '../acting.js';
import { change, get, send } from '../api.js';
import { counted, number, short } from '../format.js';
import { to, usePages, useSettled } from '../hooks.js';
import { Icon } from '../icons.js';
import { Badge, Card, Dialog, Empty, Facts, Head, List, Trouble, When } from '../ui.js';

/** @type {Record<string, {name: string, label: string, hint: string, effect: string, longest: number}>} */
const KINDS = {
  prefix: { name: 'Addresses', label: 'Prefix', hint: '192.0.2.0/24 or 2001:db8::/48', effect: 'Touches new clients from there only. Whoever is known logs in as ever, and nobody’s session ends.', longest: 86_400 },
  client: { name: 'Client', label: 'Id of the client', hint: '32 hexadecimal digits', effect: 'Touches its logins. To refuse them ends its session; its tunnels go on.', longest: 31_536_000 },
  account: { name: 'Account', label: 'Id of the account', hint: '32 hexadecimal digits', effect: 'Touches the logins of all its clients. To refuse them ends their sessions; their tunnels go on.', longest: 31_536_000 },
  network: { name: 'Network', label: 'Id of the network', hint: '32 hexadecimal digits', effect: 'Touches whoever wants to join. Its members are not touched.', longest: 31_536_000 },
};

/** @type {Record<string, {name: string, tone: string, text: string}>} */
const DEGREES = {
  slow: { name: 'Slow', tone: 'info', text: 'One at a time: everybody is told when to come back' },
  challenge: { name: 'Challenge', tone: 'warn', text: 'A second of work first: nothing to a person, a lot to a program with thousands of keys' },
  refuse: { name: 'Refuse', tone: 'bad', text: 'Not at all: the reason and the end are shown' },
};

/** @type {[string, number][]} */
const LIVES = [['1 hour', 3_600], ['6 hours', 21_600], ['1 day', 86_400], ['30 days', 2_592_000], ['1 year', 31_536_000]];

const lives = (/** @type {string} */ kind) => LIVES.filter(([, seconds]) => seconds <= KINDS[kind].longest);
const degrees = (/** @type {string} */ kind) => Object.entries(DEGREES).filter(([id]) => kind !== 'network' || id !== 'challenge');
const shown = (/** @type {any} */ one) => (one.kind === 'prefix' ? one.target : short(one.target));

export function Blocks() {
  const pages = usePages('/v1/blocks');
  const [edited, edit] = useState(/** @type {{block: any, etag: string | null} | null} */ (null));
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  // As it is now, not as the list was: that version is shown, and that version is changed.
  const open = async (/** @type {any} */ one) => {
    setProblem(null);
    await send('GET', `/v1/blocks/${one.block}`).then(({ data, etag }) => edit({ block: data, etag }), setProblem);
  };
  const lift = (/** @type {any} */ one) => ask({ title: `Lift the block of ${shown(one)}?`, text: 'It does not count any more from now on. The audit log keeps it.', verb: 'Lift', run: async () => change('DELETE', `/v1/blocks/${one.block}`, undefined, (await send('GET', `/v1/blocks/${one.block}`)).etag), done: `The block of ${shown(one)} was lifted.`, after: pages.reload });
  const target = (/** @type {any} */ one) => {
    const links = { client: 'clients', network: 'networks' };
    const code = html`<code title=${one.target}>${shown(one)}</code>`;
    const place = links[/** @type {'client'} */ (one.kind)];
    return html`<span class="stack">${place ? html`<a href=${to(place, one.target)}>${code}</a>` : code}<span class="faint">${KINDS[one.kind]?.name ?? one.kind}</span></span>`;
  };
  const columns = [
    { name: 'Whom', wide: true, cell: target },
    { name: 'How much', cell: (/** @type {any} */ one) => html`<${Badge} tone=${DEGREES[one.degree]?.tone}>${DEGREES[one.degree]?.name ?? one.degree}</${Badge}>` },
    { name: 'Why', cell: (/** @type {any} */ one) => html`<span class="reason">${one.reason}</span>` },
    { name: 'Made', cell: (/** @type {any} */ one) => html`<${When} at=${one.made_ms} />` },
    { name: 'Ends', cell: (/** @type {any} */ one) => html`<${When} at=${one.expires_ms} />` },
    { name: 'Actions', end: true, cell: (/** @type {any} */ one) => html`<span class="row-actions"><button type="button" class="quiet" aria-label=${`Change the block of ${shown(one)}`} onClick=${() => open(one)}>Change</button><button type="button" class="quiet bad" aria-label=${`Lift the block of ${shown(one)}`} onClick=${() => lift(one)}>Lift</button></span>` },
  ];
  return html`<${Head} title="Blocks" lead="What is held against whom. Each has a reason, which the affected are shown, and ends by itself."><button type="button" class="button primary" onClick=${() => edit({ block: {}, etag: null })}><${Icon} name="plus" />New block</button><//>
    <${Card} flush><${List} pages=${pages} label="Blocks" id=${(/** @type {any} */ one) => one.block} columns=${columns} empty=${html`<${Empty} icon="blocks" title="Nothing is held against anybody">New clients that come faster than people do are asked for work without any block.<//>`} /><//>
    ${problem && html`<${Trouble} problem=${problem} />`}
    ${edited && html`<${Edit} block=${edited.block} etag=${edited.etag} close=${() => edit(null)} done=${pages.reload} />`}`;
}

/** @param {{block: any, etag: string | null, close: () => void, done: () => void}} props */
function Edit({ block, etag, close, done }) {
  const fresh = !block.block;
  const [form, set] = useState({ kind: block.kind ?? 'prefix', target: block.target ?? '', degree: block.degree ?? 'challenge', reason: block.reason ?? '', life: fresh ? 21_600 : 0 });
  const [sure, setSure] = useState(false);
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  const touched = useTouched(form);
  const kind = KINDS[form.kind];
  const put = (/** @type {Partial<typeof form>} */ more) => {
    const next = { ...form, ...more };
    if (!degrees(next.kind).some(([id]) => id === next.degree)) next.degree = 'slow';
    if (next.life > KINDS[next.kind].longest) next.life = 21_600;
    setSure(false);
    set(next);
  };
  const many = touched.data && (touched.data.online > touched.data.allowed || !touched.data.complete);
  const save = async (/** @type {Event} */ event) => {
    event.preventDefault();
    if (busy || (many && !sure)) return;
    setBusy(true);
    setProblem(null);
    const what = { degree: form.degree, reason: form.reason.trim(), ...(form.life && { lifetime_s: form.life }), ...(many && { confirm: touched.data.online }) };
    try {
      if (fresh) await send('POST', '/v1/blocks', { body: { kind: form.kind, target: form.target.trim(), ...what } });
      else await change('PATCH', `/v1/blocks/${block.block}`, what, etag);
      close();
      done();
    } catch (error) {
      setProblem(error);
      setBusy(false);
    }
  };
  return html`<${Dialog} title=${fresh ? 'New block' : `Change the block of ${shown(block)}`} onClose=${close}><form onSubmit=${save}>
    ${fresh && html`<div class="pair-fields">
      <label class="field"><span>Whom</span><select value=${form.kind} onChange=${(/** @type {any} */ event) => put({ kind: event.target.value })}>${Object.entries(KINDS).map(([id, one]) => html`<option key=${id} value=${id}>${one.name}</option>`)}</select></label>
      <label class="field"><span>${kind.label}</span><input id="block-target" autofocus required maxlength="64" autocomplete="off" autocapitalize="off" spellcheck=${false} value=${form.target} onInput=${(/** @type {any} */ event) => put({ target: event.target.value })} /><small>${kind.hint}</small></label>
    </div>`}
    <p class="note">${kind.effect}</p>
    <fieldset class="field"><legend>How much</legend><div class="choices">${degrees(form.kind).map(([id, one]) => html`<label key=${id} class="choice"><input type="radio" name="degree" value=${id} checked=${form.degree === id} onChange=${() => put({ degree: id })} /><span><b>${one.name}</b><small>${one.text}</small></span></label>`)}</div></fieldset>
    <label class="field"><span>Why</span><input id="block-reason" required maxlength="200" value=${form.reason} onInput=${(/** @type {any} */ event) => put({ reason: event.target.value })} /><small>One line. The affected are shown it.</small></label>
    <label class="field"><span>Until</span><select value=${String(form.life)} onChange=${(/** @type {any} */ event) => put({ life: Number(event.target.value) })}>${!fresh && html`<option value="0">as it is</option>`}${lives(form.kind).map(([text, seconds]) => html`<option key=${seconds} value=${String(seconds)}>${text} from now</option>`)}</select></label>
    <${Touches} kind=${form.kind} touched=${touched} />
    ${many && html`<label class="choice"><input type="checkbox" id="block-sure" checked=${sure} onChange=${() => setSure(!sure)} /><span><b>Touch ${counted(touched.data.online, 'client')} online</b><small>More than the ${number(touched.data.allowed)} that may be touched in a minute.</small></span></label>`}
    ${problem && html`<${Trouble} small problem=${problem} />`}
    <div class="dialog-actions"><button type="button" class="button" onClick=${close}>Cancel</button><button class="button primary" disabled=${busy || !form.target.trim() || !form.reason.trim() || (many && !sure)}>${busy ? 'Working …' : fresh ? 'Make block' : 'Save'}</button></div>
  </form><//>`;
}

/** Whom it would touch, asked again when what is asked about has settled.
 * @param {{kind: string, target: string, degree: string}} form */
function useTouched({ kind, target, degree }) {
  const asked = useSettled({ kind, target: target.trim(), degree }, 400);
  const [state, set] = useState(/** @type {{data: any, problem: any, of: any}} */ ({ data: null, problem: null, of: null }));
  useEffect(() => {
    if (!asked.target) return;
    const abort = new AbortController();
    get('/v1/blocks/dry-run', { query: asked, signal: abort.signal }).then(
      (data) => set({ data, problem: null, of: asked }),
      (problem) => abort.signal.aborted || set({ data: null, problem, of: asked }),
    );
    return () => abort.abort();
  }, [asked]);
  const now = state.of && state.of.kind === kind && state.of.target === target.trim() && state.of.degree === degree;
  return { data: now ? state.data : null, problem: now ? state.problem : null, waiting: target.trim() !== '' && !now };
}

/** @param {{kind: string, touched: {data: any, problem: any, waiting: boolean}}} props */
function Touches({ kind, touched }) {
  const { data, problem, waiting } = touched;
  if (problem) return html`<div class="touches" role="status"><p class="bad-text">${problem.detail || problem.message}</p></div>`;
  if (waiting) return html`<div class="touches" role="status"><p class="faint">Counting whom it would touch …</p></div>`;
  if (!data) return html`<div class="touches" role="status"><p class="faint">Whom it would touch is counted as soon as it is known whom it is about.</p></div>`;
  /** @type {[string, any][]} */
  const rows = [[kind === 'prefix' ? 'Online from there' : 'Online', `${number(data.online)} of ${number(data.total)}`]];
  if (data.clients !== null) rows.unshift([kind === 'network' ? 'Members' : 'Clients', number(data.clients)]);
  rows.push(['Sessions that end', number(data.ends)]);
  return html`<div class="touches" role="status"><${Facts} rows=${rows} />${!data.complete && html`<p class="note">Not every gateway answered: there may be more.</p>`}</div>`;
}
