// A device that speaks HTTPS through azure-iot-device-http.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Http, Message, clientOf, connected, createDevice, read, registry, send, text } from './hub.mjs';

test('a message arrives with its properties', async () => {
  const device = await createDevice();
  const message = new Message(JSON.stringify({ t: 21.5 }));
  message.messageId = 'm-1';
  message.correlationId = 'c/1&x';
  message.contentType = 'application/json';
  message.contentEncoding = 'utf-8';
  message.properties.add('level', 'hot');
  await connected(clientOf(device, { transport: Http }), (client) => client.sendEvent(message));
  const [event] = await read(device, 1);
  assert.deepEqual(JSON.parse(text(event)), { t: 21.5 });
  assert.deepEqual({ ...event.properties }, { level: 'hot' });
  assert.equal(event.messageId, 'm-1');
  assert.equal(event.correlationId, 'c/1&x');
  assert.equal(event.contentType, 'application/json');
  assert.equal(event.getRawAmqpMessage().properties.contentEncoding, 'utf-8');
  assert.equal(JSON.parse(event.systemProperties['iothub-connection-auth-method']).scope, 'device');
});

test('a batch arrives in order', async () => {
  const device = await createDevice();
  const messages = Array.from({ length: 50 }, (_, n) => new Message(`${n}`));
  messages[0].properties.add('Level', 'hot');
  await connected(clientOf(device, { transport: Http }), (client) => client.sendEventBatch(messages));
  const events = await read(device, 50);
  assert.deepEqual(events.map(text), messages.map((_, n) => `${n}`));
  assert.deepEqual({ ...events[0].properties }, { Level: 'hot' });
});

test('every body arrives, and one that is too large is refused', async () => {
  const device = await createDevice();
  const bodies = [Buffer.alloc(0), Buffer.from([0, 255, 254]), Buffer.alloc(262_144, 9)];
  await connected(clientOf(device, { transport: Http }), async (client) => {
    for (const body of bodies) await client.sendEvent(new Message(body));
    await assert.rejects(client.sendEvent(new Message(Buffer.alloc(262_145))), /413|too large|Entity/i);
  });
  const events = await read(device, bodies.length);
  events.forEach((event, n) => assert.ok(Buffer.from(event.body).equals(bodies[n]), `body ${n}`));
});

test('a device sends over MQTT and HTTPS at once, and keeps its MQTT connection', async () => {
  const device = await createDevice();
  await connected(clientOf(device), async (mqtt) => {
    let ended = false;
    mqtt.on('disconnect', () => (ended = true));
    for (let n = 0; n < 5; n += 1) {
      await mqtt.sendEvent(new Message(`mqtt ${n}`));
      await send(device, [`https ${n}`], { transport: Http });
    }
    assert.ok(!ended);
    assert.equal((await registry.get(device.deviceId)).responseBody.connectionState, 'Connected');
  });
  const expected = Array.from({ length: 5 }, (_, n) => [`mqtt ${n}`, `https ${n}`]).flat();
  assert.deepEqual((await read(device, 10)).map(text), expected);
});

test('a device without the right key is refused', async () => {
  const device = await createDevice();
  const client = clientOf(device, { transport: Http, key: Buffer.alloc(32, 7).toString('base64') });
  await assert.rejects(connected(client, () => client.sendEvent(new Message('x'))), /Unauthorized/i);
});
