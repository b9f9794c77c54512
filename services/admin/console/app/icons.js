// Small drawings, 20 by 20, in the colour of the text beside them.

import { html } from '../vendor/preact-htm.js';

/** @type {Record<string, string>} */
const PATHS = {
  overview: 'M3 16.5h14M5 13V9m5 4V4m5 9V7',
  clients: 'M10 10a3.2 3.2 0 1 0 0-6.4 3.2 3.2 0 0 0 0 6.4ZM3.8 16.8c.7-3.1 3.2-4.8 6.2-4.8s5.5 1.7 6.2 4.8',
  networks: 'M10 7.2V10m0 0-4.3 3m4.3-3 4.3 3M10 6.8a2.2 2.2 0 1 0 0-4.4 2.2 2.2 0 0 0 0 4.4ZM4.6 17.4a2.2 2.2 0 1 0 0-4.4 2.2 2.2 0 0 0 0 4.4Zm10.8 0a2.2 2.2 0 1 0 0-4.4 2.2 2.2 0 0 0 0 4.4Z',
  accounts: 'M3 5h14v10H3zM7.2 10.2a1.6 1.6 0 1 0 0-3.2 1.6 1.6 0 0 0 0 3.2ZM4.9 13.2c.3-1.2 1.2-1.9 2.3-1.900s2 .7 2.3 1.900M12 8h2.800M12 11h2.8',
  machines: 'M3 4.500h14v8.500H3zM7 16.500h6M10 13v3.5',
  people: 'M7.5 9.500a2.6 2.6 0 1 0 0-5.2 2.6 2.6 0 0 0 0 5.200ZM2.5 16c.5-2.6 2.5-4 5-4s4.5 1.4 5 4M13 9.300a2.3 2.3 0 1 0-.9-4.400M14.2 12.200c1.7.4 2.9 1.7 3.3 3.6',
  plan: 'M4 4h12v12H4zM4 8h12M8 8v8',
  settings: 'M4 6h7m4 0h1M4 14h1m4 0h7M13 8a2 2 0 1 0 0-4 2 2 0 0 0 0 4ZM7 16a2 2 0 1 0 0-4 2 2 0 0 0 0 4Z',
  show: 'M2.5 10S5 4.8 10 4.8 17.5 10 17.5 10 15 15.2 10 15.2 2.5 10 2.5 10Zm7.5 2.200a2.2 2.2 0 1 0 0-4.4 2.2 2.2 0 0 0 0 4.400Z',
  hide: 'M2.5 10S5 4.8 10 4.8 17.5 10 17.5 10 15 15.2 10 15.2 2.5 10 2.5 10ZM4 16 16 4',
  open: 'm5 8 5 5 5-5',
  sessions: 'M2.5 10h3l2.2-5.5 4 11 2.3-5.5h3.5',
  pairs: 'M6.5 7.5 4.3 9.7a3.1 3.1 0 0 0 4.4 4.4l2.2-2.2M13.5 12.5l2.2-2.2a3.1 3.1 0 0 0-4.4-4.4L9.1 8.1M7.8 12.2l4.4-4.4',
  relays: 'M3 5.5h14v4H3zM3 11.5h14v4H3zM6 7.5h.01M6 13.5h.01',
  plans: 'M4 4h12v12H4zM4 8h12M8 8v8',
  usage: 'M10 3a7 7 0 1 0 7 7h-7V3Zm3 .6A7 7 0 0 1 16.4 7H13V3.6Z',
  tokens: 'M12.5 11.5a4 4 0 1 0-3.8-2.8L3 14.5V17h2.5v-1.8h1.8v-1.7H9l1.3-1.3a4 4 0 0 0 2.2.3ZM13.5 6.5h.01',
  audit: 'M6 3h8v14H6zM8.5 6.5h3m-3 3h3m-3 3h2',
  blocks: 'M10 17a7 7 0 1 0 0-14 7 7 0 0 0 0 14ZM5.2 5.2l9.6 9.6',
  webhooks: 'M4 10h8m-3-3 3 3-3 3M15.5 4v12',
  search: 'M9 15A6 6 0 1 0 9 3a6 6 0 0 0 0 12Zm4.3-1.7L17 17',
  menu: 'M3 6h14M3 10h14M3 14h14',
  close: 'm5 5 10 10M15 5 5 15',
  copy: 'M7.5 7.5h8v8h-8zM12.5 7.5v-3h-8v8h3',
  check: 'm4.5 10.5 3.5 3.5 7.5-8',
  warn: 'M10 3.5 2.5 16.5h15L10 3.5Zm0 5v3.5m0 2.2v.01',
  info: 'M10 17a7 7 0 1 0 0-14 7 7 0 0 0 0 14Zm0-8v4.5m0-7v.01',
  out: 'M8 4H4v12h4M12.5 6.5 16 10l-3.5 3.5M16 10H8',
  sun: 'M10 13.2a3.2 3.2 0 1 0 0-6.4 3.2 3.2 0 0 0 0 6.4ZM10 2.5v1.5m0 12v1.5M2.5 10H4m12 0h1.5M4.7 4.7l1.1 1.1m8.4 8.4 1.1 1.1m0-10.6-1.1 1.1m-8.4 8.4-1.1 1.1',
  moon: 'M16.5 11.5A6.8 6.8 0 0 1 8.5 3.5a6.8 6.8 0 1 0 8 8Z',
  auto: 'M10 17a7 7 0 1 0 0-14 7 7 0 0 0 0 14Zm0-14v14',
  next: 'm8 5 5 5-5 5',
  previous: 'm12 5-5 5 5 5',
  lock: 'M5.5 9h9v7.5h-9zM7.5 9V6.5a2.5 2.5 0 0 1 5 0V9',
  retry: 'M16 10a6 6 0 1 1-2-4.5M16 3v3.5h-3.5',
  plus: 'M10 4.5v11M4.5 10h11',
  down: 'M10 3.5v9m-3.5-3.5 3.5 3.5 3.5-3.5M4 16.5h12',
};

/** @param {{name: string}} props */
export function Icon({ name }) {
  return html`<svg class="icon" viewBox="0 0 20 20" aria-hidden="true" focusable="false"><path d=${PATHS[name] ?? PATHS.info} /></svg>`;
}

export function Mark() {
  return html`<svg class="mark" viewBox="0 0 32 32" aria-hidden="true" focusable="false"><rect width="32" height="32" rx="9" /><path d="M9 22 16 9l7 13" /><circle cx="16" cy="9" r="3.5" /><circle cx="9" cy="22" r="3.5" /><circle cx="23" cy="22" r="3.5" /></svg>`;
}
