// An OpenID provider that vouches for whoever the test says: discovery, a page that sends back at once, tokens signed with RSA.

import { createHash, createSign, generateKeyPairSync, randomUUID } from 'node:crypto';
import { createServer } from 'node:http';

export class Provider {
  constructor() {
    /** Who is at the provider's page; `null`: somebody who declines. @type {{sub: string, email: string} | null} */
    this.visitor = null;
    this.codes = new Map();
    this.keys = generateKeyPairSync('rsa', { modulusLength: 2048 });
  }

  async start() {
    this.server = createServer((request, response) => void this.answer(request, response));
    await new Promise((resolve) => this.server.listen(0, '127.0.0.1', () => resolve(undefined)));
    this.issuer = `http://127.0.0.1:${this.server.address().port}`;
  }

  async end() {
    this.server?.closeAllConnections();
    await new Promise((resolve) => (this.server ? this.server.close(resolve) : resolve(undefined)));
  }

  async answer(request, response) {
    const url = new URL(request.url, this.issuer);
    const json = (document, status = 200) => response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(document));
    if (url.pathname === '/.well-known/openid-configuration') {
      const at = (path) => `${this.issuer}/${path}`;
      return json({ issuer: this.issuer, authorization_endpoint: at('authorize'), token_endpoint: at('token'), jwks_uri: at('keys'), response_types_supported: ['code'], subject_types_supported: ['public'], id_token_signing_alg_values_supported: ['RS256'], token_endpoint_auth_methods_supported: ['none', 'client_secret_basic'], code_challenge_methods_supported: ['S256'] });
    }
    if (url.pathname === '/keys') return json({ keys: [{ ...this.keys.publicKey.export({ format: 'jwk' }), kid: 'one', use: 'sig', alg: 'RS256' }] });
    if (url.pathname === '/authorize') {
      const back = new URL(url.searchParams.get('redirect_uri'));
      back.searchParams.set('state', url.searchParams.get('state'));
      if (this.visitor) {
        const code = randomUUID();
        this.codes.set(code, { ...this.visitor, nonce: url.searchParams.get('nonce'), challenge: url.searchParams.get('code_challenge'), aud: url.searchParams.get('client_id') });
        back.searchParams.set('code', code);
      } else back.searchParams.set('error', 'access_denied');
      return response.writeHead(302, { location: back.href }).end();
    }
    let body = '';
    for await (const piece of request) body += piece;
    const form = new URLSearchParams(body);
    const granted = this.codes.get(form.get('code'));
    const proved = createHash('sha256').update(form.get('code_verifier') ?? '').digest('base64url');
    if (url.pathname !== '/token' || !granted || proved !== granted.challenge) return json({ error: 'invalid_grant' }, 400);
    this.codes.delete(form.get('code'));
    const now = Math.floor(Date.now() / 1000);
    const part = (document) => Buffer.from(JSON.stringify(document)).toString('base64url');
    const signed = `${part({ alg: 'RS256', kid: 'one' })}.${part({ iss: this.issuer, aud: granted.aud, sub: granted.sub, email: granted.email, email_verified: true, nonce: granted.nonce, iat: now, exp: now + 300 })}`;
    const signature = createSign('RSA-SHA256').update(signed).sign(this.keys.privateKey, 'base64url');
    return json({ token_type: 'Bearer', access_token: 'of no use', id_token: `${signed}.${signature}` });
  }
}
