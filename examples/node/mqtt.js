// A device without an SDK, in Node with mqtt.js: sends a message, and prints what the hub sends to it.
// DEVICE_CONNECTION_STRING says which device; NODE_EXTRA_CA_CERTS names the hub's CA. TRANSPORT=wss goes through port 443.
const { createHmac } = require('node:crypto');
const mqtt = require('mqtt');

const parts = Object.fromEntries(process.env.DEVICE_CONNECTION_STRING.split(';').map((part) => part.split(/=(.*)/s)));
const { HostName: host, DeviceId: device, SharedAccessKey: key } = parts;

/** The password: the resource and the time of expiry, signed with the device's key. */
function token(seconds = 3600) {
  const resource = encodeURIComponent(`${host}/devices/${device}`);
  const expiry = Math.floor(Date.now() / 1000) + seconds;
  const signature = createHmac('sha256', Buffer.from(key, 'base64')).update(`${resource}\n${expiry}`).digest('base64');
  return `SharedAccessSignature sr=${resource}&sig=${encodeURIComponent(signature)}&se=${expiry}`;
}

const url = process.env.TRANSPORT === 'wss' ? `wss://${host}/$iothub/websocket` : `mqtts://${host}:8883`;
const client = mqtt.connect(url, {
  clientId: device,
  username: `${host}/${device}/?api-version=2021-04-12`,
  password: token(),
  protocolVersion: 4, // MQTT 3.1.1
});

client.on('connect', async () => {
  await client.subscribeAsync(`devices/${device}/messages/devicebound/#`, { qos: 1 });
  // The properties of a message are the end of its topic.
  const topic = `devices/${device}/messages/events/room=kitchen&%24.ct=application%2Fjson&%24.ce=utf-8`;
  await client.publishAsync(topic, JSON.stringify({ temperature: 20 }), { qos: 1 }); // the hub has it on disk
  console.log('sent');
});
client.on('message', (topic, payload) => {
  console.log(`${topic} ${payload}`);
  if (process.argv.includes('--once')) client.end();
});
client.on('error', (error) => {
  console.error(error.message);
  process.exitCode = 1;
  client.end();
});
