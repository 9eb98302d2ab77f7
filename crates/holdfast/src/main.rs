//! The Holdfast IoT hub.

fn main() {}
