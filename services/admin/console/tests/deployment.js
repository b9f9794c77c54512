// A whole service and its clients, on loopback addresses of their own, ended by their ids.

import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

export class Deployment {
  /** @param {string} bin the folder of the executables */
  constructor(bin) {
    this.bin = bin;
    this.dir = mkdtempSync(join(tmpdir(), 'buri-console.'));
    this.processes = [];
    const [high, low] = [(process.pid >> 8) & 255, process.pid & 254];
    this.bind = [`127.70.${high}.${low}`, `127.70.${high}.${low + 1}`];
  }

  log(name) {
    return openSync(join(this.dir, `${name}.log`), 'a');
  }

  async start() {
    const args = ['all', '--json', '--data', join(this.dir, 'data'), '--bind', this.bind.join(',')];
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

  /** A client that runs. */
  async client(name) {
    const args = ['--home', join(this.dir, name), 'daemon', '--server', this.ready.server, '--adapter', 'memory'];
    this.processes.push(spawn(join(this.bin, 'buri'), args, { stdio: ['ignore', 'ignore', this.log(name)] }));
    await until(`${name} is up`, () => this.buri(name, ['status'], { may_fail: true })?.control === 'connected');
    return this.buri(name, ['status']);
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

  async api(method, path, body) {
    const headers = { authorization: `Bearer ${this.token}`, ...(body && { 'content-type': 'application/json' }) };
    const response = await fetch(this.ready.admin + path, { method, headers, body: body && JSON.stringify(body) });
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`);
    return response.status === 204 ? null : response.json();
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
