import static org.junit.jupiter.api.Assertions.assertEquals;

import com.microsoft.azure.sdk.iot.device.DeviceClient;
import com.microsoft.azure.sdk.iot.device.IotHubClientProtocol;
import com.microsoft.azure.sdk.iot.device.Message;
import com.microsoft.azure.sdk.iot.device.MultiplexingClient;
import com.microsoft.azure.sdk.iot.device.MultiplexingClientOptions;
import com.microsoft.azure.sdk.iot.device.twin.DirectMethodResponse;
import com.microsoft.azure.sdk.iot.service.methods.DirectMethodsClient;
import com.microsoft.azure.sdk.iot.service.registry.Device;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/** Several devices on one AMQP connection. */
class MultiplexingTest {
    private static final DirectMethodsClient METHODS = new DirectMethodsClient(HubUnderTest.policy("service"));
    private static final int DEVICES = 20;

    @ParameterizedTest
    @EnumSource(value = IotHubClientProtocol.class, names = {"AMQPS", "AMQPS_WS"})
    void devicesOfOneConnectionSendAndAnswer(IotHubClientProtocol protocol) throws Exception {
        MultiplexingClient connection = new MultiplexingClient(
            HubUnderTest.host(), protocol, MultiplexingClientOptions.builder().sslContext(HubUnderTest.TRUST).build());
        List<Device> devices = new ArrayList<>();
        List<DeviceClient> clients = new ArrayList<>();
        for (int number = 0; number < DEVICES; number++) {
            devices.add(HubUnderTest.create());
            clients.add(HubUnderTest.client(devices.get(number), protocol));
        }
        connection.registerDeviceClients(clients);
        connection.open(false);
        try (EventReader reader = new EventReader()) {
            for (DeviceClient client : clients) {
                client.sendEvent(new Message("first"));
                client.subscribeToMethods((name, payload, context) -> new DirectMethodResponse(200, name), null);
            }
            for (Device device : devices) {
                assertEquals("first", reader.waitFor(device.getDeviceId(), 1).get(0).getBodyAsString());
                assertEquals("ping", METHODS.invoke(device.getDeviceId(), "ping").getPayload(String.class));
            }

            // A device that leaves takes nothing of the others along.
            connection.unregisterDeviceClient(clients.get(0));
            clients.get(1).sendEvent(new Message("second"));
            assertEquals("second", reader.waitFor(devices.get(1).getDeviceId(), 2).get(1).getBodyAsString());
        } finally {
            connection.close();
        }
    }
}
