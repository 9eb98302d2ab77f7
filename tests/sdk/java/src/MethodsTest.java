import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.microsoft.azure.sdk.iot.device.DeviceClient;
import com.microsoft.azure.sdk.iot.device.IotHubClientProtocol;
import com.microsoft.azure.sdk.iot.device.ModuleClient;
import com.microsoft.azure.sdk.iot.device.twin.DirectMethodResponse;
import com.microsoft.azure.sdk.iot.service.exceptions.IotHubNotFoundException;
import com.microsoft.azure.sdk.iot.service.methods.DirectMethodRequestOptions;
import com.microsoft.azure.sdk.iot.service.methods.DirectMethodsClient;
import com.microsoft.azure.sdk.iot.service.registry.Device;
import com.microsoft.azure.sdk.iot.service.registry.Module;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** Direct methods of devices and modules. */
class MethodsTest {
    private static final DirectMethodsClient METHODS = new DirectMethodsClient(HubUnderTest.policy("service"));

    @ParameterizedTest
    @MethodSource("Transports#connected")
    void aDeviceAnswers(IotHubClientProtocol protocol) throws Exception {
        Device device = HubUnderTest.create();
        DeviceClient client = HubUnderTest.client(device, protocol);
        client.open(false);
        try {
            client.subscribeToMethods(
                (name, payload, context) -> new DirectMethodResponse(201, name + " " + payload.getPayload(Integer.class)), null);
            var answer = METHODS.invoke(device.getDeviceId(), "blink", with(3));
            assertEquals(201, answer.getStatus());
            assertEquals("blink 3", answer.getPayload(String.class));
        } finally {
            client.close();
        }
    }

    @ParameterizedTest
    @MethodSource("Transports#connected")
    void aModuleAnswers(IotHubClientProtocol protocol) throws Exception {
        Device device = HubUnderTest.create();
        Module module = HubUnderTest.createModule(device);
        ModuleClient client = HubUnderTest.client(module, protocol);
        client.open(false);
        try {
            client.subscribeToMethods((name, payload, context) -> new DirectMethodResponse(200, name), null);
            var answer = METHODS.invoke(device.getDeviceId(), module.getId(), "ping", with(0));
            assertEquals("ping", answer.getPayload(String.class));
        } finally {
            client.close();
        }
    }

    @Test
    void aDeviceThatIsNotConnectedIsSaidToBeOffline() throws Exception {
        Device device = HubUnderTest.create();
        // The SDK's default waits 200 s for the device, longer than its own HTTP call takes.
        DirectMethodRequestOptions atOnce = DirectMethodRequestOptions.builder().methodConnectTimeoutSeconds(0).build();
        IotHubNotFoundException refused =
            assertThrows(IotHubNotFoundException.class, () -> METHODS.invoke(device.getDeviceId(), "blink", atOnce));
        assertTrue(refused.getMessage().contains("DeviceNotOnline"), refused.getMessage());
    }

    private static DirectMethodRequestOptions with(Object payload) {
        return DirectMethodRequestOptions.builder().payload(payload).methodResponseTimeoutSeconds(30).build();
    }
}
