//! AMQP 1.0 types, codec and connection engine, without I/O.
