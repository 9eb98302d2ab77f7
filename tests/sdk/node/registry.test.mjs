// Identities through azure-iothub: create, read, update, delete, bulk, statistics, rights.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Registry, connection, createDevice, registry, unique } from './hub.mjs';

const KEY = (letter) => Buffer.alloc(32, letter).toString('base64');

const fails = (promise, name) =>
  assert.rejects(promise, (error) => {
    assert.equal(error.name, name, `${error.name}: ${error.message}`);
    return true;
  });

test('a device is created with generated keys and read back', async () => {
  const device = await createDevice();
  assert.equal(device.status, 'enabled');
  assert.equal(Buffer.from(device.authentication.symmetricKey.primaryKey, 'base64').length, 32);
  const read = (await registry.get(device.deviceId)).responseBody;
  assert.deepEqual({ ...read }, { ...device });
});

test('creating twice, getting the unknown and a stale update are the errors that the SDK names', async () => {
  const device = await createDevice();
  await fails(registry.create({ deviceId: device.deviceId }), 'DeviceAlreadyExistsError');
  await fails(registry.get(unique('nobody')), 'DeviceNotFoundError');
  await fails(registry.delete(unique('nobody')), 'DeviceNotFoundError');
  const changed = (await registry.update({ ...device, status: 'disabled' })).responseBody;
  assert.equal(changed.status, 'disabled');
  assert.notEqual(changed.etag, device.etag);
});

test('a deleted device is gone and its successor has another generation', async () => {
  const device = await createDevice();
  await registry.delete(device.deviceId);
  await fails(registry.get(device.deviceId), 'DeviceNotFoundError');
  assert.notEqual((await createDevice(device.deviceId)).generationId, device.generationId);
});

test('devices are listed', async () => {
  const device = await createDevice();
  const listed = (await registry.list()).responseBody;
  assert.ok(listed.some((one) => one.deviceId === device.deviceId));
});

test('modules are created, listed, changed and removed', async () => {
  const { deviceId } = await createDevice();
  await registry.addModule({ deviceId, moduleId: 'm1' });
  await registry.addModule({ deviceId, moduleId: 'm2', managedBy: 'someone' });
  const listed = (await registry.getModulesOnDevice(deviceId)).responseBody;
  assert.deepEqual(listed.map((module) => module.moduleId), ['m1', 'm2']);
  const module = (await registry.getModule(deviceId, 'm2')).responseBody;
  assert.equal(module.managedBy, 'someone');
  module.authentication.symmetricKey = { primaryKey: KEY('a'), secondaryKey: KEY('b') };
  const changed = (await registry.updateModule(module)).responseBody;
  assert.equal(changed.authentication.symmetricKey.primaryKey, KEY('a'));
  await registry.removeModule(deviceId, 'm1');
  await assert.rejects(registry.getModule(deviceId, 'm1'));
});

test('bulk adds, updates and removes; failures are reported one by one', async () => {
  const names = Array.from({ length: 10 }, () => unique('bulk'));
  const added = await registry.addDevices(names.map((deviceId) => ({ deviceId })));
  assert.equal(added.responseBody.isSuccessful, true);
  const devices = await Promise.all(names.map(async (name) => (await registry.get(name)).responseBody));
  const updated = await registry.updateDevices(devices.map((device) => ({ ...device, status: 'disabled' })), true);
  assert.equal(updated.responseBody.isSuccessful, true);
  assert.equal((await registry.get(names[3])).responseBody.status, 'disabled');
  // The SDK reads the 400 of a partial failure as an error, with the list in its body.
  await assert.rejects(registry.addDevices([{ deviceId: names[0] }, { deviceId: unique('bulk') }]));
  const removed = await registry.removeDevices(names.map((deviceId) => ({ deviceId })), true);
  assert.equal(removed.responseBody.isSuccessful, true);
  await fails(registry.get(names[0]), 'DeviceNotFoundError');
});

test('statistics count devices', async () => {
  const before = (await registry.getRegistryStatistics()).responseBody;
  await createDevice();
  const after = (await registry.getRegistryStatistics()).responseBody;
  assert.ok(after.totalDeviceCount > before.totalDeviceCount);
});

test('policies without the right, and wrong keys, are unauthorized', async () => {
  const { deviceId } = await createDevice();
  assert.equal((await Registry.fromConnectionString(connection.registryRead).get(deviceId)).responseBody.deviceId, deviceId);
  await fails(Registry.fromConnectionString(connection.registryRead).create({ deviceId: unique() }), 'UnauthorizedError');
  await fails(Registry.fromConnectionString(connection.service).get(deviceId), 'UnauthorizedError');
  const wrong = `HostName=${connection.hostName};SharedAccessKeyName=iothubowner;SharedAccessKey=${KEY('x')}`;
  await fails(Registry.fromConnectionString(wrong).get(deviceId), 'UnauthorizedError');
});
