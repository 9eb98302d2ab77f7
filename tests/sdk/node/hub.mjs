// What the tests say about a hub: register, connect, send, read, all through the released SDKs.
// The harness has started the hub and set HOLDFAST_CONNECTION_FILE and NODE_EXTRA_CA_CERTS.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHmac, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';

const modules = process.env.HOLDFAST_NODE_MODULES ?? process.cwd();
export const require = createRequire(path.join(modules, 'package.json'));

export const { Client, Message, ModuleClient } = require('azure-iot-device');
export const { NoRetry } = require('azure-iot-common');
export const { Amqp, AmqpWs } = require('azure-iot-device-amqp');
export const { Mqtt, MqttWs } = require('azure-iot-device-mqtt');
export const { Http } = require('azure-iot-device-http');
export const { Client: ServiceClient, Registry } = require('azure-iothub');
export const eventHubs = require('@azure/event-hubs');

export const connection = JSON.parse(readFileSync(process.env.HOLDFAST_CONNECTION_FILE, 'utf8'));
export const TIMEOUT = Number(process.env.HOLDFAST_TEST_TIMEOUT ?? process.env.HOLDFAST_TEST_PATIENCE ?? 60) * 1000;
export const registry = Registry.fromConnectionString(connection.owner);

let numbers = 0;
export const unique = (prefix = 'dev') => `${prefix}-${++numbers}-${randomBytes(4).toString('hex')}`;

/** `Name=value;Name=value` as an object. */
export const fields = (text) =>
  Object.fromEntries(text.split(';').filter(Boolean).map((part) => [part.slice(0, part.indexOf('=')), part.slice(part.indexOf('=') + 1)]));

/** Waits for a condition, and says what it waited for when it never came. */
export async function until(condition, what, timeout = TIMEOUT) {
  const deadline = Date.now() + timeout;
  for (;;) {
    const value = await condition();
    if (value) return value;
    assert.ok(Date.now() < deadline, `waited ${timeout / 1000} s for ${what}`);
    await pause(20);
  }
}

/** Runs `holdfast …` against the hub and returns what it prints. */
export const cli = (...args) => execFileSync(process.env.HOLDFAST_BIN, args, { encoding: 'utf8' }).trim();

export function sasToken(resource, key, policy, expiry = Math.floor(Date.now() / 1000) + 3600) {
  const sr = encodeURIComponent(resource);
  const sig = createHmac('sha256', Buffer.from(key, 'base64')).update(`${sr}\n${expiry}`).digest('base64');
  return `SharedAccessSignature sr=${sr}&sig=${encodeURIComponent(sig)}&se=${expiry}` + (policy ? `&skn=${policy}` : '');
}

/** No SDK can: with Azure it is a management call. Ours is a REST call of its own. */
export async function addConsumerGroup(name) {
  const { HostName, SharedAccessKeyName, SharedAccessKey } = fields(connection.owner);
  const url = `https://${HostName}/holdfast/v1/consumerGroups/${name}?api-version=2021-04-12`;
  const headers = { Authorization: sasToken(HostName, SharedAccessKey, SharedAccessKeyName) };
  const answer = await fetch(url, { method: 'PUT', headers });
  assert.ok(answer.ok, `${answer.status} ${await answer.text()}`);
}

/** Registers a device with keys that the hub makes. */
export async function createDevice(deviceId = unique(), more = {}) {
  return (await registry.create({ deviceId, ...more })).responseBody;
}

export function connectionString(device, { key = 'primary', module } = {}) {
  const keys = (module ?? device).authentication.symmetricKey;
  const text = key === 'primary' ? keys.primaryKey : key === 'secondary' ? keys.secondaryKey : key;
  const part = module ? `ModuleId=${module.moduleId};` : '';
  return `HostName=${connection.hostName};DeviceId=${device.deviceId};${part}SharedAccessKey=${text}`;
}

/** A device or module client, not connected. Without retries it shows what the hub did, and when. */
export function clientOf(device, { transport = Mqtt, ...options } = {}) {
  const factory = options.module ? ModuleClient : Client;
  return quiet(factory.fromConnectionString(connectionString(device, options), transport));
}

export const clientWithToken = (token, transport = Mqtt) => quiet(Client.fromSharedAccessSignature(token, transport));

function quiet(client) {
  client.setRetryPolicy(new NoRetry());
  client.on('error', () => {});
  return client;
}

/** Connects, runs `act`, and closes whatever happens. */
export async function connected(client, act) {
  await client.open();
  try {
    return await act(client);
  } finally {
    await client.close().catch(() => {});
  }
}

export const send = (device, texts, options) =>
  connected(clientOf(device, options), async (client) => {
    for (const text of texts) await client.sendEvent(new Message(text));
  });

/** Connecting must fail for want of rights. */
export async function refused(client) {
  await assert.rejects(client.open(), (error) => {
    assert.match(`${error.name} ${error.message}`, /Unauthorized|Not authorized/i);
    return true;
  });
  await client.close().catch(() => {});
}

/** A promise for the end of a live connection. */
export const disconnection = (client) => new Promise((resolve) => client.on('disconnect', resolve));

export const consumer = (group = '$Default', text = connection.eventHub, options = {}) =>
  new eventHubs.EventHubConsumerClient(group, text, { retryOptions: { maxRetries: 0, timeoutInMs: 20_000 }, ...options });

/** Reads partitions until closed. `start` is the SDK's EventPosition. */
export class Reader {
  static async open({ group, start = eventHubs.earliestEventPosition, partitions, text, clientOptions, ...options } = {}) {
    const reader = new Reader();
    reader.events = [];
    reader.errors = [];
    reader.client = consumer(group, text, clientOptions);
    partitions ??= await reader.client.getPartitionIds();
    reader.subscriptions = partitions.map((partition) =>
      reader.client.subscribe(
        partition,
        {
          processEvents: async (events, context) => {
            for (const event of events) reader.events.push({ partition: context.partitionId, event });
          },
          processError: async (error) => void reader.errors.push(error),
        },
        { startPosition: start, maxWaitTimeInSeconds: 1, skipParsingBodyAsJson: true, ...options },
      ),
    );
    return reader;
  }

  of(deviceId) {
    return this.events.filter(({ event }) => sender(event) === deviceId).map(({ event }) => event);
  }

  partitionOf(deviceId) {
    const found = new Set(this.events.filter(({ event }) => sender(event) === deviceId).map(({ partition }) => partition));
    assert.equal(found.size, 1, `events of one device stand in partitions ${[...found]}`);
    return [...found][0];
  }

  async waitFor(deviceId, count) {
    try {
      await until(() => this.of(deviceId).length >= count, `${count} events of ${deviceId}`);
    } catch (error) {
      throw new Error(`${error.message}; there are ${this.of(deviceId).length}; errors: ${this.errors.map(String)}`);
    }
    return this.of(deviceId);
  }

  waitForError() {
    return until(() => this.errors[0], 'an error of the reader');
  }

  async close() {
    await Promise.all(this.subscriptions.map((subscription) => subscription.close().catch(() => {})));
    await this.client.close().catch(() => {});
  }
}

/** Opens a reader, runs `act`, and closes it whatever happens. */
export async function reading(options, act) {
  const reader = await Reader.open(options);
  try {
    return await act(reader);
  } finally {
    await reader.close();
  }
}

export const read = (device, count, options = {}) =>
  reading(options, (reader) => reader.waitFor(device.deviceId, count));

export const sender = (event) => event.systemProperties?.['iothub-connection-device-id'];
/** The body as text: with parsing off it is a Buffer. */
export const text = (event) => Buffer.from(event.body).toString();

/** A service client that is connected, for the time of `use`. */
export async function withService(use) {
  const service = ServiceClient.fromConnectionString(connection.service);
  await service.open();
  try {
    return await use(service);
  } finally {
    await service.close();
  }
}

/** The records of feedback about a device, as they come. */
export async function feedbackAbout(service, deviceId) {
  const records = [];
  const { result: receiver } = await service.getFeedbackReceiver();
  receiver.on('message', (message) => {
    const batch = JSON.parse(message.data.toString());
    records.push(...batch.filter((record) => record.deviceId === deviceId));
    receiver.complete(message, () => {});
  });
  receiver.on('errorReceived', () => {});
  return records;
}
