// Devices with a TPM: the SDK's security client over a software TPM registers, and its signatures open the hub.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Amqp, Message, Mqtt, clientWithToken, connection, require, unique } from './hub.mjs';
import { hasSoftwareTpm, softwareTpm } from './tpm.mjs';

const { ProvisioningDeviceClient } = require('azure-iot-provisioning-device');
const { Amqp: ProvisioningAmqp, AmqpWs: ProvisioningAmqpWs } = require('azure-iot-provisioning-device-amqp');
const { Http } = require('azure-iot-provisioning-device-http');
const { ProvisioningServiceClient } = require('azure-iot-provisioning-service');
const { TpmSecurityClient } = require('azure-iot-security-tpm');

const { endpoint, idScope, service: login } = connection.provisioning;
const service = ProvisioningServiceClient.fromConnectionString(login);
const skip = hasSoftwareTpm() ? false : 'swtpm is not installed';

async function register(security, Transport) {
  const transport = new Transport();
  try {
    return await ProvisioningDeviceClient.create(endpoint, idScope, transport, security).register();
  } finally {
    // After a refusal, the SDK leaves its connection to the hub, and throws when the hub closes it.
    await new Promise((resolve) => {
      transport.disconnect(resolve);
    });
  }
}

const called = (security, method, ...values) =>
  new Promise((resolve, reject) => {
    security[method](...values, (error, value) => (error ? reject(error) : resolve(value)));
  });

async function enroll(registrationId, endorsementKey) {
  await service.createOrUpdateIndividualEnrollment({
    registrationId,
    attestation: { type: 'tpm', tpm: { endorsementKey: endorsementKey.toString('base64') } },
  });
}

/** Sends a message with a token that the TPM signs. */
async function send(security, { assignedHub, deviceId }, Transport) {
  const sr = encodeURIComponent(`${assignedHub}/devices/${deviceId}`);
  const se = Math.floor(Date.now() / 1000) + 3600;
  const sig = (await called(security, 'signWithIdentity', Buffer.from(`${sr}\n${se}`))).toString('base64');
  const token = `SharedAccessSignature sr=${sr}&sig=${encodeURIComponent(sig)}&se=${se}`;
  const client = clientWithToken(token, Transport);
  await client.open();
  await client.sendEvent(new Message('signed in the TPM'));
  await client.close();
}

test('a TPM registers over HTTP, AMQP and its WebSocket, and opens the hub', { skip }, async () => {
  const tpm = await softwareTpm();
  try {
    const id = unique('tpm');
    const security = new TpmSecurityClient(id, tpm.tpm());
    await enroll(id, await called(security, 'getEndorsementKey'));
    for (const [Transport, Hub] of [[Http, Mqtt], [ProvisioningAmqp, Amqp], [ProvisioningAmqpWs, Mqtt]]) {
      // Of a TPM, the SDK passes the service's answer on as it is.
      const { status, registrationState: result } = await register(security, Transport);
      assert.deepEqual([status, result.assignedHub, result.deviceId], ['assigned', connection.hostName, id]);
      await send(security, result, Hub);
    }
    const enrollment = await service.getIndividualEnrollment(id);
    assert.equal((enrollment.responseBody ?? enrollment).attestation.type, 'tpm');
  } finally {
    tpm.stop();
  }
});

test('a TPM without an enrollment, and another one than the enrollment names, are refused', { skip }, async () => {
  const [own, foreign] = [await softwareTpm(), await softwareTpm()];
  try {
    const id = unique('tpm');
    const security = new TpmSecurityClient(id, foreign.tpm());
    for (const Transport of [Http, ProvisioningAmqp]) await assert.rejects(register(security, Transport));
    await enroll(id, await called(new TpmSecurityClient(id, own.tpm()), 'getEndorsementKey'));
    for (const Transport of [Http, ProvisioningAmqp]) await assert.rejects(register(security, Transport));
  } finally {
    own.stop();
    foreign.stop();
  }
});
