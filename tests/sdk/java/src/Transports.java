import com.microsoft.azure.sdk.iot.device.IotHubClientProtocol;
import java.util.stream.Stream;

/** The transports of the device SDK, by what they can do. */
final class Transports {
    private Transports() {}

    /** What sends for devices. */
    static Stream<IotHubClientProtocol> sending() {
        return Stream.concat(connected(), Stream.of(IotHubClientProtocol.HTTPS));
    }

    /** What keeps a connection: modules, methods, twins, messages that are pushed. */
    static Stream<IotHubClientProtocol> connected() {
        return Stream.of(
            IotHubClientProtocol.MQTT, IotHubClientProtocol.MQTT_WS, IotHubClientProtocol.AMQPS, IotHubClientProtocol.AMQPS_WS);
    }
}
