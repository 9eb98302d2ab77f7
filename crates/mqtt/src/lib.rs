//! MQTT codec, topics and connection, without I/O.
