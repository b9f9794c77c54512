// The page of webhooks, with a receiver that fails and then does not.

import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { launch, picture, violations, visit } from './browser.js';
import { Deployment, until } from './deployment.js';

const bin = process.env.BURI_TEST_BIN ?? join(process.env.CARGO_TARGET_DIR ?? '../../../../target', 'debug');
const deployment = new Deployment(bin);
/** @type {any[]} */
const got = [];
let status = 500;
const receiver = createServer((request, response) => {
  let body = '';
  request.on('data', (chunk) => { body += chunk; });
  request.on('end', () => {
    got.push(JSON.parse(body));
    response.writeHead(status).end();
  });
});
let browser;
let url;

before(async () => {
  // Receivers are here, and fail for shorter than usual.
  deployment.configure('[admin.webhooks]\nprivate = true\nfirst_pause = "100ms"\nlongest_pause = "100ms"\ntries = 3\n');
  await deployment.start();
  await new Promise((resolve) => receiver.listen(0, '127.0.0.1', () => resolve(undefined)));
  const address = receiver.address();
  url = `http://127.0.0.1:${typeof address === 'object' && address ? address.port : 0}/hook`;
  browser = await launch();
});

after(async () => {
  await browser?.close();
  receiver.closeAllConnections();
  receiver.close();
  await deployment.end();
});

async function signedIn(options, use) {
  const { context, page, wrong } = await visit(browser, options);
  await page.goto(`${deployment.ready.admin}/console/#token=${deployment.token}`);
  await page.waitForSelector('.frame h1');
  await page.goto(`${deployment.ready.admin}/console/#/webhooks`);
  await page.waitForSelector('.page .card');
  await use(page);
  assert.deepEqual(wrong, []);
  await context.close();
}

const text = (page, selector) => page.locator(selector).first().innerText();

test('a webhook is made, its secret is shown once, and a test says what the receiver does', async () => {
  await signedIn({}, async (page) => {
    await page.waitForSelector('.empty');
    await picture(page, 'webhooks-empty');
    await page.click('text=New webhook');
    await page.fill('dialog input[placeholder="ticket system"]', 'night watch');
    await page.fill('dialog input[type=url]', 'ftp://example.test/');
    await page.click('text=Make webhook');
    await page.waitForSelector('dialog .trouble');
    assert.match(await text(page, 'dialog .trouble'), /http or https/);
    await page.fill('dialog input[type=url]', url);
    await page.locator('dialog .choice:has-text("network.created")').click();
    await picture(page, 'webhooks-new');
    assert.deepEqual(await violations(page), []);
    await page.click('text=Make webhook');
    const secret = (await text(page, '.secret')).trim();
    assert.match(secret, /^whsec_[A-Za-z0-9+/]{43}=$/);
    await page.click('text=I have it');
    await page.click('tbody a:has-text("night watch")');
    await page.waitForSelector('.facts');
    assert.ok(!(await page.content()).includes(secret));
    await page.click('button:text-is("Test")');
    await page.waitForSelector('.verdict.bad');
    assert.match(await text(page, '.verdict'), /failed \(HTTP 500\)/);
    status = 204;
    await page.click('button:text-is("Test")');
    await page.waitForSelector('.verdict.good');
    await picture(page, 'webhook-tested');
    assert.deepEqual(got.map((event) => event.kind), ['webhook.test', 'webhook.test']);
  });
});

test('what was given up is shown with its reason and sent again', async () => {
  status = 503;
  await deployment.client('anna');
  deployment.buri('anna', ['create', 'friday', '--password-file', '-'], { input: 'correct horse battery\n' });
  const webhook = (await deployment.api('GET', '/v1/webhooks')).items[0].webhook;
  await until('it is given up', async () => (await deployment.api('GET', `/v1/webhooks/${webhook}`)).dead === 1);
  await signedIn({}, async (page) => {
    await page.click('tbody a:has-text("night watch")');
    await page.click('#tab-dead');
    await page.waitForSelector('tbody tr:has-text("network.created")');
    assert.match(await text(page, 'tbody tr'), /Given up[\s\S]*It failed \(HTTP 503\)[\s\S]*3/);
    assert.deepEqual(await violations(page), []);
    await picture(page, 'webhook-dead');
    status = 200;
    const before = got.length;
    await page.click('text=Send all again');
    await page.click('dialog button[type=submit]');
    await until('it came', () => got.length > before);
    await page.click('#tab-all');
    await page.waitForSelector('tbody .badge:has-text("Taken")');
    await page.click('[aria-label^="Send again: network.created"]');
    await until('it came once more', () => got.length > before + 1);
    assert.equal(got.at(-1).id, got.at(-2).id);
  });
});

test('it is paused, resumed, changed and given another secret; deleting asks for its name', async () => {
  await signedIn({}, async (page) => {
    await page.click('tbody a:has-text("night watch")');
    await page.click('button:text-is("Pause")');
    await page.click('dialog button[type=submit]');
    await page.waitForSelector('.facts .badge:has-text("Paused")');
    await page.click('button:text-is("Resume")');
    await page.click('dialog button[type=submit]');
    await page.waitForSelector('.facts .badge:has-text("Active")');
    await page.click('button:text-is("New secret")');
    await page.click('dialog button[type=submit]');
    assert.match((await text(page, '.secret')).trim(), /^whsec_/);
    await page.click('text=I have it');
    await page.waitForSelector('.facts :text("Older secret counts")');
    // What another operator changes while the form is open is not overwritten.
    await page.click('button:text-is("Change")');
    const { webhook } = (await deployment.api('GET', '/v1/webhooks')).items[0];
    await deployment.api('PATCH', `/v1/webhooks/${webhook}`, { kinds: ['member.left'] }, { 'if-match': '*' });
    await page.waitForFunction(() => document.querySelector('.facts')?.textContent?.includes('member.left'));
    await page.fill('dialog input[placeholder="ticket system"]', 'day watch');
    await page.click('text=Save');
    await page.waitForSelector('dialog .trouble');
    assert.deepEqual((await deployment.api('GET', '/v1/webhooks')).items[0].kinds, ['member.left']);
    await page.click('dialog button:text-is("Cancel")');
    await page.click('button:text-is("Change")');
    await page.fill('dialog input[placeholder="ticket system"]', 'day watch');
    await page.click('text=Save');
    await page.waitForFunction(() => document.getElementById('title')?.textContent === 'day watch');
    await page.click('text=Delete …');
    await page.fill('dialog input', 'night watch');
    assert.equal(await page.locator('dialog button[type=submit]').isDisabled(), true);
    await page.fill('dialog input', 'day watch');
    await page.keyboard.press('Enter');
    await page.waitForSelector('.empty');
    assert.deepEqual((await deployment.api('GET', '/v1/webhooks')).items, []);
  });
});

for (const [mode, options] of [
  ['dark', { colorScheme: 'dark' }],
  ['phone', { viewport: { width: 320, height: 640 }, colorScheme: 'light', hasTouch: true }],
]) {
  test(`both pages are readable and fit: ${mode}`, async () => {
    const made = await deployment.api('POST', '/v1/webhooks', { name: 'a receiver with a long name', url: 'https://receiver.example.test/a/long/path/that/does/not/break?and=a&long=query', kinds: ['member.*', 'pair.*'] });
    await signedIn(options, async (page) => {
      await page.waitForSelector('tbody tr');
      for (const [name, hash] of [['webhooks', '#/webhooks'], ['webhook', `#/webhooks/${made.webhook}`]]) {
        await page.goto(`${deployment.ready.admin}/console/${hash}`);
        await page.waitForSelector(name === 'webhook' ? '.facts' : 'tbody tr');
        await page.waitForFunction(() => !document.querySelector('.waiting'));
        const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        assert.ok(over <= 0, `${name} is ${over} px too wide`);
        assert.deepEqual(await violations(page), [], name);
        await picture(page, `${name}-${mode}`);
      }
    });
  });
}
