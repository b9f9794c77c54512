// Talks to the API for people. The session is a cookie that no script sees; which account is meant is remembered for this tab.

import { Problem, exchange, tell } from '../app/http.js';

const ACCOUNT = 'buri.account';

/** The account that requests are about; `null`: the person's first. */
export const chosen = () => sessionStorage.getItem(ACCOUNT);

/** @param {string | null} account */
export function choose(account) {
  if (account) sessionStorage.setItem(ACCOUNT, account);
  else sessionStorage.removeItem(ACCOUNT);
}

/**
 * @param {string} method @param {string} path
 * @param {{query?: Record<string, any>, body?: any, signal?: AbortSignal, ofPerson?: boolean}} [options] `ofPerson`: no account is meant
 */
export async function send(method, path, { query, body, signal, ofPerson } = {}) {
  /** @type {Record<string, string>} */
  const headers = method === 'GET' ? {} : { 'x-buri-request': '1' };
  const asked = ofPerson ? query : { account: chosen(), ...query };
  try {
    return (await exchange(method, path, { query: asked, headers, body, signal, unanswered: 'The service cannot be reached. Check your connection; this page tries again by itself.' })).data;
  } catch (error) {
    if (error instanceof Problem) {
      error.remedy = REMEDIES[error.code] ?? '';
      if (error.code === 'not-logged-in' && path !== '/v1/account/me') tell('refused');
    }
    throw error;
  }
}

/** @param {string} path @param {{query?: Record<string, any>, signal?: AbortSignal, ofPerson?: boolean}} [options] */
export const get = (path, options) => send('GET', path, options);

/** What to do about a problem, by its code. @type {Record<string, string>} */
const REMEDIES = {
  'not-logged-in': 'Sign in again.',
  'token-invalid': 'Ask for a new mail, and use the newest one.',
  'password-invalid': 'Choose another password.',
  'not-permitted': 'Ask an owner or admin of the account.',
  'account-suspended': 'Ask whoever runs this service.',
  'not-owned': 'Attach the machine that owns the network first.',
  'connect-first': 'Sign in with your password, then connect the provider under Settings.',
  'provider-taken': 'Sign out at the provider and choose another identity there.',
  'not-vouched-for': 'Verify your e-mail address at the provider, or sign up with a password here.',
  unavailable: 'Try again in a moment.',
  internal: 'Try again in a moment. If it stays, tell whoever runs this service the number above.',
};

/** What is said in a form about what went wrong. @param {any} problem */
export function inWords(problem) {
  const wait = problem.retryAfter ? ` Try again in ${problem.retryAfter < 90 ? `${problem.retryAfter} seconds` : `${Math.ceil(problem.retryAfter / 60)} minutes`}.` : '';
  return `${WORDS[problem.code] ?? sentence(problem.detail || problem.message)}${wait}`;
}

/** @type {Record<string, string>} */
const WORDS = {
  denied: 'The e-mail address or the password is not right.',
  'token-invalid': 'This link is used up or too old. Ask for a new mail, and use the newest one.',
  'rate-limited': 'Too many tries.',
  busy: 'There is much to do at the moment.',
  'connect-first': 'There is an account with this address already. Sign in with its password, then connect the provider under Settings.',
  'provider-taken': 'This identity at the provider belongs to another person here.',
  'not-vouched-for': 'The provider did not sign you in, or your e-mail address is not verified there.',
  'invalid-body': 'Something is not as expected: is the e-mail address right?',
  'limit-reached': 'There are as many as there may be.',
};

/** @param {string} text */
export const sentence = (text) => (text ? `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? '' : '.'}` : '');
