// Webhooks: programs that are told what happens, what they took, and what is sent again.

import { html, useState } from '../../vendor/preact-htm.js';
import { ask, say } from '../acting.js';
import { change, get, send } from '../api.js';
import { counted, number, short } from '../format.js';
import { go, to, usePages, usePoll } from '../hooks.js';
import { Icon } from '../icons.js';
import { Badge, Card, Dialog, Empty, Facts, Head, Id, List, Loaded, Tabs, Trouble, When } from '../ui.js';

/** Why something was not taken. @type {Record<string, string>} */
const REASONS = {
  'no-such-name': 'The name of the receiver has no address',
  'private-address': 'The receiver is on a private network, which this service does not reach out to',
  'no-connection': 'Nobody answers at that address',
  'no-trusted-tls': 'Its certificate is not trusted',
  'broke-off': 'The connection broke',
  'timed-out': 'No answer in time',
  'no-http': 'What answers does not speak HTTP',
  'not-asked': 'The address cannot be asked',
  redirects: 'It answers with a redirect, which is not followed',
  refused: 'It refused the event',
  failed: 'It failed',
};

/** @type {Record<string, {tone: string, name: string}>} */
const STATES = {
  taken: { tone: 'good', name: 'Taken' },
  retrying: { tone: 'warn', name: 'Trying again' },
  replaying: { tone: 'info', name: 'To be sent again' },
  dead: { tone: 'bad', name: 'Given up' },
};

/** @param {{reason: string | null, status: number | null}} tried */
const why = ({ reason, status }) => (reason ? `${REASONS[reason] ?? reason}${status ? ` (HTTP ${status})` : ''}` : `HTTP ${status}`);

/** @param {any} one */
function state(one) {
  if (one.state === 'paused') return html`<${Badge} tone="calm">Paused</${Badge}>`;
  if (one.state === 'failing') return html`<${Badge} tone="bad">Given up on</${Badge}>`;
  return one.failing_since_ms ? html`<${Badge} tone="warn">Failing</${Badge}>` : html`<${Badge} tone="good">Active</${Badge}>`;
}

export function Webhooks() {
  const pages = usePages('/v1/webhooks');
  const [making, setMaking] = useState(false);
  const columns = [
    { name: 'Webhook', wide: true, cell: (/** @type {any} */ one) => html`<span class="stack"><a class="row-link" href=${to('webhooks', one.webhook)}>${one.name}</a><code class="faint">${one.url}</code></span>` },
    { name: 'State', cell: state },
    { name: 'Taken', end: true, cell: (/** @type {any} */ one) => number(one.delivered) },
    { name: 'Given up', end: true, cell: (/** @type {any} */ one) => number(one.dead) },
    { name: 'Last tried', end: true, cell: (/** @type {any} */ one) => html`<${When} at=${one.tried_ms} />` },
  ];
  return html`<${Head} title="Webhooks" lead="Programs that are told what happens, one event after the other, signed."><button type="button" class="button primary" onClick=${() => setMaking(true)}><${Icon} name="plus" />New webhook</button><//>
    <${Card} flush><${List} pages=${pages} label="Webhooks" id=${(/** @type {any} */ one) => one.webhook} columns=${columns} empty=${html`<${Empty} icon="webhooks" title="Nobody is told anything">Make a webhook, and a program of yours learns who joined, who left, what is relayed and what runs out.<//>`} /><//>
    ${making && html`<${Edit} close=${() => { setMaking(false); pages.reload(); }} />`}`;
}

/** @param {{id: string}} props */
export function Webhook({ id }) {
  const path = `/v1/webhooks/${id}`;
  const polled = usePoll((signal) => send('GET', path, { signal }), [id], 2_000);
  const [tab, setTab] = useState('all');
  const [editing, setEditing] = useState(false);
  const [secret, setSecret] = useState('');
  const [tested, setTested] = useState(/** @type {any} */ (null));
  const kept = usePages(`${path}/deliveries`, { state: tab === 'dead' ? 'dead' : undefined });
  const webhook = polled.data?.data;
  const etag = polled.data?.etag;
  const name = webhook?.name ?? short(id);
  const reload = () => {
    polled.reload();
    kept.reload();
  };
  const stopped = webhook && webhook.state !== 'active';
  const pause = () => ask({
    title: stopped ? `Tell ${name} again?` : `Pause ${name}?`,
    text: stopped ? 'It goes on with the first event that it was not told.' : 'Nothing is sent until you resume it. What happens meanwhile waits in the log: at most seven days, and only the newest 100,000 events of all kinds.',
    verb: stopped ? 'Resume' : 'Pause',
    run: () => change('PATCH', path, { paused: !stopped }, etag),
    done: stopped ? `${name} is told again.` : `${name} is paused.`,
    after: reload,
  });
  const rotate = () => ask({
    title: 'Make another secret?',
    text: 'It is shown once. The one before goes on to count for a while: until then every event carries a signature with each.',
    verb: 'Make secret',
    run: () => send('POST', `${path}/secret`, { etag: etag ?? '*' }),
    done: 'There is another secret.',
    after: (/** @type {any} */ made) => { setSecret(made.data.secret); reload(); },
  });
  const remove = () => ask({ title: `Delete ${name}?`, text: 'It is told nothing any more, and what it did not take is forgotten.', verb: 'Delete webhook', danger: true, name, run: () => change('DELETE', path, undefined, etag), done: `${name} was deleted.`, after: () => go('#/webhooks') });
  const test = async () => {
    setTested({ busy: true });
    setTested(await send('POST', `${path}/test`).then(({ data }) => data, (problem) => ({ problem })));
    reload();
  };
  const again = webhook?.state === 'paused' ? 'It is sent again once you resume it.' : 'It is sent again.';
  const replayAll = () => ask({ title: `Send everything again that ${name} did not take?`, text: 'In the order in which it happened, before anything newer.', verb: 'Send again', run: () => send('POST', `${path}/replay`), done: again, after: reload });
  const replay = async (/** @type {any} */ one) => {
    await send('POST', `${path}/deliveries/${one.event}/replay`).then(() => say(again), (problem) => setTested({ problem }));
    reload();
  };
  const columns = [
    { name: 'Event', wide: true, cell: (/** @type {any} */ one) => html`<span class="stack"><b>${one.kind}</b><code class="faint">${one.event}</code></span>` },
    { name: 'State', cell: (/** @type {any} */ one) => html`<${Badge} tone=${STATES[one.state]?.tone}>${STATES[one.state]?.name ?? one.state}</${Badge}>` },
    { name: 'Answer', cell: why },
    { name: 'Tries', end: true, cell: (/** @type {any} */ one) => number(one.tries) },
    { name: 'Tried', end: true, cell: (/** @type {any} */ one) => html`<${When} at=${one.tried_ms} />` },
    { name: 'Actions', end: true, cell: (/** @type {any} */ one) => (one.state === 'taken' || one.state === 'dead' ? html`<button type="button" class="quiet" aria-label=${`Send again: ${one.kind}, number ${one.sequence}`} onClick=${() => replay(one)}>Send again</button>` : html`<span class="faint">none</span>`) },
  ];
  return html`<${Head} title=${name} kind="Webhook" back=${{ to: '#/webhooks', text: 'Webhooks' }}>
      ${webhook && html`
        <button type="button" class="button" disabled=${tested?.busy} onClick=${test}>${tested?.busy ? 'Testing …' : 'Test'}</button>
        <button type="button" class="button" onClick=${() => setEditing(true)}>Change</button>
        <button type="button" class="button" onClick=${pause}>${stopped ? 'Resume' : 'Pause'}</button>
        <button type="button" class="button" onClick=${rotate}>New secret</button>
        <button type="button" class="button danger" onClick=${remove}>Delete …</button>`}
    <//>
    ${tested?.problem && html`<${Trouble} problem=${tested.problem} />`}
    ${tested?.took_ms !== undefined && html`<div class=${`verdict ${tested.taken ? 'good' : 'bad'}`} role="status"><${Icon} name=${tested.taken ? 'check' : 'warn'} />${tested.taken ? `It took the test event in ${number(tested.took_ms)} ms.` : `It did not take the test event: ${why(tested)}.`}</div>`}
    <${Loaded} of=${polled}>${() => html`
      <${Card}><${Facts} rows=${[
        ['State', html`<span class="inline">${state(webhook)}${webhook.next_ms && html`<span class="faint">next try <${When} at=${webhook.next_ms} /></span>`}</span>`],
        ['Where to', html`<code>${webhook.url}</code>`],
        ['Told', webhook.kinds.length ? webhook.kinds.join(', ') : 'everything'],
        ...(webhook.networks.length ? [['Networks', html`${webhook.networks.map((/** @type {string} */ one) => html`<a key=${one} class="quiet" href=${to('networks', one)}><code>${short(one)}</code></a>`)}`]] : []),
        ['Taken', counted(webhook.delivered, 'event')],
        ['Given up', counted(webhook.dead, 'event')],
        ...(webhook.missed ? [['Missed', html`${counted(webhook.missed, 'event')} <span class="faint">forgotten before it was their turn</span>`]] : []),
        ...(webhook.failing_since_ms ? [['Takes nothing since', html`<${When} at=${webhook.failing_since_ms} />`]] : []),
        ...(webhook.old_secret_until_ms ? [['Older secret counts', html`until <${When} at=${webhook.old_secret_until_ms} />`]] : []),
        ['Id', html`<${Id} id=${id} />`],
      ]} /><//>
      <${Tabs} label="Deliveries" current=${tab} onPick=${setTab} tabs=${[{ id: 'all', name: 'Lately told' }, { id: 'dead', name: 'Given up' }]} />
      <${Card} flush title="Deliveries" note="The newest hundred that were taken, and everything that was given up" tools=${html`<button type="button" class="button" disabled=${!webhook.dead} onClick=${replayAll}><${Icon} name="retry" />Send all again</button>`}>
        <${List} pages=${kept} label="Deliveries" id=${(/** @type {any} */ one) => String(one.sequence)} columns=${columns} empty=${html`<${Empty} icon="webhooks" title=${tab === 'dead' ? 'Nothing was given up' : 'It was told nothing yet'}>${tab === 'dead' ? 'What is tried too often without success is kept here, to be sent again.' : 'As soon as something happens that it wants, it is told. Test it to see whether it listens.'}<//>`} />
      <//>`}<//>
    ${editing && html`<${Edit} webhook=${webhook} etag=${etag} close=${() => { setEditing(false); reload(); }} />`}
    ${secret && html`<${Secret} name=${name} secret=${secret} close=${() => setSecret('')} />`}`;
}

/** @param {{name: string, secret: string, close: () => void}} props */
function Secret({ name, secret, close }) {
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    await navigator.clipboard?.writeText(secret).catch(() => {});
    setCopied(true);
  };
  return html`<${Dialog} title="Copy it now" onClose=${close}><p>This is the only time that the secret of <b>${name}</b> is shown. The receiver checks signatures with it.</p><pre class="secret" tabindex="0">${secret}</pre><div class="dialog-actions"><button type="button" class="button" onClick=${copy}><${Icon} name=${copied ? 'check' : 'copy'} />${copied ? 'Copied' : 'Copy'}</button><button type="button" class="button primary" onClick=${close}>I have it</button></div><//>`;
}

/** Makes a webhook, or changes the version of one that was there when this opened. @param {{webhook?: any, etag?: string | null, close: () => void}} props */
function Edit({ webhook, etag, close }) {
  const catalogue = usePoll((signal) => get('/v1/events/kinds', { signal }), [], 300_000);
  const [seen] = useState(etag);
  const [name, setName] = useState(webhook?.name ?? '');
  const [url, setUrl] = useState(webhook?.url ?? '');
  const [kinds, setKinds] = useState(/** @type {string[]} */ (webhook?.kinds ?? []));
  const [made, setMade] = useState(/** @type {any} */ (null));
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  if (made) return html`<${Secret} name=${made.name} secret=${made.secret} close=${close} />`;
  const flip = (/** @type {string} */ kind) => setKinds(kinds.includes(kind) ? kinds.filter((one) => one !== kind) : [...kinds, kind]);
  const save = async (/** @type {Event} */ event) => {
    event.preventDefault();
    const body = { name: name.trim(), url: url.trim(), kinds };
    try {
      if (webhook) {
        await change('PATCH', `/v1/webhooks/${webhook.webhook}`, body, seen);
        close();
      } else setMade((await send('POST', '/v1/webhooks', { body })).data);
    } catch (error) {
      setProblem(error);
    }
  };
  const offered = (catalogue.data?.items ?? []).filter((/** @type {any} */ one) => one.kind !== 'webhook.test');
  return html`<${Dialog} title=${webhook ? `Change ${webhook.name}` : 'New webhook'} onClose=${close}><form onSubmit=${save}>
    <label class="field"><span>For whom or what</span><input autofocus required maxlength="100" value=${name} placeholder="ticket system" onInput=${(/** @type {any} */ event) => setName(event.target.value)} /></label>
    <label class="field"><span>Where events are posted to</span><input type="url" required maxlength="2000" value=${url} placeholder="where it listens, with http or https" onInput=${(/** @type {any} */ event) => setUrl(event.target.value)} /></label>
    <fieldset class="field"><legend>What it is told</legend><p class="note">${kinds.length ? counted(kinds.length, 'kind') : 'Nothing picked: everything'}</p><div class="choices kinds" tabindex="0" role="group" aria-label="Kinds of events">${offered.map((/** @type {any} */ one) => html`<label key=${one.kind} class="choice"><input type="checkbox" checked=${kinds.includes(one.kind)} onChange=${() => flip(one.kind)} /><span><b>${one.kind}</b><small>${one.meaning}</small></span></label>`)}</div></fieldset>
    ${problem && html`<${Trouble} small problem=${problem} />`}
    <div class="dialog-actions"><button type="button" class="button" onClick=${close}>Cancel</button><button class="button primary" disabled=${!name.trim() || !url.trim()}>${webhook ? 'Save' : 'Make webhook'}</button></div>
  </form><//>`;
}
