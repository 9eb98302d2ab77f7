// Devices with certificates, over both transports of the SDK, whose ModuleClient takes tokens only.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { X509Certificate, createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, test } from 'node:test';
import { Client, Message, Mqtt, MqttWs, NoRetry, cli, connected, connection, createDevice, disconnection, read, refused, text, unique } from './hub.mjs';

const folder = mkdtempSync(path.join(tmpdir(), 'holdfast-certificates-'));
after(() => rmSync(folder, { recursive: true }));
let numbers = 0;
const openssl = (...args) => execFileSync('openssl', args, { stdio: ['ignore', 'ignore', 'pipe'] });
const P256 = ['ec', '-pkeyopt', 'ec_paramgen_curve:P-256'];

/** A certificate for its own key: `{ cert, key }` in PEM, as the SDK takes it. */
function selfSigned(commonName, key = P256) {
  const file = path.join(folder, `${++numbers}`);
  openssl('req', '-x509', '-newkey', ...key, '-nodes', '-days', '30', '-subj', `/CN=${commonName}`, '-keyout', `${file}.key`, '-out', `${file}.pem`);
  return made(file);
}

const made = (file) => ({ file, cert: readFileSync(`${file}.pem`, 'utf8'), key: readFileSync(`${file}.key`, 'utf8') });

const thumbprint = ({ cert }, digest = 'sha256') => createHash(digest).update(new X509Certificate(cert).raw).digest('hex');

function clientOf(certificate, deviceId, transport = Mqtt) {
  const client = Client.fromConnectionString(`HostName=${connection.hostName};DeviceId=${deviceId};x509=true`, transport);
  client.setOptions({ cert: certificate.cert, key: certificate.key });
  client.setRetryPolicy(new NoRetry());
  client.on('error', () => {});
  return client;
}

async function selfSignedDevice(primaryThumbprint, secondaryThumbprint) {
  const deviceId = unique();
  await createDevice(deviceId, { authentication: { type: 'selfSigned', x509Thumbprint: { primaryThumbprint, secondaryThumbprint } } });
  return deviceId;
}

for (const transport of [Mqtt, MqttWs]) {
  for (const key of [P256, ['rsa:2048']]) {
    test(`a device is known by its thumbprint (${transport.name}, ${key[0]})`, async () => {
      const own = selfSigned('any name', key);
      const deviceId = await selfSignedDevice(thumbprint(own));
      await connected(clientOf(own, deviceId, transport), (client) => client.sendEvent(new Message('by thumbprint')));
      assert.deepEqual((await read({ deviceId }, 1)).map(text), ['by thumbprint']);
    });
  }
}

test('another certificate is refused, and so is a certificate of an identity with keys', async () => {
  const [own, other] = [selfSigned('own'), selfSigned('own')];
  const deviceId = await selfSignedDevice(thumbprint(own, 'sha1'));
  await connected(clientOf(own, deviceId), (client) => client.sendEvent(new Message('sha1')));
  await refused(clientOf(other, deviceId));
  await refused(clientOf(own, (await createDevice()).deviceId));
  const { refusals } = JSON.parse(cli('device', 'diagnose', deviceId, '-o', 'json'));
  assert.equal(refusals.at(-1).reason, 'thumbprint');
});

test('a thumbprint that is taken away ends the session', async () => {
  const [old, next] = [selfSigned('old'), selfSigned('new')];
  const deviceId = await selfSignedDevice(thumbprint(old), thumbprint(next));
  await connected(clientOf(old, deviceId), async (client) => {
    const gone = disconnection(client);
    cli('device', 'update', deviceId, '--primary-thumbprint', thumbprint(next), '--secondary-thumbprint', '');
    await gone;
  });
  await connected(clientOf(next, deviceId), (client) => client.sendEvent(new Message('next')));
});

/** A certificate of `issuer`, or of itself; a device sends the issuers below the root with it. */
function issued(commonName, issuer, extensions) {
  const file = path.join(folder, `${++numbers}`);
  writeFileSync(`${file}.ext`, extensions.join('\n'));
  openssl('req', '-new', '-newkey', ...P256, '-nodes', '-subj', `/CN=${commonName}`, '-keyout', `${file}.key`, '-out', `${file}.csr`);
  const by = issuer ? ['-CA', `${issuer.file}.pem`, '-CAkey', `${issuer.file}.key`, '-CAcreateserial'] : ['-signkey', `${file}.key`];
  openssl('x509', '-req', '-in', `${file}.csr`, ...by, '-days', '30', '-extfile', `${file}.ext`, '-out', `${file}.pem`);
  const own = made(file);
  const above = issuer?.above ?? [];
  return { ...own, above: [own.cert, ...above], cert: [own.cert, ...above.slice(0, -1)].join('') };
}

const CA = ['basicConstraints=critical,CA:TRUE', 'keyUsage=critical,keyCertSign'];
const DEVICE = ['basicConstraints=CA:FALSE', 'extendedKeyUsage=clientAuth'];

test('a device of a CA is known by its common name, over an issuer that it sends', async () => {
  const root = issued('root', undefined, CA);
  const factory = issued('factory', root, CA);
  const name = unique('ca');
  cli('ca', 'add', name, '--file', `${root.file}.pem`, '--verified');
  for (const transport of [Mqtt, MqttWs]) {
    const deviceId = unique();
    await createDevice(deviceId, { authentication: { type: 'certificateAuthority' } });
    const own = issued(deviceId, factory, DEVICE);
    await connected(clientOf(own, deviceId, transport), (client) => client.sendEvent(new Message('by CA')));
    assert.deepEqual((await read({ deviceId }, 1)).map(text), ['by CA']);
    await refused(clientOf(issued(`${deviceId}x`, factory, DEVICE), deviceId, transport));
    await refused(clientOf(issued(deviceId, issued('root', undefined, CA), DEVICE), deviceId, transport));
  }
});
