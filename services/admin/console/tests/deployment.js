// A whole service and its clients, on loopback addresses of their own, ended by their ids.

import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, openSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

export class Deployment {
  /** @param {string} bin the folder of the executables */
  constructor(bin) {
    this.bin = bin;
    /** @type {string[]} */
    this.options = [];
    this.dir = mkdtempSync(join(tmpdir(), 'buri-console.'));
    this.processes = [];
    /** Where a client stands among the processes. @type {Map<string, number>} */
    this.running = new Map();
    /** Mails that were read. */
    this.read = new Set();
    const [high, low] = [(process.pid >> 8) & 255, process.pid & 254];
    this.bind = [`127.70.${high}.${low}`, `127.70.${high}.${low + 1}`];
  }

  log(name) {
    return openSync(join(this.dir, `${name}.log`), 'a');
  }

  async start() {
    const args = ['all', '--json', '--data', join(this.dir, 'data'), '--bind', this.bind.join(','), ...this.options];
    this.server = spawn(join(this.bin, 'mediator'), args, { stdio: ['ignore', 'pipe', this.log('mediator')] });
    this.processes.push(this.server);
    const line = await new Promise((resolve, reject) => {
      createInterface({ input: this.server.stdout }).once('line', resolve);
      this.died = () => reject(new Error(readFileSync(join(this.dir, 'mediator.log'), 'utf8')));
      this.server.once('exit', this.died);
    });
    this.server.off('exit', this.died);
    this.ready = JSON.parse(line);
    this.token = readFileSync(this.ready.operator_token_file, 'utf8').trim();
  }

  /** A configuration to start with. @param {string} text */
  configure(text) {
    const path = join(this.dir, 'config.toml');
    writeFileSync(path, text);
    this.options.push('--config', path);
  }

  /** The newest mail to `address` whose subject begins so: its text. @param {string} address @param {string} subject */
  async mail(address, subject) {
    const folder = join(this.dir, 'data', 'mail');
    const found = () => (existsSync(folder) ? readdirSync(folder) : [])
      .filter((name) => name.endsWith('.eml') && !this.read.has(name))
      .map((name) => ({ name, text: readFileSync(join(folder, name), 'utf8') }))
      .find(({ text }) => text.includes(`To: ${address}`) && text.includes(`Subject: ${subject}`));
    const { name, text: raw } = await until(`a mail to ${address}: ${subject}`, found);
    this.read.add(name);
    // Lines that are too long for mail are broken, and told so by an equals sign (RFC 2045, section 6.7).
    const plain = (/** @type {string} */ text) => text.replace(/=\r?\n/g, '').replace(/=([0-9A-F]{2})/g, (_, hex) => String.fromCharCode(parseInt(hex, 16)));
    const text = /^Content-Transfer-Encoding: quoted-printable/im.test(raw) ? plain(raw) : raw;
    return { text, link: /^https?:\/\/\S+$/m.exec(text)?.[0] ?? '', token: /^Token: (\w+)/m.exec(text)?.[1] ?? '' };
  }

  /** A client that runs. @param {string} name @param {string[]} more */
  async client(name, more = []) {
    const args = ['--home', join(this.dir, name), 'daemon', '--server', this.ready.server, '--adapter', 'memory', ...more];
    this.running.set(name, this.processes.length);
    this.processes.push(spawn(join(this.bin, 'buri'), args, { stdio: ['ignore', 'ignore', this.log(name)] }));
    await until(`${name} is up`, () => this.buri(name, ['status'], { may_fail: true })?.control === 'connected');
    return this.buri(name, ['status']);
  }

  /** Ends a client. @param {string} name */
  async stop(name) {
    const child = this.processes[this.running.get(name)];
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGTERM');
    await ended;
  }

  buri(name, args, { input, may_fail } = {}) {
    const ran = spawnSync(join(this.bin, 'buri'), ['--home', join(this.dir, name), ...args, '--json'], { input, encoding: 'utf8' });
    if (ran.status !== 0) {
      if (may_fail) return null;
      throw new Error(`buri ${args.join(' ')}: ${ran.stdout}${ran.stderr}`);
    }
    const line = ran.stdout.trim().split('\n').at(-1);
    return line ? JSON.parse(line) : null;
  }

  async api(method, path, body, more = {}) {
    const headers = { authorization: `Bearer ${this.token}`, ...(body && { 'content-type': 'application/json' }), ...more };
    const response = await fetch(this.ready.admin + path, { method, headers, body: body && JSON.stringify(body) });
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`);
    return response.status === 204 ? null : response.json();
  }

  /** Somebody who signed up: what asks in their name. @param {string} email @param {string} password */
  async person(email, password) {
    let session = '';
    const ask = async (/** @type {string} */ method, /** @type {string} */ path, /** @type {any} */ body = undefined) => {
      const headers = { ...(session && { authorization: `Bearer ${session}` }), ...(body && { 'content-type': 'application/json' }) };
      const response = await fetch(`${this.ready.accounts}/v1/account${path}`, { method, headers, body: body && JSON.stringify(body) });
      if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`);
      return response.status === 204 ? null : response.json();
    };
    await ask('POST', '/sign-up', { email, password });
    const { token } = await this.mail(email, 'Confirm');
    session = (await ask('POST', '/verify', { token, password, session: 'bearer' })).session;
    return ask;
  }

  async end() {
    const running = this.processes.filter((child) => child.exitCode === null && child.signalCode === null);
    const ended = running.map((child) => new Promise((resolve) => child.once('exit', resolve)));
    for (const child of running) child.kill('SIGKILL');
    await Promise.all(ended);
    rmSync(this.dir, { recursive: true, force: true });
  }
}

/** Waits for something that happens by itself. */
export async function until(what, happened, within = 60_000) {
  const deadline = Date.now() + within;
  for (;;) {
    const found = await happened();
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`it did not happen: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
