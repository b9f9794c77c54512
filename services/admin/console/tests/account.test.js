// The page for people as they use it: from the sign-up by mail to the erasure, with real clients behind it.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { launch, picture, violations, visit } from './browser.js';
import { Deployment, until } from './deployment.js';
import { Provider } from './provider.js';

const bin = process.env.BURI_TEST_BIN ?? join(process.env.CARGO_TARGET_DIR ?? '../../../../target', 'debug');
const deployment = new Deployment(bin);
const provider = new Provider();
const password = 'correct horse battery';
const secret = { input: 'correct horse battery\n' };
const anna = 'anna@example.test';
const bert = 'bert@example.test';
/** @type {Record<string, string>} */
const ids = {};
let browser;
let site;

before(async () => {
  await provider.start();
  deployment.configure(`[auth.people.provider]\nissuer = "${provider.issuer}"\nclient_id = "buri"\n`);
  await deployment.start();
  site = `${deployment.ready.accounts}/account`;
  for (const [name, ...more] of [['laptop'], ['desktop'], ['cleo'], ['dora', '--path', 'relay'], ['emil'], ['fritz']]) {
    ids[name] = (await deployment.client(name, more)).id;
    deployment.buri(name, ['nick', name]);
  }
  deployment.buri('laptop', ['create', 'friday games', '--password-file', '-'], secret);
  for (const name of ['desktop', 'cleo', 'dora', 'emil']) deployment.buri(name, ['join', 'friday games', '--password-file', '-'], secret);
  deployment.buri('laptop', ['create', 'workshop', '--password-file', '-'], secret);
  deployment.buri('laptop', ['approval', 'workshop', 'ask']);
  deployment.buri('fritz', ['join', 'workshop', '--password-file', '-'], { ...secret, may_fail: true });
  deployment.buri('cleo', ['create', 'club', '--password-file', '-'], secret);
  deployment.buri('cleo', ['approval', 'club', 'ask']);
  deployment.buri('laptop', ['join', 'club', '--password-file', '-'], { ...secret, may_fail: true });
  await deployment.stop('emil');
  await until('laptop and cleo have a path', () => deployment.api('GET', `/v1/pairs/${ids.laptop}/${ids.cleo}`).then((record) => record.outcome === 'direct', () => false));
  browser = await launch();
});

after(async () => {
  await browser?.close();
  await deployment.end();
  await provider.end();
});

const text = (page, selector) => page.locator(selector).first().innerText();

/** Opens the page; it must end without errors, warnings and breaches of its policy. */
async function visited(options, use, hash = '') {
  const { context, page, wrong } = await visit(browser, options);
  await page.goto(site + hash);
  await use(page, context);
  assert.deepEqual(wrong, []);
  await context.close();
}

/** Signs in as somebody. */
async function signedIn(options, email, use) {
  await visited(options, async (page, context) => {
    await signIn(page, email);
    await use(page, context);
  });
}

async function signIn(page, email, typed = password) {
  await page.fill('input[type=email]', email);
  await page.fill('input[type=password]', typed);
  await page.keyboard.press('Enter');
  await page.waitForSelector('.frame.people h1');
}

const open = async (page, hash, wanted) => {
  await page.goto(site + hash);
  await page.waitForSelector(wanted);
};

test('somebody signs up, follows the link of the mail, and is in', async () => {
  await visited({}, async (page, context) => {
    await page.waitForSelector('text=Sign in');
    await picture(page, 'account-sign-in');
    assert.deepEqual(await violations(page), []);
    await page.click('text=Create an account');
    await page.fill('input[type=email]', anna);
    await page.fill('input[type=password]', 'too short');
    assert.equal(await page.locator('button.primary').isDisabled(), true);
    await page.fill('input[type=password]', password);
    await picture(page, 'account-sign-up');
    assert.deepEqual(await violations(page), []);
    await page.keyboard.press('Enter');
    await page.waitForSelector('text=Look into your mail');
    await picture(page, 'account-confirm');
    const mail = await deployment.mail(anna, 'Confirm');
    assert.ok(mail.link.startsWith(`${site}#verify=`), mail.link);
    const other = await context.newPage();
    await other.goto(mail.link);
    await other.waitForSelector('text=Confirm your address');
    assert.ok(!other.url().includes(mail.token), 'the address is rid of the token');
    await picture(other, 'account-verify');
    await other.fill('input[type=password]', 'not that password');
    await other.keyboard.press('Enter');
    await other.waitForSelector('.wrong');
    await other.fill('input[type=password]', password);
    await other.keyboard.press('Enter');
    await other.waitForSelector('text=No networks yet');
    await picture(other, 'account-empty');
    const kept = await other.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie]));
    assert.ok(!kept.includes(mail.token) && !kept.includes('buri_session'), kept);
    const cookie = (await context.cookies(`${site.replace('/account', '')}/v1/account/me`)).find((one) => one.name === 'buri_session');
    assert.ok(cookie?.httpOnly && cookie.sameSite === 'Strict' && cookie.path === '/v1/account', JSON.stringify(cookie));
  });
});

test('the token of the mail can be typed, a wrong password is refused in words, a forgotten one is set anew', async () => {
  await visited({}, async (page) => {
    await page.click('text=Create an account');
    await page.fill('input[type=email]', bert);
    await page.fill('input[type=password]', 'a password to forget');
    await page.keyboard.press('Enter');
    await page.waitForSelector('text=Look into your mail');
    await page.fill('input.mono', (await deployment.mail(bert, 'Confirm')).token);
    await page.keyboard.press('Enter');
    await page.waitForSelector('.frame.people h1');
    await page.click('[aria-label="Sign out"]');
    await page.waitForSelector('.door');
    await page.fill('input[type=email]', bert);
    await page.fill('input[type=password]', password);
    await page.keyboard.press('Enter');
    await page.waitForSelector('.wrong');
    assert.match(await text(page, '.wrong'), /not right/);
    await picture(page, 'account-denied');
    assert.deepEqual(await violations(page), []);
    await page.click('text=Forgot your password?');
    assert.equal(await page.inputValue('input[type=email]'), bert, 'what was typed stays');
    await picture(page, 'account-forgot');
    await page.keyboard.press('Enter');
    const mail = await deployment.mail(bert, 'Set another');
    await page.goto(mail.link);
    await page.waitForSelector('text=Set another password');
    await page.fill('input[type=password]', password);
    await picture(page, 'account-reset');
    await page.keyboard.press('Enter');
    await page.waitForSelector('text=Your password is changed');
    await signIn(page, bert);
  });
});

test('a machine is attached by the line that the page shows, and its networks appear', async () => {
  await signedIn({}, anna, async (page) => {
    await page.click('text=To my machines');
    await page.waitForSelector('text=No machine yet');
    await picture(page, 'account-machines-empty');
    await page.click('text=Attach a machine');
    await page.waitForSelector('#attach-line');
    await page.waitForFunction(() => /attach \S{10}/.test(document.getElementById('attach-line')?.textContent ?? ''));
    const line = await text(page, '#attach-line');
    assert.match(line, /^buri account attach \S+$/);
    await picture(page, 'account-attach');
    assert.deepEqual(await violations(page), []);
    deployment.buri('laptop', line.split(' ').slice(1));
    await page.waitForSelector('text=laptop is attached');
    await picture(page, 'account-attached');
    await page.click('text=Done');
    await page.waitForSelector('.roster :text("laptop")');
    await page.click('.nav a:has-text("Networks")');
    await page.waitForSelector('.net');
    const net = page.locator('.net', { hasText: 'friday games' });
    await net.locator('.member', { hasText: 'cleo' }).waitFor();
    assert.match(await net.locator('.member', { hasText: 'cleo' }).innerText(), /Direct/);
    assert.match(await net.locator('.member', { hasText: 'dora' }).innerText(), /Relayed\S* \S+/);
    assert.match(await net.locator('.member', { hasText: 'emil' }).innerText(), /Offline/);
    assert.match(await page.locator('.net', { hasText: 'club' }).first().innerText(), /Awaiting approval/);
    const workshop = page.locator('.net', { hasText: 'workshop' });
    assert.match(await workshop.locator('.member', { hasText: 'fritz' }).innerText(), /Awaiting approval/);
    await workshop.locator('.member', { hasText: 'fritz' }).locator('button').first().click();
    await workshop.locator('text=buri approve fritz workshop').waitFor();
    deployment.buri('laptop', ['approve', 'fritz', 'workshop']);
    await page.locator('.net', { hasText: 'workshop' }).locator('.member:has-text("fritz") :text("Direct")').waitFor({ timeout: 60_000 });
  });
});

test('members show more when pressed, by keyboard too, and the list follows what happens', async () => {
  await signedIn({}, anna, async (page) => {
    const net = page.locator('.net', { hasText: 'friday games' });
    const dora = net.locator('.member', { hasText: 'dora' });
    await dora.waitFor();
    await dora.locator('button').first().focus();
    await page.keyboard.press('Enter');
    await dora.locator('.member-more').waitFor();
    assert.equal(await dora.locator('button').first().getAttribute('aria-expanded'), 'true');
    assert.match(await dora.locator('.member-more').innerText(), /it cannot read it/);
    await picture(page, 'account-member-relayed');
    assert.deepEqual(await violations(page), []);
    await page.keyboard.press('Enter');
    await dora.locator('.member-more').waitFor({ state: 'detached' });
    await net.locator('.net-name').click();
    assert.equal(await dora.isVisible(), false);
    await net.locator('.net-name').click();
    await deployment.stop('dora');
    await dora.locator(':text("Offline")').waitFor({ timeout: 60_000 });
    await net.locator('text=Add to the account').click();
    await page.click('dialog button[type=submit]');
    await net.locator('text=Belongs to the account').waitFor();
  });
});

test('two machines of one account see a network each with their own eyes', async () => {
  await signedIn({}, anna, async (page) => {
    await open(page, '#/machines', '.roster');
    await page.click('text=Attach a machine');
    await page.waitForFunction(() => /attach \S{10}/.test(document.getElementById('attach-line')?.textContent ?? ''));
    deployment.buri('desktop', (await text(page, '#attach-line')).split(' ').slice(1));
    await page.waitForSelector('text=desktop is attached');
    await page.click('text=Done');
    await open(page, '#/networks', '.eyes select');
    const net = page.locator('.net', { hasText: 'friday games' });
    await net.locator('.eyes select').selectOption({ label: 'desktop' });
    await net.locator('.member:has-text("desktop") :text("Your machine, online")').waitFor();
    await net.locator('.member:has-text("laptop") :text("Direct")').waitFor({ timeout: 60_000 });
  });
});

test('somebody is invited, joins, gets a role, and sees no more than it allows', async () => {
  await signedIn({}, anna, async (page) => {
    await open(page, '#/people', 'tbody tr');
    await page.click('text=Invite');
    await page.fill('dialog input[type=email]', bert);
    await picture(page, 'account-invite');
    assert.deepEqual(await violations(page), []);
    await page.keyboard.press('Enter');
    await page.waitForSelector(`text=${bert}`);
    await picture(page, 'account-people-invited');
    const mail = await deployment.mail(bert, 'You are invited');
    await signedIn({}, bert, async (other) => {
      await other.goto(mail.link);
      await other.waitForSelector('text=Join the account');
      await picture(other, 'account-invited');
      await other.click('text=Join the account');
      await other.waitForSelector('.net');
      assert.match(await text(other, '.whose'), new RegExp(anna));
      await open(other, '#/machines', '.roster');
      assert.equal(await other.locator('text=Detach').count(), 0, 'members do not detach');
      await open(other, '#/settings', '.facts');
      assert.equal(await other.locator('text=Erase the account').count(), 0);
    });
    await page.waitForSelector(`[aria-label="Make admin: ${bert}"]`, { timeout: 60_000 });
    await page.click(`[aria-label="Make admin: ${bert}"]`);
    await page.click('dialog button[type=submit]');
    await page.waitForSelector(`[aria-label="Make member: ${bert}"]`);
    await page.click(`[aria-label="Remove: ${bert}"]`);
    await page.fill('dialog input', 'somebody else');
    assert.equal(await page.locator('dialog button[type=submit]').isDisabled(), true);
    await page.fill('dialog input', bert);
    await picture(page, 'account-people-remove');
    await page.keyboard.press('Enter');
    await page.waitForSelector(`[aria-label="Remove: ${bert}"]`, { state: 'detached' });
  });
});

for (const [mode, options] of /** @type {[string, any][]} */ ([
  ['light', { colorScheme: 'light' }],
  ['dark', { colorScheme: 'dark' }],
  ['phone', { viewport: { width: 320, height: 640 }, colorScheme: 'dark', hasTouch: true }],
])) {
  test(`every page is readable and fits: ${mode}`, async () => {
    await signedIn(options, anna, async (page) => {
      for (const name of ['networks', 'machines', 'people', 'plan', 'settings', 'nothing']) {
        await open(page, `#/${name}`, '.page h1');
        await page.waitForFunction(() => !document.querySelector('.waiting'));
        assert.equal(await page.locator('.trouble').count(), 0, `${name} shows a problem`);
        const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        assert.ok(over <= 0, `${name} is ${over} px too wide`);
        assert.deepEqual(await violations(page), [], name);
        await picture(page, `account-${name}-${mode}`);
      }
      await page.click('.nav a:has-text("Plan")');
      await page.waitForSelector('.plan-name');
    });
  });
}

test('everything is reached by keyboard alone', async () => {
  await visited({}, async (page) => {
    await page.waitForSelector('input[type=email]');
    await page.focus('input[type=email]');
    await page.keyboard.type(anna);
    await page.keyboard.press('Tab');
    await page.keyboard.type(password);
    await page.keyboard.press('Enter');
    await page.waitForSelector('.net');
    await page.reload();
    await page.waitForSelector('.net');
    await page.keyboard.press('Tab');
    assert.equal(await page.evaluate(() => document.activeElement?.textContent), 'Skip to the page');
    await page.keyboard.press('Enter');
    assert.equal(await page.evaluate(() => document.activeElement?.id), 'main');
    await page.keyboard.press('Tab');
    assert.ok(await page.evaluate(() => document.activeElement?.classList.contains('net-name')));
    assert.ok(await page.evaluate(() => getComputedStyle(/** @type {Element} */ (document.activeElement)).outlineStyle !== 'none'));
    await page.focus('.nav a >> nth=1');
    await page.keyboard.press('Enter');
    await page.waitForSelector('text=Attach a machine');
    assert.equal(await page.evaluate(() => document.activeElement?.id), 'title');
  });
});

test('a page without an answer says so and goes on by itself', async () => {
  await signedIn({}, anna, async (page, context) => {
    await page.waitForSelector('.net');
    await context.setOffline(true);
    await page.waitForSelector('.banner', { timeout: 30_000 });
    assert.ok(await page.locator('.net').first().isVisible(), 'what is known stays');
    await picture(page, 'account-offline');
    await context.setOffline(false);
    await page.waitForSelector('.banner', { state: 'detached', timeout: 30_000 });
  });
});

test('a provider signs somebody in, is connected to a person, and a refusal is told on the page', async () => {
  await visited({}, async (page) => {
    await page.waitForSelector('text=Continue with 127.0.0.1');
    provider.visitor = null;
    await page.click('text=Continue with');
    await page.waitForSelector('.wrong');
    assert.match(await text(page, '.wrong'), /did not sign you in/);
    provider.visitor = { sub: '1', email: 'carl@example.test' };
    await page.click('text=Continue with');
    await page.waitForSelector('text=No networks yet');
    await open(page, '#/settings', '.facts');
    assert.match(await text(page, '.facts'), /carl@example.test[\s\S]*none[\s\S]*127\.0\.0\.1/);
    await page.click('[aria-label="Sign out"]');
    provider.visitor = { sub: '2', email: anna };
    await page.click('text=Continue with');
    await page.waitForSelector('text=There is an account with this address already');
    await picture(page, 'account-connect-first');
    await signIn(page, anna);
    await open(page, '#/settings', '.facts');
    await Promise.all([page.waitForURL(site), page.click('text=Connect 127.0.0.1')]);
    await page.waitForSelector('.frame.people h1');
    await open(page, '#/settings', '.facts');
    await until('the provider is connected', async () => !(await page.locator('text=Connect 127.0.0.1').count()));
    await page.click('[aria-label="Sign out"]');
    await page.click('text=Continue with');
    await page.waitForSelector('.net');
  });
});

test('a session that is over elsewhere leads back to the sign-in', async () => {
  await signedIn({}, anna, async (page) => {
    await page.waitForSelector('.net');
    await signedIn({}, anna, async (other) => {
      await open(other, '#/settings', '.facts');
      await other.click('text=Sign out everywhere');
      await other.click('dialog button[type=submit]');
      await other.waitForSelector('.door');
    });
    await page.waitForSelector('text=You were signed out', { timeout: 30_000 });
  });
});

test('data is exported, a suspended account says so, a machine is detached, and the account is erased', async () => {
  await signedIn({}, anna, async (page) => {
    await open(page, '#/settings', '.facts');
    const [download] = await Promise.all([page.waitForEvent('download'), page.click('text=Export my data')]);
    const data = JSON.parse(readFileSync(await download.path(), 'utf8'));
    assert.deepEqual(data.account.people.map((one) => one.email), [anna]);
    assert.ok(!JSON.stringify(data).includes('argon2'));
    const account = data.account.account;
    await deployment.api('PUT', `/v1/accounts/${account}/standing`, { suspended: true });
    await page.reload();
    await page.waitForSelector('text=This account is suspended');
    await picture(page, 'account-suspended');
    assert.deepEqual(await violations(page), []);
    await deployment.api('PUT', `/v1/accounts/${account}/standing`, { suspended: false });
    await page.reload();
    await open(page, '#/machines', '.roster');
    await page.click('[aria-label="Detach desktop"]');
    await picture(page, 'account-detach');
    await page.click('dialog button[type=submit]');
    await page.waitForSelector('[aria-label="Detach desktop"]', { state: 'detached' });
    assert.equal(deployment.buri('desktop', ['account', 'status']).attached, false);
    await open(page, '#/settings', '.facts');
    await page.click('text=Erase the account');
    await page.fill('dialog input[autocomplete=off]', anna);
    assert.equal(await page.locator('dialog button.danger').isDisabled(), true, 'the password is asked for, too');
    await page.fill('dialog input[type=password]', password);
    await picture(page, 'account-erase');
    assert.deepEqual(await violations(page), []);
    await page.click('dialog button.danger');
    await page.waitForSelector('.door');
    await page.fill('input[type=email]', anna);
    await page.fill('input[type=password]', password);
    await page.keyboard.press('Enter');
    await page.waitForSelector('.wrong');
  });
});
