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

test('of two receivers one has feedback, and the other gets it when the first one ends without a word', async () => {
  const device = await createDevice();
  const services = [];
  const records = [[], []];
  const receiver = async (index, settles) => {
    services[index] = ServiceClient.fromConnectionString(connection.service);
    await services[index].open();
    const { result } = await services[index].getFeedbackReceiver();
    result.on('message', (one) => {
      const about = JSON.parse(one.data.toString()).filter((record) => record.deviceId === device.deviceId);
      records[index].push(...about);
      if (about.length === 0 || settles()) result.complete(one, () => {});
    });
    result.on('errorReceived', () => {});
  };
  let settles = false;
  try {
    await Promise.all([0, 1].map((index) => receiver(index, () => settles)));
    await services[0].send(device.deviceId, message('x', { messageId: 'shared', ack: 'negative' }));
    cli('c2d', 'purge', device.deviceId);
    await until(() => records[0].length + records[1].length === 1, 'the record, at one of them');
    await new Promise((resolve) => setTimeout(resolve, 3000));
    assert.equal(records[0].length + records[1].length, 1, 'it is locked');
    const [holder, other] = records[0].length === 1 ? [0, 1] : [1, 0];
    settles = true;
    await services[holder].close();
    await until(() => records[other].length === 1, 'the record, at the other one');
    assert.equal(records[other][0].originalMessageId, 'shared');
  } finally {
    await Promise.all(services.map((service) => service.close().catch(() => {})));
  }
});
