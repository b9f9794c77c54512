// Charts of our own: lines over time, shares, and bars. Drawn from figures that were measured, with gaps where there are none.

import { html, useLayoutEffect, useRef, useState } from '../vendor/preact-htm.js';
import { time, timeExact } from './format.js';

/** Whole steps for an axis up to `most`. @param {number} most @param {boolean} binary */
function steps(most, binary) {
  const base = binary ? 1024 ** Math.floor(Math.log(Math.max(most, 1)) / Math.log(1024)) : 1;
  const scaled = Math.max(most / base, base === 1 ? 4 : 1);
  const power = 10 ** Math.floor(Math.log10(scaled / 4));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((one) => one * 4 >= scaled) ?? scaled;
  const whole = base === 1 ? Math.max(1, Math.ceil(step)) : step;
  return [0, 1, 2, 3, 4].map((nth) => nth * whole * base);
}

/**
 * Lines over time, with a cross-hair.
 * @typedef {{name: string, tone: string, values: (number | null)[], area?: boolean}} Series
 * @param {{at: number[], series: Series[], format: (value: number) => string, label: string, height?: number, binary?: boolean, most?: number}} props
 */
export function Lines({ at, series, format, label, height = 190, binary = false, most }) {
  const box = useRef(/** @type {HTMLDivElement | null} */ (null));
  const [width, setWidth] = useState(600);
  const [place, setPlace] = useState(/** @type {number | null} */ (null));
  useLayoutEffect(() => {
    const watch = new ResizeObserver(([entry]) => setWidth(Math.max(200, entry.contentRect.width)));
    if (box.current) watch.observe(box.current);
    return () => watch.disconnect();
  }, []);
  const [left, right, top, bottom] = [format(most ?? 1000).length > 5 ? 66 : 44, 8, 10, 24];
  const highest = most ?? Math.max(1, ...series.flatMap((one) => one.values.map((value) => value ?? 0)));
  const ticks = most ? [0, most / 4, most / 2, most * 0.75, most] : steps(highest, binary);
  const top_value = ticks[ticks.length - 1];
  const [from, until] = [at[0] ?? 0, Math.max(at[at.length - 1] ?? 1, (at[0] ?? 0) + 60_000)];
  const x = (/** @type {number} */ moment) => left + ((moment - from) / (until - from)) * (width - left - right);
  const y = (/** @type {number} */ value) => top + (1 - value / top_value) * (height - top - bottom);
  const runs = (/** @type {(number | null)[]} */ values) => {
    /** @type {[number, number][][]} */
    const all = [[]];
    values.forEach((value, nth) => (value === null ? all.push([]) : all[all.length - 1].push([x(at[nth]), y(value)])));
    return all.filter((run) => run.length);
  };
  const line = (/** @type {[number, number][]} */ run) => `M${run.map(([a, b]) => `${a.toFixed(1)} ${b.toFixed(1)}`).join('L')}`;
  const count = width < 420 ? 3 : 5;
  const moments = Array.from({ length: count }, (_, nth) => from + ((until - from) * nth) / (count - 1));
  const clock = until - from < 300_000 ? timeExact : time;
  const point = (/** @type {PointerEvent} */ event) => {
    const bounds = /** @type {Element} */ (event.currentTarget).getBoundingClientRect();
    const moment = from + ((event.clientX - bounds.left - left) / (width - left - right)) * (until - from);
    const nearest = at.reduce((best, one, nth) => (Math.abs(one - moment) < Math.abs(at[best] - moment) ? nth : best), 0);
    setPlace(at.length ? nearest : null);
  };
  const now = series.map((one) => `${one.name} ${format(one.values.findLast((value) => value !== null) ?? 0)}`).join(', ');
  return html`<div class="chart" ref=${box}>
    <svg viewBox=${`0 0 ${width} ${height}`} width=${width} height=${height} role="img" aria-label=${`${label}. Now: ${now}.`} onPointerMove=${point} onPointerLeave=${() => setPlace(null)}>
      ${ticks.map((tick) => html`<g key=${tick}><line class="grid" x1=${left} x2=${width - right} y1=${y(tick)} y2=${y(tick)} /><text class="tick" x=${left - 8} y=${y(tick) + 4} text-anchor="end">${format(tick)}</text></g>`)}
      ${moments.map((moment, nth) => html`<text class="tick" key=${nth} x=${x(moment)} y=${height - 6} text-anchor=${nth === 0 ? 'start' : nth === count - 1 ? 'end' : 'middle'}>${clock(moment)}</text>`)}
      ${series.map((one) => html`<g key=${one.name} class=${`series ${one.tone}`}>${runs(one.values).map((run) => html`
        ${one.area && run.length > 1 && html`<path class="area" d=${`${line(run)}L${run[run.length - 1][0].toFixed(1)} ${y(0)}L${run[0][0].toFixed(1)} ${y(0)}Z`} />`}
        ${run.length > 1 ? html`<path class="line" d=${line(run)} />` : html`<circle class="point" cx=${run[0][0]} cy=${run[0][1]} r="3" />`}`)}</g>`)}
      ${place !== null && at[place] !== undefined && html`<g class="cross"><line x1=${x(at[place])} x2=${x(at[place])} y1=${top} y2=${height - bottom} />${series.map((one) => one.values[place] !== null && html`<circle key=${one.name} class=${`point ${one.tone}`} cx=${x(at[place])} cy=${y(one.values[place] ?? 0)} r="3.5" />`)}</g>`}
    </svg>
    ${place !== null && at[place] !== undefined && html`<div class=${`tip ${x(at[place]) > width / 2 ? 'to-left' : ''}`} style=${{ left: `${x(at[place])}px` }}><b>${timeExact(at[place])}</b>${series.map((one) => html`<span key=${one.name}><i class=${`swatch ${one.tone}`} />${one.name}<b>${one.values[place] === null ? '–' : format(one.values[place] ?? 0)}</b></span>`)}</div>`}
    ${series.length > 1 && html`<div class="legend">${series.map((one) => html`<span key=${one.name}><i class=${`swatch ${one.tone}`} />${one.name}</span>`)}</div>`}
  </div>`;
}

/** A share of a whole as a ring. @param {{part: number, all: number, label: string, tone?: string}} props */
export function Ring({ part, all, label, tone = 'good' }) {
  const [radius, share] = [42, all ? part / all : 0];
  const around = 2 * Math.PI * radius;
  return html`<svg class="ring" viewBox="0 0 104 104" role="img" aria-label=${label}>
    <circle class="ring-rest" cx="52" cy="52" r=${radius} />
    ${share > 0 && html`<circle class=${`ring-part ${tone}`} cx="52" cy="52" r=${radius} stroke-dasharray=${`${share * around} ${around}`} />`}
    <text x="52" y="59" text-anchor="middle">${all ? `${Math.round(100 * share)} %` : '–'}</text>
  </svg>`;
}

/** How full something is. @param {{part: number, all: number, label: string, tone?: string}} props */
export function Meter({ part, all, label, tone }) {
  const share = all ? Math.min(1, part / all) : 0;
  const mood = tone ?? (share > 0.9 ? 'bad' : share > 0.7 ? 'warn' : 'good');
  return html`<div class="meter" role="meter" aria-label=${label} aria-valuemin="0" aria-valuemax=${all} aria-valuenow=${part}><span class=${mood} style=${{ width: `${Math.max(share * 100, part ? 1.5 : 0)}%` }} /></div>`;
}

/** A line without axes, for the corner of a figure. @param {{values: number[], tone?: string}} props */
export function Spark({ values, tone = 'accent' }) {
  if (values.length < 2) return null;
  const most = Math.max(...values, 1);
  const points = values.map((value, nth) => `${((nth / (values.length - 1)) * 100).toFixed(1)} ${(28 - (value / most) * 25).toFixed(1)}`);
  return html`<svg class=${`spark series ${tone}`} viewBox="0 0 100 30" preserveAspectRatio="none" aria-hidden="true"><path class="area" d=${`M${points.join('L')}L100 30L0 30Z`} /><path class="line" d=${`M${points.join('L')}`} /></svg>`;
}
