// Twins: a back end and a device read and write them through the service SDK and the device SDK.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { clientOf, connected, createDevice, Mqtt, MqttWs, registry, until } from './hub.mjs';

const call = (object, name, ...args) =>
  new Promise((resolve, reject) => object[name](...args, (error, value) => (error ? reject(error) : resolve(value))));

const twinOf = async (device) => (await registry.getTwin(device.deviceId)).responseBody;

for (const [name, transport] of Object.entries({ Mqtt, MqttWs })) {
  test(`${name}: a device reports, a back end patches, each sees the other's part`, async () => {
    const device = await createDevice();
    await connected(clientOf(device, { transport }), async (client) => {
      const twin = await client.getTwin();
      assert.equal(twin.properties.desired.$version, 1);
      const seen = [];
      twin.on('properties.desired', (delta) => seen.push(delta));
      await call(twin.properties.reported, 'update', { fw: '1.0', nested: { a: 1, b: 2 } });
      await call(twin.properties.reported, 'update', { nested: { b: null } });
      const stored = await twinOf(device);
      assert.deepEqual(stored.properties.reported.nested, { a: 1 });
      assert.equal(stored.properties.reported.$version, 3);
      // The SDK says nothing when its subscription is done.
      await until(async () => {
        await registry.updateTwin(device.deviceId, { properties: { desired: { rate: seen.length + 1 } } }, '*');
        return seen.some((delta) => delta.rate);
      }, 'a change');
      const last = (await twinOf(device)).properties.desired;
      await until(() => twin.properties.desired.$version === last.$version, 'the newest version');
      assert.equal(twin.properties.desired.rate, last.rate);
    });
  });
}

test('a whole twin that is sent back changes what was changed', async () => {
  const device = await createDevice();
  const twin = await twinOf(device);
  twin.tags = { site: 'B' };
  const changed = (await registry.updateTwin(device.deviceId, twin, twin.etag)).responseBody;
  assert.deepEqual(changed.tags, { site: 'B' });
  await assert.rejects(registry.updateTwin(device.deviceId, { tags: { site: 'C' } }, twin.etag), (error) =>
    /412001|PreconditionFailed|InvalidEtag/.test(`${error.name} ${error.responseBody ?? error.message}`),
  );
});

test('a device learns that its patch is refused', async () => {
  const device = await createDevice();
  await connected(clientOf(device), async (client) => {
    const twin = await client.getTwin();
    await assert.rejects(call(twin.properties.reported, 'update', { 'a b': 1 }));
    await call(twin.properties.reported, 'update', { ok: 1 });
  });
});
