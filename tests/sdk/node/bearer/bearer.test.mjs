// Back ends without shared keys: a token credential as `@azure/identity` has them, over REST and AMQP, by role.
// `harness.py --issuer` has started the issuer and a hub that takes nothing else.
import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import { clientOf, connected, connection, eventHubs, Message, require, unique, until } from '../hub.mjs';

const { Client: ServiceClient, Registry } = require('azure-iothub');
const { Message: ServiceMessage } = require('azure-iot-common');

const SCOPE = 'https://iothubs.azure.net/.default';

/** A `TokenCredential`: it asks the issuer anew for each token. */
class Credential {
  constructor(name, ...roles) {
    this.query = new URLSearchParams([['name', name], ...roles.map((role) => ['role', role])]);
    this.scopes = [];
  }

  async getToken(scopes) {
    this.scopes.push(...[scopes].flat());
    const answer = await fetch(`${process.env.HOLDFAST_ISSUER}/token?${this.query}`);
    return { token: await answer.text(), expiresOnTimestamp: Date.now() + 3_600_000 };
  }
}

const contributor = new Credential('admin', 'IoT Hub Data Contributor');
const registry = Registry.fromTokenCredential(connection.hostName, contributor);
const createDevice = async () => (await registry.create({ deviceId: unique() })).responseBody;

before(async () => {
  // Until the hub has read the keys of the issuer.
  await until(() => registry.getRegistryStatistics().then(() => true, (error) => assert.match(error.name, /ServiceUnavailable/)), 'the keys');
});

test('each role opens its calls and no others', async () => {
  const device = await createDevice();
  const reader = Registry.fromTokenCredential(connection.hostName, new Credential('reader', 'IoT Hub Data Reader'));
  assert.equal((await reader.get(device.deviceId)).responseBody.deviceId, device.deviceId);
  await assert.rejects(reader.delete(device.deviceId), (error) => {
    assert.equal(error.name, 'UnauthorizedError');
    assert.match(error.responseBody, new RegExp(`Principal reader is not authorized for DELETE on /devices/${device.deviceId}`));
    return true;
  });
  const twins = Registry.fromTokenCredential(connection.hostName, new Credential('twins', 'IoT Hub Twin Contributor'));
  assert.equal((await twins.getTwin(device.deviceId)).responseBody.deviceId, device.deviceId);
  await assert.rejects(twins.get(device.deviceId), { name: 'UnauthorizedError' });
  assert.ok(contributor.scopes.every((scope) => scope === SCOPE) && contributor.scopes.length > 0, `${contributor.scopes}`);
});

test('a policy opens neither REST nor AMQP', async () => {
  const byPolicy = Registry.fromConnectionString(connection.owner);
  await assert.rejects(byPolicy.get('any'), (error) => {
    assert.equal(error.name, 'UnauthorizedError');
    assert.match(error.responseBody, /auth\.service\.shared_policies/);
    return true;
  });
  const service = ServiceClient.fromConnectionString(connection.service);
  await assert.rejects(service.open(), (error) => assert.match(String(error.amqpError), /PoliciesDisabled/) ?? true);
});

test('a message reaches its device, and a method is answered', async () => {
  const device = await createDevice();
  const service = ServiceClient.fromTokenCredential(connection.hostName, new Credential('sender', 'IoT Hub Data Contributor'));
  await service.open();
  try {
    await connected(clientOf(device), async (client) => {
      const received = [];
      client.on('message', (message) => {
        received.push(message.data.toString());
        client.complete(message, () => {});
      });
      client.onDeviceMethod('add', (request, response) => response.send(200, request.payload + 1, () => {}));
      await service.send(device.deviceId, new ServiceMessage('hello'));
      await until(() => received.length === 1, 'the message');
      assert.deepEqual(received, ['hello']);
      const call = { methodName: 'add', payload: 41, responseTimeoutInSeconds: 30 };
      // The SDK says nothing when it has subscribed to methods.
      const invoke = () => service.invokeDeviceMethod(device.deviceId, call);
      const { result } = await until(() => invoke().catch((error) => assert.match(error.responseBody, /404103/)), 'the answer');
      assert.deepEqual([result.status, result.payload], [200, 42]);
    });
  } finally {
    await service.close();
  }
});

test('a sender whose role has no messages is refused over AMQP', async () => {
  const service = ServiceClient.fromTokenCredential(connection.hostName, new Credential('twins', 'IoT Hub Twin Contributor'));
  try {
    await assert.rejects(
      service.open().then(() => service.send('any', new ServiceMessage('x'))),
      { name: 'UnauthorizedError' },
    );
  } finally {
    await service.close().catch(() => {});
  }
});

test('telemetry is read without a key', async () => {
  const device = await createDevice();
  await connected(clientOf(device), (client) => client.sendEvent(new Message('by bearer')));
  const entity = connection.hostName.split('.')[0];
  const consumer = new eventHubs.EventHubConsumerClient(
    '$Default',
    connection.hostName,
    entity,
    new Credential('reader', 'IoT Hub Data Reader'),
    { retryOptions: { maxRetries: 0, timeoutInMs: 20_000 } },
  );
  const seen = [];
  const subscription = consumer.subscribe(
    { processEvents: async (events) => void seen.push(...events.map((event) => Buffer.from(event.body).toString())), processError: async () => {} },
    { startPosition: eventHubs.earliestEventPosition, maxWaitTimeInSeconds: 1, skipParsingBodyAsJson: true },
  );
  try {
    await until(() => seen.includes('by bearer'), 'the event');
  } finally {
    await subscription.close();
    await consumer.close();
  }
});
