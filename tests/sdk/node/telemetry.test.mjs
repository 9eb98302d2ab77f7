// What a device sends through azure-iot-device-mqtt is what a reader gets through @azure/event-hubs.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Message, MqttWs, clientOf, connected, createDevice, read, registry, send, sender, text } from './hub.mjs';

test('a message arrives with all its properties', async () => {
  const device = await createDevice();
  const message = new Message(JSON.stringify({ t: 21.5 }));
  message.messageId = 'm-1';
  message.correlationId = 'c/1&x';
  message.userId = 'user 7';
  message.contentType = 'application/json';
  message.contentEncoding = 'utf-8';
  message.properties.add('level', 'hot');
  message.properties.add("sp ace'(", 'a=b&c/d');
  message.properties.add('ünï', 'ç%25');
  await connected(clientOf(device), (client) => client.sendEvent(message));
  const [event] = await read(device, 1);
  assert.deepEqual(JSON.parse(text(event)), { t: 21.5 });
  assert.deepEqual({ ...event.properties }, { level: 'hot', "sp ace'(": 'a=b&c/d', 'ünï': 'ç%25' });
  assert.equal(event.messageId, 'm-1');
  assert.equal(event.correlationId, 'c/1&x');
  assert.equal(event.contentType, 'application/json');
  assert.equal(event.getRawAmqpMessage().properties.contentEncoding, 'utf-8');
});

test('an event carries its sender, its time and its authentication method', async () => {
  const device = await createDevice();
  const before = Date.now() - 2;
  await send(device, ['hello']);
  const after = Date.now() + 2;
  const [event] = await read(device, 1);
  const stamps = event.systemProperties;
  assert.equal(sender(event), device.deviceId);
  assert.equal(stamps['iothub-connection-auth-generation-id'], device.generationId);
  assert.equal(JSON.parse(stamps['iothub-connection-auth-method']).scope, 'device');
  assert.equal(stamps['iothub-message-source'], 'Telemetry');
  const enqueued = new Date(stamps['iothub-enqueuedtime']).getTime();
  assert.ok(before <= enqueued && enqueued <= after, `${before} ${enqueued} ${after}`);
  assert.ok(event.enqueuedTimeUtc instanceof Date && typeof event.sequenceNumber === 'number');
  assert.match(event.offset, /^\d+$/);
});

test('the body survives whatever it is', async () => {
  const device = await createDevice();
  const bodies = [Buffer.alloc(0), Buffer.from([0, 255, 254]), Buffer.from('größe'), Buffer.alloc(200_000, 7), Buffer.alloc(262_144, 9)];
  await connected(clientOf(device), async (client) => {
    for (const body of bodies) await client.sendEvent(new Message(body));
  });
  const events = await read(device, bodies.length);
  events.forEach((event, n) => assert.ok(Buffer.from(event.body).equals(bodies[n]), `body ${n}`));
});

test('messages sent without waiting for each other arrive in order', async () => {
  const device = await createDevice();
  const texts = Array.from({ length: 100 }, (_, n) => `${n}`);
  await connected(clientOf(device), (client) => Promise.all(texts.map((one) => client.sendEvent(new Message(one)))));
  assert.deepEqual((await read(device, 100)).map(text), texts);
});

test('a device sends over websockets', async () => {
  const device = await createDevice();
  await send(device, ['through port 443', 'y'.repeat(100_000)], { transport: MqttWs });
  assert.deepEqual((await read(device, 2)).map((event) => text(event).length), [16, 100_000]);
});

test('a module sends in its own name', async () => {
  const device = await createDevice();
  const module = (await registry.addModule({ deviceId: device.deviceId, moduleId: 'pump' })).responseBody;
  await connected(clientOf(device, { module }), async (client) => {
    await client.sendEvent(new Message('plain'));
    await client.sendOutputEvent('out1', new Message('output'));
  });
  const events = await read(device, 2);
  assert.deepEqual(events.map(text), ['plain', 'output']);
  assert.equal(events[0].systemProperties['iothub-connection-module-id'], 'pump');
});
