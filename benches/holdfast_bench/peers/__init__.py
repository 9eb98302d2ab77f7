"""One file per server: how it is had, configured as durable as it can be made, started and named."""
