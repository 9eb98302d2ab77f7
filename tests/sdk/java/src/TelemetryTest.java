import static org.junit.jupiter.api.Assertions.assertEquals;

import com.azure.messaging.eventhubs.EventData;
import com.microsoft.azure.sdk.iot.device.DeviceClient;
import com.microsoft.azure.sdk.iot.device.IotHubClientProtocol;
import com.microsoft.azure.sdk.iot.device.Message;
import com.microsoft.azure.sdk.iot.device.ModuleClient;
import com.microsoft.azure.sdk.iot.service.registry.Device;
import com.microsoft.azure.sdk.iot.service.registry.Module;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** What arrives of what a device or module has sent. */
class TelemetryTest {
    @ParameterizedTest
    @MethodSource("Transports#sending")
    void aMessageArrivesWithItsProperties(IotHubClientProtocol protocol) throws Exception {
        Device device = HubUnderTest.create();
        DeviceClient client = HubUnderTest.client(device, protocol);
        client.open(false);
        try {
            Message message = new Message("{\"temperature\":21}");
            message.setMessageId("m-1");
            message.setCorrelationId("c-1");
            message.setContentType("application/json");
            message.setContentEncoding("utf-8");
            message.setProperty("level", "low & high");
            client.sendEvent(message);
        } finally {
            client.close();
        }
        try (EventReader reader = new EventReader()) {
            EventData event = reader.waitFor(device.getDeviceId(), 1).get(0);
            assertEquals("{\"temperature\":21}", event.getBodyAsString());
            assertEquals("low & high", event.getProperties().get("level"));
            assertEquals("m-1", event.getMessageId());
            assertEquals("c-1", event.getCorrelationId());
            assertEquals("application/json", event.getContentType());
            assertEquals("utf-8", String.valueOf(event.getSystemProperties().get("content-encoding")));
        }
    }

    @ParameterizedTest
    @MethodSource("Transports#sending")
    void aBatchArrivesInOrder(IotHubClientProtocol protocol) throws Exception {
        Device device = HubUnderTest.create();
        DeviceClient client = HubUnderTest.client(device, protocol);
        client.open(false);
        List<String> sent = new ArrayList<>();
        try {
            for (int number = 0; number < 20; number++) {
                String text = "message " + number;
                sent.add(text);
                client.sendEvent(new Message(text));
            }
        } finally {
            client.close();
        }
        try (EventReader reader = new EventReader()) {
            List<String> read = new ArrayList<>();
            reader.waitFor(device.getDeviceId(), sent.size()).forEach(event -> read.add(event.getBodyAsString()));
            assertEquals(sent, read);
        }
    }

    @ParameterizedTest
    @MethodSource("Transports#connected")
    void aModuleSends(IotHubClientProtocol protocol) throws Exception {
        Device device = HubUnderTest.create();
        Module module = HubUnderTest.createModule(device);
        ModuleClient client = HubUnderTest.client(module, protocol);
        client.open(false);
        try {
            client.sendEvent(new Message("of a module"));
        } finally {
            client.close();
        }
        try (EventReader reader = new EventReader()) {
            EventData event = reader.waitFor(device.getDeviceId(), 1).get(0);
            assertEquals("of a module", event.getBodyAsString());
            assertEquals(module.getId(), String.valueOf(event.getSystemProperties().get("iothub-connection-module-id")));
        }
    }
}
