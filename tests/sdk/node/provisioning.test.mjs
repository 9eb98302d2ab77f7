// Devices that register with the provisioning service, and back ends that enroll them, through the released SDKs.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHmac, randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { Client, Message, Mqtt, connection, require, unique } from './hub.mjs';

const { ProvisioningDeviceClient } = require('azure-iot-provisioning-device');
const { Http } = require('azure-iot-provisioning-device-http');
const { Amqp: ProvisioningAmqp, AmqpWs: ProvisioningAmqpWs } = require('azure-iot-provisioning-device-amqp');
const { Mqtt: ProvisioningMqtt, MqttWs: ProvisioningMqttWs } = require('azure-iot-provisioning-device-mqtt');
const { X509Security } = require('azure-iot-security-x509');
const { SymmetricKeySecurityClient } = require('azure-iot-security-symmetric-key');
const { ProvisioningServiceClient } = require('azure-iot-provisioning-service');

const { endpoint, idScope, service: login } = connection.provisioning;
const service = ProvisioningServiceClient.fromConnectionString(login);
const key = () => randomBytes(64).toString('base64');
const derived = (group, id) => createHmac('sha256', Buffer.from(group, 'base64')).update(id).digest('base64');
const body = (answer) => answer.responseBody ?? answer;
// Without a callback, azure-iot-provisioning-service 1.11.2 never settles this one's promise.
const bulk = (operation) =>
  new Promise((resolve, reject) => {
    service.runBulkEnrollmentOperation(operation, (error, result) => (error ? reject(error) : resolve(result)));
  });

const register = (id, deviceKey, Transport) =>
  ProvisioningDeviceClient.create(endpoint, idScope, new Transport(), new SymmetricKeySecurityClient(id, deviceKey)).register();

const group = async (groupKey) => {
  const enrollmentGroupId = unique('group');
  await service.createOrUpdateEnrollmentGroup({
    enrollmentGroupId,
    attestation: { type: 'symmetricKey', symmetricKey: { primaryKey: groupKey, secondaryKey: key() } },
    initialTwin: { tags: { line: 7 }, properties: { desired: {} } },
  });
  return enrollmentGroupId;
};

const TRANSPORTS = [
  ['HTTP', Http],
  ['MQTT', ProvisioningMqtt],
  ['MQTT over WebSockets', ProvisioningMqttWs],
  ['AMQP', ProvisioningAmqp],
  ['AMQP over WebSockets', ProvisioningAmqpWs],
];

/** A new key and a certificate of it for itself, with this common name. */
function selfSigned(name) {
  const folder = mkdtempSync(path.join(tmpdir(), 'cert-'));
  const [keyFile, certFile] = ['key.pem', 'cert.pem'].map((file) => path.join(folder, file));
  const more = ['-keyout', keyFile, '-out', certFile, '-subj', `/CN=${name}`];
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', ...more], { stdio: 'ignore' });
  const pair = { key: readFileSync(keyFile, 'utf8'), cert: readFileSync(certFile, 'utf8') };
  rmSync(folder, { recursive: true });
  return pair;
}

for (const [name, Transport] of TRANSPORTS) {
  test(`a device with a certificate registers over ${name} and connects`, async () => {
    const id = unique('cert');
    const pair = selfSigned(id);
    await service.createOrUpdateIndividualEnrollment({
      registrationId: id,
      attestation: { type: 'x509', x509: { clientCertificates: { primary: { certificate: pair.cert } } } },
    });
    const security = new X509Security(id, pair);
    const result = await ProvisioningDeviceClient.create(endpoint, idScope, new Transport(), security).register();
    assert.deepEqual([result.status, result.deviceId], ['assigned', id]);
    const client = Client.fromConnectionString(`HostName=${result.assignedHub};DeviceId=${id};x509=true`, Mqtt);
    client.setOptions(pair);
    await client.open();
    await client.close();
    const other = ProvisioningDeviceClient.create(endpoint, idScope, new Transport(), new X509Security(id, selfSigned(id)));
    await assert.rejects(other.register(), 'the certificate of another key');
  });

  test(`a device of a group registers over ${name} and connects`, async () => {
    const groupKey = key();
    await group(groupKey);
    const id = unique('sn');
    const result = await register(id, derived(groupKey, id), Transport);
    assert.equal(result.status, 'assigned');
    assert.deepEqual([result.assignedHub, result.deviceId], [connection.hostName, id]);
    const text = `HostName=${result.assignedHub};DeviceId=${id};SharedAccessKey=${derived(groupKey, id)}`;
    const client = Client.fromConnectionString(text, Mqtt);
    await client.open();
    await client.sendEvent(new Message('provisioned'));
    await client.close();
  });

  test(`a wrong key is refused over ${name}`, async () => {
    await assert.rejects(register(unique('sn'), key(), Transport), (error) =>
      // An outcome of SASL has no text: the SDK words the refusal.
      /Unauthorized|Failed to authenticate/i.test([error.name, error.message, error.condition].join(' ')),
    );
  });
}

test('enrollments are created, read, changed, listed and deleted', async () => {
  const registrationId = unique('reg');
  const stored = body(
    await service.createOrUpdateIndividualEnrollment({
      registrationId,
      deviceId: unique('thing'),
      attestation: { type: 'symmetricKey', symmetricKey: { primaryKey: key(), secondaryKey: key() } },
    }),
  );
  assert.equal(stored.provisioningStatus, 'enabled');
  const read = body(await service.getIndividualEnrollment(registrationId));
  assert.equal(read.etag, stored.etag);
  const keys = body(await service.getIndividualEnrollmentAttestationMechanism(registrationId));
  assert.equal(keys.type, 'symmetricKey');
  assert.ok(keys.symmetricKey.primaryKey);
  const changed = body(await service.createOrUpdateIndividualEnrollment({ ...read, provisioningStatus: 'disabled' }));
  assert.equal(changed.provisioningStatus, 'disabled');
  await assert.rejects(service.createOrUpdateIndividualEnrollment({ ...read, provisioningStatus: 'enabled' }));
  const query = service.createIndividualEnrollmentQuery({ query: 'SELECT * FROM enrollments' }, 2);
  const found = [];
  do {
    found.push(...body(await query.next(query.continuationToken)).map((row) => row.registrationId));
  } while (query.hasMoreResults);
  assert.ok(found.includes(registrationId));
  await service.deleteIndividualEnrollment(registrationId);
  await assert.rejects(service.getIndividualEnrollment(registrationId));
});

test('bulk calls report what failed', async () => {
  const enrollments = [1, 2].map(() => ({
    registrationId: unique('bulk'),
    attestation: { type: 'symmetricKey', symmetricKey: { primaryKey: key(), secondaryKey: key() } },
  }));
  const done = await bulk({ mode: 'create', enrollments });
  assert.equal(done.isSuccessful, true);
  const again = await bulk({ mode: 'create', enrollments });
  assert.deepEqual([again.isSuccessful, again.errors.length, again.errors[0].errorCode], [false, 2, 409201]);
  assert.equal((await bulk({ mode: 'delete', enrollments })).isSuccessful, true);
});

test('the registration of a device is read and deleted', async () => {
  const groupKey = key();
  const groupId = await group(groupKey);
  const id = unique('sn');
  await register(id, derived(groupKey, id), Http);
  const state = body(await service.getDeviceRegistrationState(id));
  assert.deepEqual([state.status, state.assignedHub], ['assigned', connection.hostName]);
  const query = service.createEnrollmentGroupDeviceRegistrationStateQuery({ query: 'SELECT *' }, groupId, 10);
  assert.deepEqual(body(await query.next(query.continuationToken)).map((row) => row.registrationId), [id]);
  await service.deleteDeviceRegistrationState(id);
  await assert.rejects(service.getDeviceRegistrationState(id));
});
