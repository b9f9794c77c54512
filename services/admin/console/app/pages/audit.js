// The audit log: who asked for what, and what became of it.

import { html, useState } from '../../vendor/preact-htm.js';
import { say } from '../acting.js';
import { get, send } from '../api.js';
import { number, short } from '../format.js';
import { usePages, useSettled } from '../hooks.js';
import { Icon } from '../icons.js';
import { Badge, Card, Dialog, Empty, Facts, Head, List, Trouble, When } from '../ui.js';

export function Audit() {
  const [filter, setFilter] = useState({ action: '', object: '' });
  const settled = useSettled(filter);
  const pages = usePages('/v1/audit', { action: settled.action.trim(), object: settled.object.trim() });
  const [shown, show] = useState(/** @type {any} */ (null));
  const [verified, setVerified] = useState(/** @type {any} */ (null));
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  const verify = async () => {
    setProblem(null);
    setVerified({ busy: true });
    try {
      let [checked, query] = [0, /** @type {any} */ ({})];
      for (;;) {
        const part = await get('/v1/audit/verify', { query });
        checked += part.checked;
        if (!part.intact || !part.more) {
          setVerified({ ...part, checked });
          return;
        }
        query = { after: part.sequence, digest: part.digest };
      }
    } catch (error) {
      setVerified(null);
      setProblem(error);
    }
  };
  const save = async () => {
    try {
      const { data } = await send('GET', '/v1/audit/export');
      const link = document.createElement('a');
      link.href = URL.createObjectURL(new Blob([data], { type: 'application/x-ndjson' }));
      link.download = `buri-audit-${new Date().toISOString().slice(0, 10)}.ndjson`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
      say('The log was saved.');
    } catch (error) {
      setProblem(error);
    }
  };
  const columns = [
    { name: 'What', wide: true, cell: (/** @type {any} */ one) => html`<button type="button" class="row-link" onClick=${() => show(one)}>${one.action}</button>` },
    { name: 'On', cell: (/** @type {any} */ one) => html`<code class="cut" title=${one.object}>${one.object}</code>` },
    { name: 'By', cell: (/** @type {any} */ one) => (one.who === 'root' ? 'root' : html`<code title=${one.who}>${short(one.who)}</code>`) },
    { name: 'Outcome', cell: (/** @type {any} */ one) => (one.status === null ? html`<${Badge}>asked</${Badge}>` : html`<${Badge} tone=${one.status < 300 ? 'good' : one.status < 500 ? 'warn' : 'bad'}>${one.status < 300 ? 'done' : 'refused'} · ${one.status}</${Badge}>`) },
    { name: 'When', end: true, cell: (/** @type {any} */ one) => html`<${When} at=${one.at_ms} />` },
  ];
  const set = (/** @type {string} */ key) => (/** @type {any} */ event) => setFilter({ ...filter, [key]: event.target.value });
  return html`<${Head} title="Audit" lead="Every change is written down before it is made and after it, in a chain of digests."><button type="button" class="button" onClick=${verify} disabled=${verified?.busy}><${Icon} name="check" />Check the chain</button><button type="button" class="button" onClick=${save}><${Icon} name="down" />Export</button><//>
    ${verified && !verified.busy && html`<div class=${`verdict ${verified.intact ? 'good' : 'bad'}`} role="status"><${Icon} name=${verified.intact ? 'check' : 'warn'} />${verified.intact ? html`<span>The chain is intact: ${number(verified.checked)} entries follow each other as they were written. Keep the last digest elsewhere: <code>${verified.digest.slice(0, 16)}…</code></span>` : html`<span>Entry ${number(verified.broken_at)} is not what was written. Everything before it is intact.</span>`}</div>`}
    ${problem && html`<${Trouble} problem=${problem} />`}
    <${Card} flush title="Entries" tools=${html`<div class="filters"><label class="filter"><span class="hidden">Operation</span><input type="search" placeholder="Operation, like relays_drain" value=${filter.action} onInput=${set('action')} /></label><label class="filter"><span class="hidden">Path</span><input type="search" placeholder="Path that it was about" value=${filter.object} onInput=${set('object')} /></label></div>`}>
      <${List} pages=${pages} label="Audit log" id=${(/** @type {any} */ one) => String(one.sequence)} columns=${columns} empty=${html`<${Empty} icon="audit" title="No entry">${filter.action || filter.object ? 'Operations and paths are compared whole.' : 'Nobody has changed anything yet.'}<//>`} />
    <//>
    ${shown && html`<${Dialog} title=${`Entry ${number(shown.sequence)}`} onClose=${() => show(null)}>
      <${Facts} rows=${[['Operation', html`<code>${shown.action}</code>`], ['On', html`<code>${shown.object}</code>`], ['By', html`<code>${shown.who}</code>`], ['When', html`<${When} at=${shown.at_ms} />`], ['Request', html`<code>${shown.request_id}</code>`], ['Digest', html`<code>${shown.digest}</code>`]]} />
      <div class="before-after">${[['Before', shown.before], ['After', shown.after]].map(([name, value]) => html`<div key=${name}><h3>${name}</h3><pre tabindex="0">${value === null ? 'nothing' : JSON.stringify(value, null, 2)}</pre></div>`)}</div>
      <div class="dialog-actions"><button type="button" class="button primary" onClick=${() => show(null)}>Close</button></div><//>`}`;
}
