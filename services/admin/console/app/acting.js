// Changes: what is asked before them, and what is said after them.

import { html, useEffect, useState } from '../vendor/preact-htm.js';
import { Icon } from './icons.js';
import { Dialog, Trouble } from './ui.js';

/**
 * @typedef {{title: string, text: any, verb: string, run: () => Promise<any>, done?: string, name?: string, danger?: boolean, after?: (result: any) => void}} Question
 * @type {((question: Question) => void)}
 */
let show = () => {};
/** @type {((text: string) => void)} */
let announce = () => {};

/** Asks before something is done; whatever cannot be undone asks for the name of what it is done to.
 * @param {Question} question */
export const ask = (question) => show(question);

/** @param {string} text */
export const say = (text) => announce(text);

/** The place where questions are shown. */
export function Questions() {
  const [question, set] = useState(/** @type {Question | null} */ (null));
  show = (next) => set(next);
  return question && html`<${Asked} question=${question} close=${() => set(null)} />`;
}

/** @param {{question: Question, close: () => void}} props */
function Asked({ question, close }) {
  const [typed, setTyped] = useState('');
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  const sure = !question.name || typed.trim() === question.name;
  const act = async (/** @type {Event} */ event) => {
    event.preventDefault();
    if (!sure || busy) return;
    setBusy(true);
    setProblem(null);
    try {
      const result = await question.run();
      close();
      say(question.done ?? 'Done.');
      question.after?.(result);
    } catch (error) {
      setProblem(error);
      setBusy(false);
    }
  };
  return html`<${Dialog} title=${question.title} onClose=${close}>
    <form onSubmit=${act}>
      <p>${question.text}</p>
      ${question.name && html`<label class="field"><span>Type <b class="typed">${question.name}</b> to confirm</span><input autofocus autocomplete="off" autocapitalize="off" spellcheck=${false} value=${typed} onInput=${(/** @type {any} */ event) => setTyped(event.target.value)} /></label>`}
      ${problem && html`<${Trouble} small problem=${problem} />`}
      <div class="dialog-actions">
        <button type="button" class="button" onClick=${close}>Cancel</button>
        <button type="submit" class=${`button ${question.danger ? 'danger' : 'primary'}`} disabled=${!sure || busy}>${busy ? 'Working …' : question.verb}</button>
      </div>
    </form>
  <//>`;
}

/** What was done, for eyes and for screen readers. */
export function Announcements() {
  const [text, set] = useState('');
  announce = set;
  useEffect(() => {
    if (!text) return;
    const timer = setTimeout(() => set(''), 5_000);
    return () => clearTimeout(timer);
  }, [text]);
  return html`<div class="toasts" role="status" aria-live="polite">${text && html`<div class="toast"><${Icon} name="check" />${text}</div>`}</div>`;
}
