// What the service's short words mean, in sentences.

/** How hard a client's NAT is. @type {Record<string, {name: string, text: string, ease: number}>} */
export const CLASSES = {
  'easy-open': { name: 'Open', text: 'keeps one outer port for everybody, and lets strangers in', ease: 4 },
  easy: { name: 'Easy', text: 'keeps one outer port for everybody, but lets in only whom the client wrote to: the usual home router', ease: 3 },
  sequential: { name: 'Sequential', text: 'takes a new outer port for every destination, the next one in a row', ease: 2 },
  random: { name: 'Random', text: 'takes a new outer port for every destination, and nobody knows which', ease: 1 },
  blocked: { name: 'No UDP', text: 'lets no UDP out at all', ease: 0 },
};

/** How a direct path is looked for. @type {Record<string, {name: string, text: string}>} */
export const STRATEGIES = {
  direct: { name: 'Direct', text: 'both sides send to the address that the other one is seen from' },
  reveal: { name: 'Reveal', text: 'the easy side opens its filter, the hard side’s first packet shows its port' },
  predict: { name: 'Predict', text: 'the easy side sends to the ports that the other router will use next' },
  sweep: { name: 'Sweep', text: 'both routers count upwards: both sides send from many sockets to a port that the other one passes over' },
  birthday: { name: 'Birthday', text: 'many sockets on one side, many random ports from the other: some of them meet' },
  tcp: { name: 'TCP', text: 'both connect over TCP at the same moment, because one side has no UDP' },
  relay: { name: 'Relay only', text: 'no direct path can exist between these two' },
};

/** What a direct path runs over. @type {Record<string, string>} */
export const VIAS = {
  ipv4: 'over IPv4, through both routers',
  ipv6: 'over IPv6',
  lan: 'inside the local network that both are in',
  'port-mapping': 'through a port that one router was asked to keep open',
  hairpin: 'through the router that both are behind',
  tcp: 'over TCP',
};

/** @type {Record<string, {tone: string, name: string}>} */
export const OUTCOMES = {
  direct: { tone: 'good', name: 'Direct' },
  relayed: { tone: 'warn', name: 'Relayed' },
  pending: { tone: 'info', name: 'Not measured yet' },
  none: { tone: 'calm', name: 'Never connected' },
};

/** Which members of a network meet. @type {Record<string, {name: string, text: string}>} */
export const KINDS = {
  mesh: { name: 'Mesh', text: 'all members meet' },
  hub: { name: 'Hub and spoke', text: 'hubs meet everybody, the others meet hubs only' },
  gateway: { name: 'Gateway', text: 'members reach the network behind those that route it' },
};

/** Why a relay was chosen. @type {Record<string, string>} */
export const CHOSEN = {
  nearest: 'it has the smallest sum of both round trips',
  stays: 'the pair was there already, and no other relay is nearer by enough to be worth a move',
  unmeasured: 'neither side has measured relays yet, so pairs are spread evenly',
  'no-room': 'every relay is full or being drained',
  'none-lives': 'no relay gives a sign of life',
};

/** @type {Record<string, {tone: string, name: string}>} */
export const VERDICTS = {
  chosen: { tone: 'good', name: 'Chosen' },
  farther: { tone: 'calm', name: 'Farther away' },
  full: { tone: 'warn', name: 'Full' },
  draining: { tone: 'info', name: 'Draining' },
  unanswered: { tone: 'bad', name: 'Did not answer' },
  silent: { tone: 'bad', name: 'Silent' },
};

/** What to do about a problem, by its code. @type {Record<string, string>} */
const REMEDIES = {
  offline: 'Check that the admin role runs and that your tunnel or proxy to it is up. The console tries again by itself.',
  unauthorized: 'Sign in with a token that is still valid.',
  forbidden: 'Sign in with a token that has this scope, or ask whoever makes tokens for one.',
  'scope-not-covered': 'Leave out the scopes that your own token lacks.',
  'changed-meanwhile': 'Somebody else changed it first. Look at what it is now, and decide again.',
  'not-found': 'It may have been deleted. Search for it, or go back to the list.',
  'is-owner': 'Give the network another owner first.',
  'name-taken': 'Choose another name: one that does not look like an existing one.',
  'rate-limited': 'Wait a moment: this token has used its requests of this minute.',
  unavailable: 'A role behind the API does not answer. See what is not ready on the overview, or run mediator doctor.',
  internal: 'Search the logs for the incident that is named above.',
  'plan-in-use': 'Give those who have it another plan first. New clients get the default plan, which must stay.',
  'plan-exists': 'Choose another name, or change the plan of this name.',
  'block-exists': 'Change the block that is there, or lift it first.',
  'count-incomplete': 'Wait until every gateway answers, or confirm the number that is known.',
  'too-many-sessions': 'Confirm the number of clients that it touches, or choose a narrower subject.',
  'limit-reached': 'Remove what is not needed any more, then try again.',
};

/** @param {import('./http.js').Problem} problem */
export function remedy(problem) {
  return REMEDIES[problem.code] ?? (problem.status === 403 ? REMEDIES.forbidden : problem.status >= 500 ? REMEDIES.unavailable : problem.status === 429 ? REMEDIES['rate-limited'] : 'Correct what the message names, then try again.');
}

/** One paragraph: why the pair is connected as it is.
 * @param {any} record @param {string} a @param {string} b */
export function story(record, a, b) {
  const [x, y] = [CLASSES[record.class_a], CLASSES[record.class_b]];
  if (record.outcome === 'direct') {
    const way = VIAS[record.via] ?? 'over the internet';
    return `${a} and ${b} talk directly, ${way}. No relay sees their traffic, not even encrypted.`;
  }
  if (record.outcome === 'pending' || !x || !y) {
    return `${a} and ${b} reach one another through a relay for now: at least one of them has not told yet what its router is like. A direct path is tried as soon as both have.`;
  }
  if (record.strategy === 'relay') {
    const blocked = [x.ease === 0 ? a : '', y.ease === 0 ? b : ''].filter(Boolean).join(' and ');
    return blocked
      ? `${blocked} ${blocked.includes(' and ') ? 'have' : 'has'} no UDP, so no direct path can exist: the relay carries this pair, over TLS where it must. It cannot read what it carries.`
      : `No direct path can exist between these two routers. The relay carries this pair, and cannot read what it carries.`;
  }
  return `A direct path was tried ${record.attempts === 1 ? 'once' : `${record.attempts} times`} and did not open, so the relay carries this pair. It cannot read what it carries, and the attempt is repeated when either side’s connection changes.`;
}
