// A device that sends three messages: DEVICE_CONNECTION_STRING says which.
// Node trusts the hub's CA through the environment: NODE_EXTRA_CA_CERTS=data/ca.pem node device.js
const { Client, Message } = require('azure-iot-device');
// MqttWs of the same package goes through port 443.
const { Mqtt } = require('azure-iot-device-mqtt');

async function main() {
  const client = Client.fromConnectionString(process.env.DEVICE_CONNECTION_STRING, Mqtt);
  await client.open();
  for (let number = 0; number < 3; number++) {
    const message = new Message(JSON.stringify({ temperature: 20 + number }));
    // Says how to read the body; back ends get both as system properties.
    message.contentType = 'application/json';
    message.contentEncoding = 'utf-8';
    message.properties.add('room', 'kitchen');
    await client.sendEvent(message); // resolves when the hub has it on disk
    console.log(`sent ${message.getData()}`);
  }
  await client.close();
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
