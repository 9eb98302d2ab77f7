// Cloud-to-device messages: a back end sends through the service SDK, the device SDK receives, and the back end hears of it.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { cli, clientOf, connected, createDevice, feedbackAbout, require, until, withService } from './hub.mjs';

const { Message } = require('azure-iot-common');

/** What the client receives; each message is completed. */
function receiving(client) {
  const received = [];
  client.on('message', (message) => {
    received.push(message);
    client.complete(message, () => {});
  });
  return received;
}

const message = (text, options = {}) => Object.assign(new Message(text), options);

test('a message comes with its properties, and its sender hears that it was completed', async () => {
  const device = await createDevice();
  await withService(async (service) => {
    const records = await feedbackAbout(service, device.deviceId);
    await connected(clientOf(device), async (client) => {
      const received = receiving(client);
      const sent = message('hello', { messageId: 'm1', correlationId: 'c1', ack: 'full', contentType: 'text/plain', expiryTimeUtc: Date.now() + 600_000 });
      sent.properties.add('a b', 'c&d=e/é');
      await service.send(device.deviceId, sent);
      await until(() => received.length === 1, 'the message');
      assert.equal(received[0].getData().toString(), 'hello');
      assert.equal(received[0].messageId, 'm1');
      assert.equal(received[0].correlationId, 'c1');
      assert.equal(received[0].contentType, 'text/plain');
      assert.equal(received[0].properties.getValue('a b'), 'c&d=e/é');
      await until(() => records.length === 1, 'its feedback');
      assert.equal(records[0].originalMessageId, 'm1');
      assert.equal(records[0].statusCode, 'Success');
    });
  });
});

test('messages sent at once come in their order', async () => {
  const device = await createDevice();
  await withService(async (service) => {
    await Promise.all(Array.from({ length: 40 }, (_, number) => service.send(device.deviceId, message(String(number)))));
    await connected(clientOf(device), async (client) => {
      const received = receiving(client);
      await until(() => received.length === 40, 'all messages');
      assert.deepEqual(received.map((one) => one.getData().toString()), Array.from({ length: 40 }, (_, number) => String(number)));
    });
  });
});

test('refusals have the names that the SDK knows', async () => {
  const device = await createDevice();
  await withService(async (service) => {
    await assert.rejects(service.send('nobody-here', message('x')), (error) => error.name === 'DeviceNotFoundError');
    for (let number = 0; number < 50; number++) await service.send(device.deviceId, message('x'));
    await assert.rejects(service.send(device.deviceId, message('x')), (error) => error.name === 'DeviceMaximumQueueDepthExceededError');
    const disabled = await createDevice(undefined, { status: 'disabled' });
    await assert.rejects(service.send(disabled.deviceId, message('x')));
    assert.equal(JSON.parse(cli('c2d', 'purge', device.deviceId)).totalMessagesPurged, 50);
  });
});

test('feedback that nobody has taken waits, and feedback of a purge says so', async () => {
  const device = await createDevice();
  await withService(async (service) => {
    await service.send(device.deviceId, message('x', { messageId: 'purged', ack: 'negative' }));
    cli('c2d', 'purge', device.deviceId);
  });
  await withService(async (service) => {
    const records = await feedbackAbout(service, device.deviceId);
    await until(() => records.length === 1, 'its feedback');
    assert.deepEqual([records[0].originalMessageId, records[0].statusCode], ['purged', 'Purged']);
  });
});
