// Writes node.json: tokens made by the Node SDKs, their clock held still. See README.md.
import { createRequire } from 'node:module';
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';

const require = createRequire(path.join(process.cwd(), 'package.json'));
const EXPIRY = 1_900_000_000;
Date.now = () => (EXPIRY - 3600) * 1000;

const { SharedAccessKeyAuthenticationProvider } = require('azure-iot-device');
const { SharedAccessSignature } = require('azure-iothub');
const { createSasTokenProvider } = require('@azure/core-amqp');

const KEY = Buffer.from(Array.from({ length: 32 }, (_, n) => n)).toString('base64');
const HOST = 'hub1.example.com';
const ODD = "a%41b+c:d(e)!f'g*h,i;j=k@l$m.n_o#p?q";

const version = (sdk) => JSON.parse(readFileSync(path.join('node_modules', sdk, 'package.json'))).version;
const vector = (sdk, token, path, form = 'decoded') => ({ sdk, version: version(sdk), token, path, form });

async function device(deviceId, moduleId) {
  const credentials = { host: HOST, deviceId, moduleId, sharedAccessKey: KEY };
  const provider = new SharedAccessKeyAuthenticationProvider(credentials, 3600, 900);
  const { sharedAccessSignature } = await provider.getDeviceCredentials();
  provider.stop();
  const below = moduleId ? ['modules', moduleId] : [];
  return vector('azure-iot-device', sharedAccessSignature, ['devices', deviceId, ...below]);
}

const service = (policy) =>
  vector('azure-iothub', SharedAccessSignature.create(HOST, policy, KEY, EXPIRY).toString(), []);

async function events(audience, path) {
  const provider = createSasTokenProvider({ sharedAccessKeyName: 'service', sharedAccessKey: KEY });
  const { token } = await provider.getToken(audience);
  return vector('@azure/event-hubs', token, path, 'text');
}

const partition = ['hub1', 'ConsumerGroups', '$Default', 'Partitions', '0'];
const vectors = [
  await device('dev-1'),
  await device('Dev.UPPER_1'),
  await device(ODD),
  await device('dev-1', 'mod1'),
  await device(ODD, '$edgeHub'),
  service('iothubowner'),
  service('registryReadWrite'),
  await events(`sb://${HOST}/hub1/$management`, ['hub1', '$management']),
  await events(`sb://${HOST}/hub1/ConsumerGroups/$Default/Partitions/0`, partition),
];
const text = JSON.stringify({ key: KEY, host: HOST, expiry: EXPIRY, vectors }, null, 1);
writeFileSync(new URL('node.json', import.meta.url), text + '\n');
console.error(vectors.length, 'vectors');
process.exit(0);
