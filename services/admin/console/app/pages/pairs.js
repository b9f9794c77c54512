// Why two clients are connected as they are: in words, step by step, and with the relays that were considered.

import { html, useState } from '../../vendor/preact-htm.js';
import { get } from '../api.js';
import { number, short, span, timeExact } from '../format.js';
import { go, to, usePoll } from '../hooks.js';
import { Icon } from '../icons.js';
import { Avatar, Badge, Card, Empty, Facts, Head, Loaded, Table, When } from '../ui.js';
import { CHOSEN, CLASSES, OUTCOMES, STRATEGIES, VERDICTS, VIAS, story } from '../words.js';

const ID = /^[0-9a-f]{32}$/;

/** Asks for two ids. */
export function Pairs() {
  const [a, setA] = useState('');
  const [b, setB] = useState('');
  const [tried, setTried] = useState(false);
  const wrong = (/** @type {string} */ id) => tried && !ID.test(id.trim().toLowerCase());
  const open = (/** @type {Event} */ event) => {
    event.preventDefault();
    setTried(true);
    const [x, y] = [a, b].map((id) => id.trim().toLowerCase());
    if (ID.test(x) && ID.test(y) && x !== y) go(to('pairs', x, y));
  };
  const field = (/** @type {string} */ name, /** @type {string} */ value, /** @type {(text: string) => void} */ set) => html`<label class="field"><span>${name}</span><input class="mono" value=${value} autocomplete="off" spellcheck=${false} aria-invalid=${wrong(value)} placeholder="32 hexadecimal digits" onInput=${(/** @type {any} */ event) => set(event.target.value)} />${wrong(value) && html`<small class="bad-text">An id has 32 digits from 0 to f. Copy it from the client’s page.</small>`}</label>`;
  return html`<${Head} title="Why are two connected so?" kind="Pairs" lead="Every pair leaves a record of how its path was looked for. It is kept for a day." />
    <${Card}><form class="pair-form" onSubmit=${open}>${field('One client', a, setA)}${field('The other client', b, setB)}<button class="button primary">Explain</button></form>
      ${tried && a.trim() && a.trim() === b.trim() && html`<p class="bad-text">That is the same client twice.</p>`}
      <p class="note">Easier: open a network, then <b>Connections</b>. There every member has its list.</p><//>`;
}

/** @param {{a: string, b: string, has: (path: string) => boolean}} props */
export function Pair({ a, b, has }) {
  const record = usePoll((signal) => get(`/v1/pairs/${a}/${b}`, { signal }), [a, b]);
  const people = usePoll(has('/v1/clients') ? (signal) => Promise.all([a, b].map((id) => get(`/v1/clients/${id}`, { signal }).catch(() => null))) : null, [a, b], 15_000);
  const nick = (/** @type {string} */ id) => people.data?.find((one) => one?.client === id)?.nick || short(id);
  const online = (/** @type {string} */ id) => Boolean(people.data?.find((one) => one?.client === id)?.session);
  const [x, y] = record.data ? [record.data.a, record.data.b] : [a, b];
  const outcome = record.data ? OUTCOMES[record.data.outcome] : OUTCOMES.none;
  const side = (/** @type {string} */ id, /** @type {string | undefined} */ nat) => html`<a class="end" href=${to('clients', id)}><${Avatar} large id=${id} nick=${nick(id)} tone=${people.data ? (online(id) ? 'good' : 'calm') : undefined} /><b>${nick(id)}</b><small>${nat ? `Router: ${CLASSES[nat]?.name}` : 'Router unknown'}</small></a>`;
  return html`<${Head} title=${`${nick(x)} and ${nick(y)}`} kind="Pair" back=${{ to: '#/pairs', text: 'Pairs' }} />
    <${Card} class="bridge-card">
      <div class=${`bridge ${outcome.tone}`}>
        ${side(x, record.data?.class_a)}
        <div class="span"><span class="wire" aria-hidden="true">${record.data?.outcome !== 'direct' && record.data && html`<span class="hop"><${Icon} name="relays" /></span>`}</span><${Badge} tone=${outcome.tone} dot>${record.loading ? 'Looking …' : outcome.name}</${Badge}></div>
        ${side(y, record.data?.class_b)}
      </div>
    <//>
    ${record.problem?.status === 404 ? html`<${Card}><${Empty} icon="pairs" title="These two never negotiated, or it is long ago">They must share a network and be online at the same time. A record is kept for a day after the last attempt.<//><//>` : html`<${Loaded} of=${record}>${(/** @type {any} */ data) => html`<${Explained} record=${data} names=${[nick(x), nick(y)]} />`}<//>`}`;
}

/** @param {{record: any, names: string[]}} props */
function Explained({ record, names }) {
  const relayed = record.outcome !== 'direct';
  return html`
    <${Card} title=${relayed ? 'Why it is relayed' : 'Why it is direct'}><p class="story">${story(record, names[0], names[1])}</p>${record.hint && html`<p class="hint"><${Icon} name="info" /><span>${record.hint[0].toUpperCase() + record.hint.slice(1)}</span></p>`}<//>
    <div class="columns">
      <${Card} title="What happened"><${Steps} record=${record} names=${names} /><//>
      <${Card} title="In figures"><${Facts} rows=${[
        ['Attempts', number(record.attempts)],
        ['Took', span(record.took_ms)],
        ['Packets', record.budget ? `${number(record.packets)} of at most ${number(record.budget)}` : number(record.packets)],
        ['Began', html`<${When} at=${record.started} />`],
        ['Relay', record.relay ? html`<a class="quiet" href="#/relays"><code>${short(record.relay)}</code></a>` : html`<span class="faint">none</span>`],
        ['In the logs', html`<code>trace ${record.trace}</code>`],
      ]} /><//>
    </div>
    ${record.choice && html`<${Choice} choice=${record.choice} names=${names} a=${record.a} />`}`;
}

/** @param {{record: any, names: string[]}} props */
function Steps({ record, names }) {
  const [x, y] = [CLASSES[record.class_a], CLASSES[record.class_b]];
  const strategy = STRATEGIES[record.strategy];
  const choice = record.choice;
  /** @type {{at?: number, tone: string, title: string, text: any}[]} */
  const steps = [];
  if (choice && choice.at <= record.started) steps.push(relayStep(choice, record));
  steps.push({ at: record.started, tone: x && y ? 'good' : 'warn', title: 'The routers were looked at', text: html`${names[0]}: ${x ? `${x.name.toLowerCase()}. Its router ${x.text}.` : 'not measured.'}<br />${names[1]}: ${y ? `${y.name.toLowerCase()}. Its router ${y.text}.` : 'not measured.'}` });
  if (strategy && record.outcome !== 'pending') steps.push({ tone: record.strategy === 'relay' ? 'warn' : 'good', title: record.strategy === 'relay' ? 'No strategy fits' : `The strategy was chosen: ${strategy.name}`, text: `${strategy.text[0].toUpperCase()}${strategy.text.slice(1)}.` });
  if (record.attempts > 0) steps.push({ tone: record.outcome === 'direct' ? 'good' : 'warn', title: record.attempts === 1 ? 'One attempt was made' : `${record.attempts} attempts were made`, text: record.budget ? `${number(record.packets)} packets from both sides together; the plan allowed ${number(record.budget)}.` : `${number(record.packets)} packets from both sides together.` });
  const done = { direct: `The path is direct, ${VIAS[record.via] ?? 'over the internet'}.`, relayed: 'The relay carries this pair.', pending: 'The relay carries this pair until both routers are known.' };
  steps.push({ at: record.started + record.took_ms, tone: OUTCOMES[record.outcome].tone, title: OUTCOMES[record.outcome].name, text: done[/** @type {keyof typeof done} */ (record.outcome)] });
  if (choice && choice.at > record.started) steps.push(relayStep(choice, record));
  steps.sort((one, other) => (one.at && other.at ? one.at - other.at : 0));
  return html`<ol class="steps">${steps.map((step) => html`<li key=${step.title} class=${step.tone}><div class="step-head"><b>${step.title}</b>${step.at && html`<time datetime=${new Date(step.at).toISOString()}>${timeExact(step.at)}</time>`}</div><p>${step.text}</p></li>`)}</ol>`;
}

/** @param {any} choice @param {any} record */
function relayStep(choice, record) {
  const found = choice.candidates.find((/** @type {any} */ one) => one.verdict === 'chosen');
  const carried = choice.at <= record.started + record.took_ms ? ' It carried the pair until the direct path was open.' : ' Should the direct path be lost, the pair goes there.';
  return { at: choice.at, tone: found ? 'good' : 'bad', title: found ? `A relay was chosen: ${short(found.relay)}` : 'No relay was found', text: `Because ${CHOSEN[choice.why] ?? choice.why}.${found && record.outcome === 'direct' ? carried : ''}` };
}

/** @param {{choice: any, names: string[], a: string}} props */
function Choice({ choice, names, a }) {
  // The round trips are in the order of the choice, which need not be that of the record.
  const order = choice.of[0] === a ? [0, 1] : [1, 0];
  const trip = (/** @type {number | null} */ us) => (us === null ? html`<span class="faint">not measured</span>` : `${(us / 1000).toFixed(us < 10_000 ? 1 : 0)} ms`);
  const columns = [
    { name: 'Relay', wide: true, cell: (/** @type {any} */ one) => html`<code>${short(one.relay)}</code> <span class="faint">${one.region || 'no region'}</span>` },
    { name: `From ${names[0]}`, cell: (/** @type {any} */ one) => trip(one.rtts_us[order[0]]) },
    { name: `From ${names[1]}`, cell: (/** @type {any} */ one) => trip(one.rtts_us[order[1]]) },
    { name: 'Load', cell: (/** @type {any} */ one) => `${number(one.slots)} of ${number(one.max_slots)}` },
    { name: 'Verdict', end: true, cell: (/** @type {any} */ one) => html`<${Badge} tone=${VERDICTS[one.verdict]?.tone}>${VERDICTS[one.verdict]?.name ?? one.verdict}</${Badge}>` },
  ];
  return html`<${Card} flush title="Relays that were considered" note=${`Best first; ${CHOSEN[choice.why] ?? choice.why}`}>${choice.candidates.length ? html`<${Table} label="Relays that were considered" items=${choice.candidates} id=${(/** @type {any} */ one) => one.relay} columns=${columns} />` : html`<${Empty} icon="relays" title="None was alive" />`}<//>`;
}
