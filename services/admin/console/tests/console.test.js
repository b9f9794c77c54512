// The console as an operator uses it: real clicks in a real browser, against a running service with real clients.

import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { launch, picture, violations, visit } from './browser.js';
import { Deployment, until } from './deployment.js';

const bin = process.env.BURI_TEST_BIN ?? join(process.env.CARGO_TARGET_DIR ?? '../../../../target', 'debug');
const deployment = new Deployment(bin);
const names = ['anna', 'bert', 'cleo'];
const password = { input: 'correct horse battery\n' };
/** @type {Record<string, string>} */
const ids = {};
let browser;
let network;
let account;
/** @type {string[]} */
let resources;

before(async () => {
  // Every page in every light, within seconds: more than the limit lets a person do.
  deployment.configure('[admin]\nrequests_per_minute = 6000\n');
  await deployment.start();
  for (const name of names) {
    ids[name] = (await deployment.client(name)).id;
    deployment.buri(name, ['nick', name]);
  }
  deployment.buri('anna', ['create', 'friday', '--password-file', '-'], password);
  for (const name of ['bert', 'cleo']) deployment.buri(name, ['join', 'friday', '--password-file', '-'], password);
  await until('anna and bert have a path', () => deployment.api('GET', `/v1/pairs/${ids.anna}/${ids.bert}`).then((record) => record.outcome === 'direct', () => false));
  network = (await deployment.api('GET', '/v1/networks')).items[0].network;
  const [olga, paul] = [await deployment.person('olga@example.test', 'correct horse battery'), await deployment.person('paul@example.test', 'correct horse battery')];
  account = (await olga('GET', '')).account;
  for (const name of ['anna', 'bert']) deployment.buri(name, ['account', 'attach', (await olga('POST', '/clients/codes')).code]);
  await olga('PUT', `/networks/${network}`);
  await olga('POST', '/invitations', { email: 'paul@example.test', role: 'member' });
  await paul('POST', '/invitations/accept', { token: (await deployment.mail('paul@example.test', 'You are invited')).token });
  await olga('POST', '/invitations', { email: 'rita@example.test', role: 'admin' });
  resources = (await deployment.api('GET', '/')).resources;
  browser = await launch();
});

after(async () => {
  await browser?.close();
  await deployment.end();
});

/** A page that is signed in, and must end without errors, warnings and breaches of the policy. */
async function signedIn(options, use) {
  const { context, page, wrong } = await visit(browser, options);
  await page.goto(`${deployment.ready.admin}/console/#token=${deployment.token}`);
  await page.waitForSelector('.frame h1');
  await use(page);
  assert.deepEqual(wrong, []);
  await context.close();
}

const open = async (page, hash, wanted) => {
  await page.goto(`${deployment.ready.admin}/console/${hash}`);
  await page.waitForSelector(wanted);
};

const text = (page, selector) => page.locator(selector).first().innerText();

test('a wrong token is refused in words, and the right one lets in', async () => {
  const { context, page, wrong } = await visit(browser);
  await page.goto(`${deployment.ready.admin}/console/`);
  await page.fill('input[type=password]', 'x'.repeat(64));
  await page.keyboard.press('Enter');
  await page.waitForSelector('[role=alert]');
  assert.match(await text(page, '[role=alert]'), /not valid.*unauthorized/s);
  assert.deepEqual(await violations(page), []);
  await picture(page, 'sign-in-refused');
  await page.fill('input[type=password]', deployment.token);
  await page.click('text=Sign in');
  await page.waitForSelector('.tiles');
  assert.equal(await page.evaluate(() => Object.keys(sessionStorage).join()), 'buri.token');
  assert.ok(!(await page.evaluate(() => JSON.stringify(localStorage))).includes(deployment.token));
  await page.click('[aria-label="Sign out"]');
  await page.waitForSelector('input[type=password]');
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  assert.deepEqual(wrong, []);
  await context.close();
});

test('a token in the address is taken out of it at once', async () => {
  await signedIn({}, async (page) => {
    assert.ok(!page.url().includes('token'), page.url());
    assert.ok(!(await page.evaluate(() => JSON.stringify(history.state) + document.referrer)).includes(deployment.token));
  });
});

test('a token that is not valid any more leads back to the sign-in', async () => {
  await signedIn({}, async (page) => {
    await page.evaluate(() => sessionStorage.setItem('buri.token', 'y'.repeat(64)));
    await page.waitForSelector('.door', { timeout: 15_000 });
    assert.match(await text(page, '.door'), /not valid any more/);
  });
});

test('the overview shows what is really there', async () => {
  await signedIn({}, async (page) => {
    await until('three are online', async () => /Online now\s+3\s/.test(await text(page, '.tiles')));
    assert.match(await text(page, '.tiles'), /Direct rate\s+100 %/);
    assert.match(await text(page, '.page'), /Nothing needs a look/);
    assert.ok((await page.locator('.chart svg .line, .chart svg .point').count()) >= 3);
  });
});

test('the pair page says why, step by step', async () => {
  await signedIn({}, async (page) => {
    await open(page, `#/pairs/${ids.anna}/${ids.bert}`, '.steps');
    assert.match(await text(page, '.story'), /talk directly/);
    const steps = await page.locator('.steps b').allInnerTexts();
    assert.ok(steps.includes('The routers were looked at') && steps.includes('Direct'), steps.join());
    await open(page, `#/pairs/${ids.anna}/${'0'.repeat(32)}`, '.empty');
    assert.match(await text(page, '.empty'), /never negotiated/);
  });
});

test('a relay is drained by typing its name, and resumed', async () => {
  await signedIn({}, async (page) => {
    await open(page, '#/relays', '.relay');
    const name = (await text(page, '.relay h2')).trim();
    await page.click('text=Drain …');
    assert.equal(await page.locator('dialog button[type=submit]').isDisabled(), true);
    await page.keyboard.type(`${name.slice(1)}`);
    assert.equal(await page.locator('dialog button[type=submit]').isDisabled(), true);
    await page.fill('dialog input', name);
    await picture(page, 'relays-drain');
    await page.keyboard.press('Enter');
    await page.waitForSelector('text=/^(Draining|Drained)$/');
    await until('the relay says so', async () => (await deployment.api('GET', '/v1/relays')).items[0].draining);
    await open(page, '#/overview', '.alerts');
    await page.waitForSelector('text=/is being drained/');
    await picture(page, 'overview-alerts');
    await open(page, '#/relays', '.relay');
    await page.click('text=Resume');
    await page.click('dialog button[type=submit]');
    await page.waitForSelector('text=Taking pairs');
    await until('the relay takes pairs', async () => !(await deployment.api('GET', '/v1/relays')).items[0].draining);
  });
});

test('everything is reached by keyboard alone', async () => {
  await signedIn({}, async (page) => {
    await page.keyboard.press('Tab');
    assert.equal(await page.evaluate(() => document.activeElement?.textContent), 'Skip to the page');
    await page.keyboard.press('Enter');
    assert.equal(await page.evaluate(() => document.activeElement?.id), 'main');
    await page.keyboard.press('/');
    assert.equal(await page.evaluate(() => document.activeElement?.id), 'search');
    await page.keyboard.type(`${ids.anna} ${ids.bert}`);
    await page.waitForSelector('[role=option]');
    await page.keyboard.press('Enter');
    await page.waitForSelector('.steps');
    assert.equal(await page.evaluate(() => document.activeElement?.id), 'title');
    await open(page, '#/sessions', 'tbody tr:nth-child(2)');
    await page.locator('tbody tr:nth-child(1) a').first().focus();
    await page.keyboard.press('ArrowDown');
    assert.ok(await page.evaluate(() => document.activeElement?.closest('tr')?.matches(':nth-child(2)')));
    await open(page, '#/relays', '.relay');
    await page.locator('text=Drain …').focus();
    await page.keyboard.press('Enter');
    await page.waitForSelector('dialog[open]');
    for (let nth = 0; nth < 6; nth += 1) {
      await page.keyboard.press('Tab');
      assert.ok(await page.evaluate(() => document.activeElement === document.body || document.activeElement?.closest('dialog') !== null));
    }
    await page.keyboard.press('Escape');
    await page.waitForSelector('dialog', { state: 'detached' });
    assert.match(await page.evaluate(() => document.activeElement?.textContent ?? ''), /Drain/);
    await page.keyboard.press('Shift+Tab');
    assert.ok(await page.evaluate(() => getComputedStyle(/** @type {Element} */ (document.activeElement)).outlineStyle !== 'none'));
  });
});

/** Every page there is. */
function pages() {
  const all = { overview: '/v1/overview', networks: '/v1/networks', clients: '/v1/clients', accounts: '/v1/accounts', sessions: '/v1/sessions', pairs: '/v1/pairs/{a}/{b}', relays: '/v1/relays', plans: '/v1/plans', usage: '/v1/usage', blocks: '/v1/blocks', tokens: '/v1/tokens', webhooks: '/v1/webhooks', audit: '/v1/audit' };
  const there = Object.entries(all).filter(([, path]) => resources.includes(path)).map(([page]) => [page, `#/${page}`]);
  there.push(['pair', `#/pairs/${ids.anna}/${ids.bert}`]);
  if (resources.includes('/v1/clients/{client}')) there.push(['client', `#/clients/${ids.anna}`]);
  if (resources.includes('/v1/accounts/{account}')) there.push(['account', `#/accounts/${account}`]);
  if (resources.includes('/v1/networks/{network}')) there.push(['network', `#/networks/${network}`]);
  return there;
}

for (const [mode, options] of [
  ['light', { colorScheme: 'light' }],
  ['dark', { colorScheme: 'dark' }],
  ['phone', { viewport: { width: 320, height: 640 }, colorScheme: 'light', hasTouch: true }],
]) {
  test(`every page is readable and fits: ${mode}`, async () => {
    await signedIn(options, async (page) => {
      for (const [name, hash] of pages()) {
        await open(page, hash, '.page h1');
        await page.waitForFunction(() => !document.querySelector('.waiting'));
        assert.equal(await page.locator('.trouble').count(), 0, `${name} shows a problem`);
        const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        assert.ok(over <= 0, `${name} is ${over} px too wide`);
        assert.deepEqual(await violations(page), [], name);
        await picture(page, `${name}-${mode}`);
      }
      if (mode === 'phone') {
        await page.click('.menu-button');
        await picture(page, 'menu-phone');
        await page.click('.nav a:has-text("Relays")');
        await page.waitForSelector('.relay');
        assert.equal(await page.locator('.nav').isVisible(), false);
      }
      const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
      const first = await ground();
      for (const wanted of ['light', 'dark']) {
        await page.click('#theme');
        await page.waitForFunction((wanted) => document.documentElement.dataset.theme === wanted, wanted);
        assert.equal((await ground()) === first, wanted === (mode === 'dark' ? 'dark' : 'light'));
      }
    });
  });
}

test('a page without an answer says so, keeps what it had, and goes on by itself', async () => {
  const { context, page } = await visit(browser);
  await page.goto(`${deployment.ready.admin}/console/#token=${deployment.token}`);
  await page.waitForSelector('.tiles');
  await context.setOffline(true);
  await page.waitForSelector('.banner', { timeout: 15_000 });
  assert.ok(await page.locator('.tiles').isVisible());
  await picture(page, 'offline');
  await context.setOffline(false);
  await page.waitForSelector('.banner', { state: 'detached', timeout: 15_000 });
  await context.close();
});

test('what is not there is told with its code and its remedy', async () => {
  await signedIn({}, async (page) => {
    await open(page, '#/pairs/nonsense/other', '.trouble');
    assert.match(await text(page, '.trouble'), /invalid-parameter/);
    await picture(page, 'problem');
    await open(page, '#/nothing', '.empty');
    assert.match(await text(page, '.empty'), /nothing at this address/);
  });
});

test('anything is found: a client by name, address and id, a network, a pair', async () => {
  await signedIn({}, async (page) => {
    const address = deployment.buri('bert', ['status']).address4;
    for (const [typed, wanted, title] of [
      ['ber', 'bert', 'bert'],
      [address, 'bert', 'bert'],
      [ids.bert.slice(0, 10), 'bert', 'bert'],
      ['FRI', 'friday', 'friday'],
      ['paul@example.test', 'olga@example.test', 'paul@example.test'],
    ]) {
      await page.keyboard.press('/');
      await page.keyboard.type(typed);
      await page.locator('[role=option]', { hasText: wanted }).first().waitFor();
      if (typed === 'ber') await picture(page, 'search');
      await page.keyboard.press('ArrowDown');
      await page.keyboard.press('ArrowUp');
      await page.keyboard.press('Enter');
      await page.waitForFunction((wanted) => document.getElementById('title')?.textContent === wanted, title);
    }
    // Enter waits for what is found.
    await page.keyboard.press('/');
    await page.keyboard.type('bert');
    await page.keyboard.press('Enter');
    await page.waitForFunction(() => document.getElementById('title')?.textContent === 'bert');
    await page.keyboard.press('/');
    await page.keyboard.type('nobody at all');
    await page.locator('.hits-note', { hasText: 'Nothing begins with' }).waitFor();
    await page.keyboard.press('Escape');
  });
});

test('a network shows how each member is connected, and leads to why', async () => {
  await signedIn({}, async (page) => {
    await open(page, `#/networks/${network}`, '.tabs');
    await page.click('#tab-connections');
    await page.waitForSelector('.buddies a');
    await page.selectOption('select', ids.anna);
    await page.waitForSelector('.buddies a:has-text("bert")');
    assert.match(await text(page, '.buddies a:has-text("bert")'), /Direct/);
    await picture(page, 'network-connections');
    assert.deepEqual(await violations(page), []);
    await page.click('.buddies a:has-text("bert")');
    await page.waitForSelector('.steps');
    // Nicknames come with answers of their own.
    await page.locator('h1', { hasText: 'anna' }).waitFor();
  });
});

test('a token is shown once, works, and is revoked by typing its name', async () => {
  await signedIn({}, async (page) => {
    await open(page, '#/tokens', '.page .card');
    await page.click('text=New token');
    await page.fill('dialog input:not([type])', 'night report');
    await picture(page, 'tokens-new');
    assert.deepEqual(await violations(page), []);
    await page.click('text=Make token');
    const secret = (await text(page, '.secret')).trim();
    await page.click('text=I have it');
    await page.waitForSelector('tbody tr:has-text("night report")');
    assert.ok(!(await page.content()).includes(secret));
    const asked = () => fetch(`${deployment.ready.admin}/v1/relays`, { headers: { authorization: `Bearer ${secret}` } });
    assert.equal((await asked()).status, 200);
    await page.click('[aria-label="Revoke night report"]');
    await page.fill('dialog input', 'night report');
    await page.keyboard.press('Enter');
    await page.waitForSelector('tbody .badge:has-text("Revoked")');
    assert.equal((await asked()).status, 401);
  });
});

test('a block is made after its dry run is seen, changed, and lifted', async () => {
  await signedIn({}, async (page) => {
    await open(page, '#/blocks', '.page .empty');
    assert.match(await text(page, '.empty'), /Nothing is held against anybody/);
    await picture(page, 'blocks-empty');
    await page.click('text=New block');
    assert.equal(await page.evaluate(() => document.activeElement?.id), 'block-target');
    await page.keyboard.type('127.0.0.0/8');
    await page.waitForSelector('.touches .bad-text');
    assert.match(await text(page, '.touches'), /would hit everybody/);
    await page.fill('#block-target', '127.0.0.0/16');
    await page.fill('#block-reason', 'scripted sign-ups');
    await page.waitForSelector('.touches .facts');
    assert.match(await text(page, '.touches'), /Online from there\s+3 of 3/);
    assert.equal(await page.locator('dialog button.primary').isDisabled(), true);
    assert.deepEqual(await violations(page), []);
    await picture(page, 'blocks-new');
    await page.click('#block-sure');
    await page.keyboard.press('Tab');
    await page.locator('dialog button.primary').click();
    await page.waitForSelector('tbody tr:has-text("127.0.0.0/16")');
    assert.match(await text(page, 'tbody tr'), /Challenge.*scripted sign-ups/s);
    await picture(page, 'blocks');
    assert.equal((await deployment.api('GET', '/v1/sessions')).items.length, 3);

    await page.click('[aria-label="Change the block of 127.0.0.0/16"]');
    await page.locator('dialog label.choice:has-text("Slow")').click();
    await page.selectOption('dialog select', '3600');
    await page.waitForSelector('.touches .facts');
    await page.click('#block-sure');
    await page.locator('dialog button.primary').click();
    await page.waitForSelector('tbody .badge:has-text("Slow")');

    await page.click('[aria-label="Lift the block of 127.0.0.0/16"]');
    await page.waitForSelector('dialog[open]');
    await page.keyboard.press('Escape');
    await page.waitForSelector('dialog', { state: 'detached' });
    await page.click('[aria-label="Lift the block of 127.0.0.0/16"]');
    await page.click('dialog button[type=submit]');
    await page.waitForSelector('.page .empty');
    assert.equal((await deployment.api('GET', '/v1/blocks')).items.length, 0);
  });
  await signedIn({ viewport: { width: 320, height: 640 }, colorScheme: 'dark', hasTouch: true }, async (page) => {
    await open(page, '#/blocks', '.page .empty');
    await page.click('text=New block');
    await page.selectOption('dialog select >> nth=0', 'client');
    await page.fill('#block-target', ids.bert);
    await page.fill('#block-reason', 'a test');
    await page.locator('dialog label.choice:has-text("Refuse")').click();
    await page.waitForSelector('.touches .facts');
    assert.match(await text(page, '.touches'), /Clients\s+1\s+Online\s+1 of 3\s+Sessions that end\s+1/);
    const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(over <= 0, `${over} px too wide`);
    await picture(page, 'blocks-new-phone-dark');
    assert.deepEqual(await violations(page), []);
  });
});

test('a plan is made, given to a client, and refused to be deleted while somebody has it', async () => {
  await signedIn({}, async (page) => {
    await open(page, '#/plans', 'tbody tr');
    await page.click('text=New plan');
    await page.fill('dialog input >> nth=0', 'club');
    await picture(page, 'plans-new');
    await page.click('text=Make plan');
    await page.waitForSelector('tbody tr:has-text("club")');
    await open(page, `#/clients/${ids.bert}`, '.who');
    await page.click('text=Change plan');
    await page.locator('dialog label:has-text("club")').click();
    await page.locator('dialog button.primary').click();
    await page.waitForSelector('.facts :text("club")');
    await open(page, '#/plans', 'tbody tr');
    await page.click('[aria-label="Delete club"]');
    await page.fill('dialog input', 'club');
    await page.keyboard.press('Enter');
    await page.waitForSelector('dialog .trouble');
    assert.match(await text(page, 'dialog .trouble'), /409/);
    await picture(page, 'plans-refused');
    await page.keyboard.press('Escape');
  });
});

test('an account is found, put on another plan, suspended, handed over, and erased by typing names', async () => {
  await signedIn({}, async (page) => {
    await open(page, '#/accounts', 'tbody tr:nth-child(2)');
    await page.fill('.filter input', 'paul@example');
    await page.waitForSelector('text=found by a whole e-mail address');
    await page.fill('.filter input', 'nobody@example.test');
    await page.waitForSelector('text=No account is found so');
    await page.fill('.filter input', account.slice(0, 9));
    await page.waitForFunction(() => document.querySelectorAll('tbody tr').length === 1);
    await picture(page, 'accounts-search');
    await page.click('tbody a:has-text("olga@example.test")');
    await page.waitForSelector('.tabs');
    await page.click('text=Change plan');
    await page.locator('dialog label:has-text("premium")').click();
    await picture(page, 'account-plan');
    assert.deepEqual(await violations(page), []);
    await page.click('dialog button.primary');
    await page.waitForSelector('h2:has-text("Plan premium")');
    await page.click('text=Suspend …');
    assert.equal(await page.locator('dialog button[type=submit]').isDisabled(), true);
    await page.fill('dialog input', 'olga@example.test');
    await page.keyboard.press('Enter');
    await page.waitForSelector('.badge:has-text("Suspended")');
    await picture(page, 'account-suspended-operator');
    await page.click('.actions >> text=Resume');
    await page.click('dialog button[type=submit]');
    await page.waitForSelector('.badge:has-text("Suspended")', { state: 'detached' });
    await page.click('#tab-clients');
    await page.click('[aria-label="Detach bert"]');
    await page.fill('dialog input', 'bert');
    await page.keyboard.press('Enter');
    await page.waitForSelector('tbody tr:has-text("bert")', { state: 'detached' });
    assert.equal(deployment.buri('bert', ['account', 'status']).attached, false);
    await open(page, `#/clients/${ids.anna}`, '.facts');
    await page.click(`.facts a[href$="${account}"]`);
    await page.waitForSelector('h1:has-text("olga@example.test")');
    await open(page, `#/networks/${network}`, '.facts');
    assert.equal(await page.locator(`.facts a[href$="${account}"]`).count(), 1);
    await open(page, `#/accounts/${account}`, '.tabs');
    await page.click('[aria-label="Make owner: paul@example.test"]');
    await page.fill('dialog input', 'paul@example.test');
    await page.keyboard.press('Enter');
    await page.waitForSelector('h1:has-text("paul@example.test")');
    const [download] = await Promise.all([page.waitForEvent('download'), page.click('text=Export')]);
    assert.match(download.suggestedFilename(), /^buri-account-[0-9a-f]{8}\.json$/);
    await page.click('text=Erase …');
    await page.fill('dialog input', 'olga@example.test');
    assert.equal(await page.locator('dialog button[type=submit]').isDisabled(), true, 'the owner is somebody else now');
    await page.fill('dialog input', 'paul@example.test');
    await picture(page, 'account-erase-operator');
    await page.keyboard.press('Enter');
    await page.waitForSelector('h1:has-text("Accounts")');
    assert.equal((await deployment.api('GET', '/v1/accounts?email=olga@example.test')).items.length, 0);
  });
});

test('a member is evicted by typing its name, and the audit log says who did it', async () => {
  await signedIn({}, async (page) => {
    await open(page, `#/networks/${network}`, 'tbody tr:has-text("cleo")');
    await page.click('[aria-label="Evict cleo"]');
    await page.fill('dialog input', 'cle');
    assert.equal(await page.locator('dialog button[type=submit]').isDisabled(), true);
    await page.fill('dialog input', 'cleo');
    await picture(page, 'network-evict');
    await page.click('dialog button[type=submit]');
    await page.waitForSelector('tbody tr:has-text("cleo")', { state: 'detached' });
    const members = (await deployment.api('GET', `/v1/networks/${network}/members`)).items.map((one) => one.client);
    assert.ok(!members.includes(ids.cleo) && members.length === 2);
    await open(page, '#/audit', 'tbody tr:has-text("members_remove")');
    await page.click('text=Check the chain');
    await page.waitForSelector('.verdict.good');
    await picture(page, 'audit-checked');
    await page.click('tbody tr >> nth=0 >> button');
    await page.waitForSelector('dialog .before-after');
    assert.deepEqual(await violations(page), []);
    await picture(page, 'audit-entry');
    await page.click('dialog >> text=Close');
  });
});
