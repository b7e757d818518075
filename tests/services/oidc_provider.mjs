// npm oidc-provider as a company's identity provider: code + PKCE, refresh tokens that rotate,
// ES256, `iss` in responses (RFC 9207), max_age, JWT access tokens for one resource.
//
// Two clients, `countersign` and `other-app`, both with the secret in the environment. Two people.
// Login and consent are plain forms of our own. `POST /test/users/NAME` (JSON) changes a person:
// {"groups": [...]} or {"disabled": true}; `POST /test/signout/NAME` ends their sessions and grants.
//
// usage: node oidc_provider.mjs PORT ISSUER_OF_COUNTERSIGN PROVIDER_NAME   (in its node_modules)
import { generateKeyPairSync } from 'node:crypto';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import { createServer } from 'node:http';

const [port, relyingParty, providerName] = process.argv.slice(2);
const installed = createRequire(`${process.cwd()}/package.json`);
const { default: Provider } = await import(pathToFileURL(installed.resolve('oidc-provider')).href);

const issuer = `http://127.0.0.1:${port}`;
const secret = process.env.CLIENT_SECRET;
const key = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'jwk' });
const people = {
  carol: { name: 'Carol Partner', email: 'shared@partner.example', groups: ['partners', 'staff'] },
  dave: { name: 'Dave Partner', email: 'shared@partner.example', groups: ['staff'] },
};
const client = (client_id, redirect_uris) => ({
  client_id,
  client_secret: secret,
  redirect_uris,
  grant_types: ['authorization_code', 'refresh_token'],
  response_types: ['code'],
  id_token_signed_response_alg: 'ES256',
  token_endpoint_auth_method: 'client_secret_basic',
});

const provider = new Provider(issuer, {
  jwks: { keys: [{ ...key, kid: 'idp-1', use: 'sig', alg: 'ES256' }] },
  clients: [
    client('countersign', [`${relyingParty}/oauth/callback/${providerName}`]),
    client('other-app', ['http://127.0.0.1:18081/callback']),
  ],
  findAccount: (_ctx, id) =>
    !people[id] || people[id].disabled ? undefined : {
      accountId: id,
      claims: () => ({ sub: id, name: people[id].name, email: people[id].email, groups: people[id].groups }),
    },
  claims: { openid: ['sub', 'auth_time'], profile: ['name'], email: ['email'], groups: ['groups'] },
  scopes: ['openid', 'offline_access'],
  conformIdTokenClaims: false,
  rotateRefreshToken: true,
  issueRefreshToken: async (_ctx, aClient, code) => aClient.grantTypeAllowed('refresh_token') && code.scopes.has('openid'),
  pkce: { required: () => true },
  cookies: { keys: ['only for tests'] },
  interactions: { url: (_ctx, interaction) => `/interaction/${interaction.uid}` },
  ttl: { AccessToken: 300, IdToken: 300, Grant: 3600, Session: 3600, Interaction: 600, RefreshToken: 3600 },
  features: { devInteractions: { enabled: false } },
  renderError: (ctx, out) => { ctx.type = 'text'; ctx.body = `${out.error} ${out.error_description ?? ''}`; },
});

async function form(request) {
  let text = '';
  for await (const chunk of request) text += chunk;
  return text;
}

const page = (response, title, body) => {
  response.setHeader('content-type', 'text/html');
  response.end(`<!DOCTYPE html><title>${title}</title><h1>${title}</h1>${body}`);
};

async function interaction(request, response) {
  const details = await provider.interactionDetails(request, response);
  const { uid, prompt, params, session } = details;
  if (request.method === 'GET') {
    const fields = prompt.name === 'login'
      ? '<input name="username"><input name="password" type="password">' : '';
    return page(response, prompt.name, `<form method="post" action="/interaction/${uid}">${fields}<button>Go on</button></form>`);
  }
  const sent = new URLSearchParams(await form(request));
  if (sent.get('cancel')) {
    return provider.interactionFinished(request, response, { error: 'access_denied', error_description: 'cancelled' });
  }
  if (prompt.name === 'login') {
    const account = sent.get('username');
    if (!people[account] || people[account].disabled || sent.get('password') !== `${account}-password`) {
      return page(response, 'login', `<p>wrong</p><form method="post" action="/interaction/${uid}"><input name="username"><input name="password" type="password"><button>Go on</button></form>`);
    }
    return provider.interactionFinished(request, response, { login: { accountId: account } });
  }
  const grant = details.grantId
    ? await provider.Grant.find(details.grantId)
    : new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  grants.add(grant);
  grant.addOIDCScope(params.scope);
  const grantId = await grant.save();
  return provider.interactionFinished(request, response, { consent: { grantId } }, { mergeWithLastSubmission: true });
}

const grants = new Set();
async function control(request, response, [, what, name]) {
  if (what === 'users') Object.assign(people[name], JSON.parse(await form(request)));
  if (what === 'signout') {
    for (const grant of grants) {
      if (grant.accountId === name) { await grant.destroy(); grants.delete(grant); }
    }
  }
  response.end('{}');
}

const answer = provider.callback();
createServer((request, response) => {
  const [, first, ...rest] = new URL(request.url, issuer).pathname.split('/');
  const failed = (error) => { response.statusCode = 500; response.end(String(error)); };
  if (first === 'interaction') return interaction(request, response).catch(failed);
  if (first === 'test') return control(request, response, ['', ...rest]).catch(failed);
  return answer(request, response);
}).listen(Number(port), '127.0.0.1');
