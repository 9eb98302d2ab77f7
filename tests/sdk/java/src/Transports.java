import com.microsoft.azure.sdk.iot.device.IotHubClientProtocol;
import java.util.stream.Stream;

/** The transports of the device SDK, by what they can do. */
final class Transports {
    private Transports() {}

    /** Everything that sends. */
    static Stream<IotHubClientProtocol> all() {
        return Stream.of(IotHubClientProtocol.MQTT, IotHubClientProtocol.MQTT_WS);
    }

    /** What keeps a connection: methods, twins, messages that are pushed. */
    static Stream<IotHubClientProtocol> connected() {
        return all().filter(protocol -> protocol != IotHubClientProtocol.HTTPS);
    }
}
