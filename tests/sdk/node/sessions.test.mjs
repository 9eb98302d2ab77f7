// Which credentials are accepted, and what happens to a live connection when they are revoked.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Client, Message, Mqtt, clientOf, clientWithToken, connected, connection, createDevice, disconnection, fields, read, refused, registry, sasToken, send, text, until } from './hub.mjs';

const OTHER_KEY = Buffer.alloc(32, 'o').toString('base64');
const resource = (device) => `${connection.hostName}/devices/${device.deviceId}`;
const primary = (device) => device.authentication.symmetricKey.primaryKey;
const within = (promise, what) => {
  let done = false;
  promise.then(() => (done = true));
  return until(() => done, what, 10_000);
};

test('both keys and ready-made tokens let a device in', async () => {
  const device = await createDevice();
  await send(device, ['primary']);
  await send(device, ['secondary'], { key: 'secondary' });
  const ready = async (client) => connected(client, () => client.sendEvent(new Message('token')));
  await ready(clientWithToken(sasToken(resource(device), primary(device))));
  const { SharedAccessKeyName, SharedAccessKey } = fields(connection.device);
  await ready(clientWithToken(sasToken(resource(device), SharedAccessKey, SharedAccessKeyName)));
  assert.deepEqual((await read(device, 4)).map(text), ['primary', 'secondary', 'token', 'token']);
});

test('wrong, foreign and expired credentials are refused', async () => {
  const [device, other] = [await createDevice(), await createDevice()];
  await refused(clientOf(device, { key: OTHER_KEY }));
  await refused(clientOf(device, { key: primary(other) }));
  const now = Math.floor(Date.now() / 1000);
  await refused(clientWithToken(sasToken(resource(device), primary(device), undefined, now - 400)));
  const { SharedAccessKeyName, SharedAccessKey } = fields(connection.service);
  await refused(clientWithToken(sasToken(resource(device), SharedAccessKey, SharedAccessKeyName)));
});

test('a token counts until five minutes after its expiry, for clocks that differ', async () => {
  const device = await createDevice();
  const token = sasToken(resource(device), primary(device), undefined, Math.floor(Date.now() / 1000) - 200);
  await connected(clientWithToken(token), (client) => client.sendEvent(new Message('late')));
  assert.equal((await read(device, 1)).length, 1);
});

test('a disabled device is cut off, and comes back when it is enabled', async () => {
  const device = await createDevice();
  const client = clientOf(device);
  await client.open();
  const gone = disconnection(client);
  await registry.update({ ...device, status: 'disabled' });
  await within(gone, 'the hub to close the connection of a disabled device');
  await client.close().catch(() => {});
  await refused(clientOf(device));
  await registry.update({ ...(await registry.get(device.deviceId)).responseBody, status: 'enabled' });
  await send(device, ['back']);
});

test('a deleted device is cut off', async () => {
  const device = await createDevice();
  const client = clientOf(device);
  await client.open();
  const gone = disconnection(client);
  await registry.delete(device.deviceId);
  await within(gone, 'the hub to close the connection of a deleted device');
  await client.close().catch(() => {});
  await refused(clientOf(device));
});

test('a changed key closes the connection that used it', async () => {
  const device = await createDevice();
  const client = clientOf(device);
  await client.open();
  const gone = disconnection(client);
  const changed = structuredClone({ ...device });
  changed.authentication.symmetricKey.primaryKey = OTHER_KEY;
  await registry.update(changed);
  await within(gone, 'the hub to close the connection of the changed key');
  await client.close().catch(() => {});
  await refused(clientOf(device));
  await send(device, ['new key'], { key: OTHER_KEY });
});

test('the newer connection of a device wins', async () => {
  const device = await createDevice();
  const first = clientOf(device);
  await first.open();
  await first.sendEvent(new Message('first'));
  const gone = disconnection(first);
  await connected(clientOf(device), async (second) => {
    await within(gone, 'the hub to close the older connection');
    await second.sendEvent(new Message('second'));
  });
  await first.close().catch(() => {});
  assert.deepEqual((await read(device, 2)).map(text), ['first', 'second']);
});

test('twin, method and message subscriptions of later features are granted', async () => {
  const device = await createDevice();
  await connected(clientOf(device), async (client) => {
    client.onDeviceMethod('reboot', () => {});
    client.on('message', () => {});
    await client.sendEvent(new Message('still connected'));
  });
  assert.equal((await read(device, 1)).length, 1);
});

test('a client with the default retry policy renews its token without losing a message', async () => {
  const device = await createDevice();
  const client = Client.fromSharedAccessSignature(sasToken(resource(device), primary(device)), Mqtt);
  await connected(client, async () => {
    await client.sendEvent(new Message('old token'));
    await new Promise((resolve, reject) =>
      client.updateSharedAccessSignature(sasToken(resource(device), primary(device)), (error) => (error ? reject(error) : resolve())),
    );
    await client.sendEvent(new Message('new token'));
  });
  assert.deepEqual((await read(device, 2)).map(text), ['old token', 'new token']);
});
